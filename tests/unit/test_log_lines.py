"""Log lines as JSON: an object for each, with what the line is about, and without secrets."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from nebula.cli import exits, log_console, log_lines, process
from nebula.cli.log_lines import JsonFormatter, ShownFormatter, message_of
from nebula.cli.logging_options import LogOptions, logging_options
from nebula.events.inference import Request
from nebula.events.log_fields import NAMES, event_fields, request_fields
from nebula.events.trace_context import trace_id

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def written(text: str, *arguments: object, error: Any = None, **about: str | int) -> dict[str, Any]:
    """Return a line as a program reads it."""
    info = (type(error), error, error.__traceback__) if error is not None else None
    record = logging.LogRecord("nebula.x", logging.WARNING, "", 1, text, arguments, info)
    record.__dict__.update(about)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert isinstance(read, dict)
    return read


def test_a_line_has_its_time_level_logger_and_message() -> None:
    line = written("the %s is full", "disk")
    assert list(line) == ["time", "level", "logger", "message"]
    assert line["level"] == "warning"
    assert (line["logger"], line["message"]) == ("nebula.x", "the disk is full")
    assert line["time"].endswith("Z")
    assert datetime.fromisoformat(line["time"]).tzinfo is not None


def test_a_line_of_a_worker_has_its_number_in_either_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = logging.LogRecord("nebula.x", logging.INFO, "", 1, "ready", (), None)
    assert json.loads(JsonFormatter(3).format(record))["worker"] == 3
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    LogOptions().set_up(3)
    [handler] = root.handlers
    assert handler.format(record).endswith(" INFO    worker 3 nebula.x: ready")


def test_a_line_about_a_request_names_it_and_its_trace() -> None:
    fields = (("tracestate", "a=b"), ("traceparent", PARENT))
    request = Request("r1", "g", "m", "/v1/completions", b"", fields=fields)
    line = written("it failed", **request_fields(request))
    assert (line["request_id"], line["trace_id"]) == ("r1", TRACE)
    assert request_fields(Request("r1", "g", "m", "/v1/completions", b"")) == {"request_id": "r1"}


def test_a_line_about_an_event_has_its_sequence_and_that_of_its_cause() -> None:
    assert written("placed", **event_fields(7, 5))["event_seq"] == 7
    assert event_fields(7, 5) == {"event_seq": 7, "cause_seq": 5}
    assert event_fields(7) == {"event_seq": 7}
    assert {*event_fields(7, 5), "request_id", "trace_id"} == {*NAMES}


def test_an_error_is_in_the_same_line() -> None:
    try:
        raise ValueError("broken --hf-token=hf_abcdefghijklmnop")
    except ValueError as error:
        line = written("it failed", error=error)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].splitlines()[-1].startswith("ValueError: broken")
    assert "hf_abc" not in line["exception"]


@given(st.text())
def test_any_text_makes_one_line_that_can_be_read(text: str) -> None:
    assert isinstance(written("%s", text)["message"], str)


def test_secrets_and_control_characters_are_in_no_line() -> None:
    line = written("starting: %s", "--hf-token=hf_abcdefghijklmnop \x1b[31mred")
    assert line["message"] == "starting: --hf-token=*** red"


@pytest.mark.parametrize(
    ("parent", "found"),
    [
        (PARENT, TRACE),
        (f"01-{TRACE}-{SPAN}-01-more", TRACE),
        (f"00-{TRACE}-{SPAN}-01-more", ""),
        (f"ff-{TRACE}-{SPAN}-01", ""),
        (f"00-{'0' * 32}-{SPAN}-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (PARENT.upper(), ""),
        (f"{PARENT}\n", ""),
        ("", ""),
    ],
)
def test_a_trace_is_named_by_a_valid_parent_only(parent: str, found: str) -> None:
    assert trace_id(parent) == found


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Return the stderr of a process that logs as JSON."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.excepthook
    root.handlers[:] = []
    monkeypatch.setattr(sys, "stderr", stream)
    LogOptions(form="json").set_up()
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook = hook
    logging.captureWarnings(False)


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_all_that_such_a_process_says_is_json(lines: io.StringIO) -> None:
    console = log_console.console()
    console.print("[green]Nebula is up[/green]: http://127.0.0.1:8000\n\nCtrl-C ends it")
    process.say("a port is taken", warning=True)
    log_lines.log.info("one more")
    with pytest.raises(SystemExit) as ended:
        exits.fail("it can't run", exits.FATAL)
    assert ended.value.code == exits.FATAL
    assert [(line["level"], line["message"]) for line in read(lines)] == [
        ("info", "Nebula is up: http://127.0.0.1:8000"),
        ("info", "Ctrl-C ends it"),
        ("warning", "a port is taken"),
        ("info", "one more"),
        ("critical", "it can't run"),
    ]


def test_the_error_that_ends_such_a_process_is_a_line(lines: io.StringIO) -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        sys.excepthook(KeyError, error, error.__traceback__)
    (line,) = read(lines)
    assert (line["level"], line["message"]) == ("critical", "ended by KeyError")
    assert line["exception"].endswith("KeyError: 'x'")


def test_the_last_word_of_a_child_is_found_in_either_form() -> None:
    record = logging.LogRecord("nebula", logging.CRITICAL, "", 1, "no room", (), None)
    assert message_of(JsonFormatter().format(record)) == "no room"
    assert message_of("nebula: no room") == "no room"
    assert message_of('{"other": 1}') == '{"other": 1}'


def test_text_is_the_default_and_children_get_the_same_form() -> None:
    got: list[LogOptions] = []

    @click.command()
    @logging_options
    def command(logs: LogOptions) -> None:
        got.append(logs)

    for arguments in ([], ["--verbose"], ["--log-format", "json"]):
        assert CliRunner().invoke(command, arguments).exit_code == 0
    CliRunner(env={"NEBULA_LOG_FORMAT": "json"}).invoke(command, [])
    assert got == [LogOptions(), LogOptions(True), *[LogOptions(form="json")] * 2]
    assert got[0].arguments() == ()
    assert got[2].arguments() == ("--log-format", "json")
    assert CliRunner().invoke(command, ["--log-format", "xml"]).exit_code == exits.USAGE


def test_text_lines_have_the_form_that_they_had() -> None:
    record = logging.LogRecord("nebula.x", logging.INFO, "", 1, "said", (), None)
    record.created, record.msecs = 0.0, 0.0
    made = ShownFormatter(log_lines._TEXT).format(record)
    assert made.endswith(",000 INFO    nebula.x: said")
