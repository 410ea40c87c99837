"""Where people look: no secret is in a view, an entry of an export, a log line or a table."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import msgspec
import pytest

from nebula.cli import logs, tables
from nebula.cli.log_lines import ShownFormatter
from nebula.events.clear_secrets import in_clear
from nebula.events.evolve import evolve
from nebula.events.intents import ModelLoadRequested
from nebula.events.masking import MASK, secret_name
from nebula.events.record import Entry, read_entry
from nebula.events.showing import entry_without_secrets
from nebula.events.state import EMPTY
from nebula.events.vocabulary import TYPES
from nebula.history.description import describe
from nebula.history.difference import differences
from nebula.http.views import event_view, state_view
from nebula.store.archive import Reader, Writer

SPEC = {
    "source": "org/m",
    "env": {"HF_TOKEN": "SECRET123", "A": "b\x1b[31mred"},
    "options": {"hf-token": "SECRET123", "max-model-len": 4096},
}


def loaded(seq: int, **fields: object) -> Entry:
    body = msgspec.json.encode(SPEC | fields)
    return Entry(seq, seq * 10**9, "nebula.events.model.m.ModelLoadRequested", b"", body)


def test_no_view_tells_a_secret_or_speaks_to_a_terminal() -> None:
    record = read_entry(loaded(1))
    state = evolve(EMPTY, record)
    changed = evolve(state, read_entry(loaded(2, env={"HF_TOKEN": "OTHER456"})))
    found = differences(state, changed)
    assert [each.field for each in found] == ["env"]
    for view in (event_view(record), state_view(state), found, differences(EMPTY, state)):
        text = msgspec.json.encode(view).decode()
        assert "SECRET123" not in text
        assert "OTHER456" not in text
        assert "\\u001b" not in text
        assert MASK in text
    assert "\x1b" not in describe(record)
    assert state.models["m"].spec.env == SPEC["env"]


def test_an_entry_is_exported_without_its_secrets_and_else_as_it_is() -> None:
    entry = entry_without_secrets(loaded(1))
    assert b"SECRET123" not in entry.body
    spec = read_entry(entry).content
    assert isinstance(spec, ModelLoadRequested)
    assert spec.options == {"hf-token": MASK, "max-model-len": 4096}
    plain = loaded(1, env={}, options={})
    assert entry_without_secrets(plain) is plain
    broken = Entry(
        1, 0, "nebula.events.model.m.ModelLoadRequested", b"", b'{"HF_TOKEN":"SECRET123"'
    )
    assert entry_without_secrets(broken).body == b'{"HF_TOKEN":"***"'
    odd = Entry(1, 0, "x", b"", b"\xff\x00 password=SECRET123")
    assert entry_without_secrets(odd).body == b"\xff\x00 password=***"


def test_a_file_says_whether_its_secrets_are_masked(tmp_path: Path) -> None:
    for masked in (False, True):
        writer = Writer(1, masked=masked)
        path = tmp_path / "log.jsonl"
        path.write_bytes(writer.head + writer.line(loaded(1)))
        with path.open("rb") as file:
            assert Reader(file, "log").head.masked == masked
    assert Writer(1).head.startswith(b'{"nebula":"log","format":1,"last":1,"chain":"')


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_no_field_of_an_event_has_the_name_of_a_secret(kind: str) -> None:
    assert not any(
        map(secret_name, msgspec.structs.fields(TYPES[kind]) and TYPES[kind].__struct_fields__)
    )


def test_log_lines_and_messages_tell_no_secret() -> None:
    line = logging.LogRecord(
        "x", logging.INFO, "", 0, "starting m-0: %s \x1b]0;t\x07", ("--hf-token=SECRET123",), None
    )
    assert ShownFormatter("%(message)s").format(line) == "starting m-0: --hf-token=*** "


def test_nothing_in_a_message_makes_a_log_line_of_its_own() -> None:
    words = "--x=\n2026-11-28 ERROR nebula: forged\r\nagain"
    line = logging.LogRecord("x", logging.INFO, "", 0, "starting: %s", (words,), None)
    written = ShownFormatter("%(message)s").format(line)
    assert written == "starting: --x=\\n2026-11-28 ERROR nebula: forged\\nagain"


def test_a_traceback_in_the_log_keeps_its_lines() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        line = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    assert len(ShownFormatter("%(message)s").format(line).splitlines()) > 3


def test_a_console_shows_no_secret_and_no_escape(capsys: pytest.CaptureFixture[str]) -> None:
    output = tables.console()
    output.print("at nats://u:SECRET123@h \x9b31mred[bold]x[/bold]")
    table = tables.columns("A", "B")
    table.add_row("HF_TOKEN=SECRET123", tables.escape("y" * 1000 + "\x1b[31m\nz"))
    output.print(table)
    said = capsys.readouterr().out
    assert "SECRET123" not in said
    assert not {"\x1b", "\x9b"} & set(said)
    assert "at nats://***@h redx" in said
    assert said.count("y") == tables.LONGEST_CELL - 1


@pytest.mark.parametrize("text", ["--api-key abc", "x HF_TOKEN=abc", "https://h?token=abc"])
def test_a_secret_at_the_end_of_a_coloured_text_takes_no_tag_with_it(text: str) -> None:
    said = io.StringIO()
    output = tables.console()
    output.file = said
    output.print(f"[dim]{text}[/dim][bold]{text}[/bold] \\[dim]")
    assert "abc" not in said.getvalue()
    assert said.getvalue().count(MASK) == 2
    assert said.getvalue().rstrip().endswith(" [dim]")


def test_a_mask_is_not_taken_for_a_secret() -> None:
    assert "that stands for one" in (
        in_clear(ModelLoadRequested("m", env={"HF_TOKEN": MASK})) or ""
    )
    assert in_clear(ModelLoadRequested("m", env={"A": "b"})) is None


def test_json_for_programs_has_none_either(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_json({"spec": SPEC, "words": "\x9b31m\u202ex"})
    said = capsys.readouterr().out
    assert msgspec.json.decode(io.StringIO(said).read())["spec"]["env"]["HF_TOKEN"] == MASK
    assert not {"\x9b", "\u202e"} & set(said)


@pytest.mark.parametrize(
    ("terminal", "written"), [(True, "red *** x"), (False, "\x1b[31mred *** x")]
)
def test_an_engine_s_words_are_its_own_but_for_secrets_and_what_speaks_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, written: str
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", out)
    logs._write("\x1b[31mred hf_SECRET123 x")
    assert out.getvalue() == written
