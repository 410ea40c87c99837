"""A log without a secret: the value is nowhere in it, and all else is as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from nebula.cli.main import main
from nebula.events import record, snapshot
from nebula.events.folding import fold
from nebula.events.intents import ModelLoadRequested
from nebula.events.masking import MASK
from nebula.events.record import Entry, read_entry
from nebula.events.state import EMPTY
from nebula.events.values import SecretReference
from nebula.events.version import SECRETS
from nebula.events.vocabulary import ClusterFounded, EngineFailed, Event
from nebula.history.redaction import Comparison, NotRedactable, Redactor, places, values_of
from nebula.store.archive import Reader, write

SECRET = "hunter-two-and-three"


def entry(seq: int, identity: str, event: Event, headers: str = "") -> Entry:
    block = f"NATS/1.0\r\n{headers}\r\n\r\n".encode() if headers else b""
    subject = record.subject_of(identity, event)
    return Entry(seq, seq * 10**9, subject, block, record.encode(event))


def load(**fields: Any) -> ModelLoadRequested:
    return ModelLoadRequested("org/m", replicas=0, **fields)


def log() -> list[Entry]:
    """Return an old log with the secret in a variable, an option, a URL and an engine's words."""
    return [
        entry(1, "m", load(env={"DB_PASSWORD": SECRET, "A": "b"})),
        entry(2, "n", load(options={"hf-token": SECRET, "x": {"list": [f"say {SECRET}!"]}})),
        entry(3, "m", load(env={"URL": f"https://u:{SECRET}@h/"}), "Nebula-Cause: 1"),
        entry(4, "m-0", EngineFailed(f"no entry with {SECRET}", 1), "Nebula-Cause: 3"),
        entry(5, "c", ClusterFounded("", SECRETS)),
        entry(6, "o", load(env={"DB_PASSWORD": SECRET})),  # rejected: it is in clear
        entry(7, "m", load(env={"DB_PASSWORD": SecretReference("db")})),
    ]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.jsonl"
    path.write_bytes(b"".join(write(log(), 7)))
    return path


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["log", "redact", *map(str, words)])


def entries(path: Path) -> list[Entry]:
    with path.open("rb") as file:
        return list(Reader(file, str(path)).entries())


@pytest.mark.parametrize(
    "how",
    [["--all"], ["--event", "1"], ["--event", "1", "--field", "env.DB_PASSWORD"], ["--event", "3"],
     ["--event", "2", "--field", "options.hf-token"], ["--value-file", "value"]],
)  # fmt: skip
def test_the_value_is_nowhere_and_all_else_stays(
    old: Path, tmp_path: Path, how: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("value").write_text(SECRET + "\n")
    told = run(old, *how, "-o", "clean.jsonl")
    assert told.exit_code == 0, told.output
    assert SECRET not in told.output
    clean = tmp_path / "clean.jsonl"
    assert SECRET.encode() not in clean.read_bytes()
    assert clean.stat().st_mode & 0o077 == 0
    found = entries(clean)
    for before, after in zip(log(), found, strict=True):
        assert (after.seq, after.time, after.subject) == (before.seq, before.time, before.subject)
        assert read_entry(after).cause == read_entry(before).cause
        assert after.headers == before.headers
    was, now = (fold(EMPTY, map(read_entry, each)) for each in (log(), found))
    assert snapshot.canonical(now) == snapshot.canonical(was).replace(SECRET.encode(), b"***")
    assert set(now.models) == {"m", "n"}, "what was rejected is still rejected"
    assert now.models["m"].spec.env == {"DB_PASSWORD": SecretReference("db")}
    assert "n would start with ***" in told.output
    assert "\nm would" not in told.output


def test_what_is_found_is_told_without_its_value(old: Path) -> None:
    told = run("--find", "--log", old)
    assert told.exit_code == 1
    assert SECRET not in told.output
    assert told.output.splitlines() == [
        "event 1: nebula.events.model.m.ModelLoadRequested: env.DB_PASSWORD",
        "event 2: nebula.events.model.n.ModelLoadRequested: options.hf-token",
        "event 3: nebula.events.model.m.ModelLoadRequested: env.URL",
        "event 6: nebula.events.model.o.ModelLoadRequested: env.DB_PASSWORD",
    ]
    found = json.loads(run("--find", "--log", old, "--json").output)["events"]
    assert [each["seq"] for each in found] == [1, 2, 3, 6]
    assert found[0]["fields"] == ["env.DB_PASSWORD"]


def test_a_clean_log_has_nothing_to_find(old: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean.jsonl"
    assert run(old, "--all", "-o", clean).exit_code == 0
    told = run("--find", "--log", clean)
    assert told.exit_code == 0
    assert "no event holds" in told.output
    again = tmp_path / "again.jsonl"
    assert run(clean, "--all", "-o", again).exit_code == 0
    assert again.read_bytes() == clean.read_bytes()


@pytest.mark.parametrize(
    ("how", "problem"),
    [(["-o", "x"], "name what to redact"), (["--all"], "with -o"),
     (["--event", "5", "-o", "x"], "event 5"), (["--event", "99", "-o", "x"], "event 99"),
     (["--event", "1", "--field", "env.B", "-o", "x"], "nothing to redact in env.B"),
     (["--event", "1", "--field", "env.A", "-o", "x"], "fewer than 6 characters"),
     (["--event", "1", "--field", "source", "--event", "2", "-o", "x"], "")],
)  # fmt: skip
def test_what_can_not_be_redacted_is_told_and_writes_nothing(
    old: Path, tmp_path: Path, how: list[str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = run(old, *how)
    assert told.exit_code != 0
    assert problem in told.output
    assert [path.name for path in tmp_path.iterdir()] == ["old.jsonl"]


def test_a_value_in_a_subject_is_not_redacted(tmp_path: Path) -> None:
    old = tmp_path / "old.jsonl"
    old.write_bytes(b"".join(write([entry(1, SECRET, load(env={"DB_PASSWORD": SECRET}))], 1)))
    told = run(old, "--all", "-o", tmp_path / "clean.jsonl")
    assert told.exit_code == 1
    assert "event 1: its subject has the value" in told.output
    assert not (tmp_path / "clean.jsonl").exists()


def test_a_changed_file_is_refused(old: Path, tmp_path: Path) -> None:
    old.write_bytes(old.read_bytes().replace(b"org/m", b"org/x", 1))
    told = run(old, "--all", "-o", tmp_path / "clean.jsonl")
    assert told.exit_code == 1
    assert "line 2" in told.output
    assert not (tmp_path / "clean.jsonl").exists()


def test_without_anything_it_explains() -> None:
    told = run()
    assert told.exit_code == 0
    for part in ("keeps every entry for ever", "--find", "nebula import", "backups"):
        assert part in told.output


def test_what_would_mean_something_else_is_refused() -> None:
    before = entry(1, "m", load(env={"DB_PASSWORD": SECRET}))
    comparison = Comparison(Redactor({SECRET}))
    comparison.add(before, entry(1, "m", load(env={"DB_PASSWORD": MASK, "NEW": "x"})))
    with pytest.raises(NotRedactable, match="another state"):
        comparison.conclude()
    with pytest.raises(NotRedactable, match="event 1"):
        Comparison(Redactor({SECRET})).add(
            before, Entry(1, before.time, before.subject, b"", b'{"source": 5}')
        )


@given(
    st.text(min_size=6, max_size=30).filter(lambda text: text.strip() == text and MASK not in text),
    st.text(max_size=10),
)
def test_no_value_stays_in_any_text(value: str, around: str) -> None:
    if any(not line.strip() for line in value.splitlines()):
        return
    redactor = Redactor({value})
    body = json.dumps({"a": [value, {around + value: around + value + around}]}).encode()
    found = redactor.entry(Entry(1, 1, "nebula.events.x", b"", body))
    (items,) = json.loads(found.body).values()  # a line of the value may be "a" too
    assert value not in items[0]
    if len(value.splitlines()) == 1:
        assert not redactor.holds(found)
        assert redactor.entry(found) == found


def test_values_of_a_field_are_all_below_it() -> None:
    found = entry(1, "m", load(options={"a": {"b": ["one", 2]}}, env={"X": SecretReference("s")}))
    assert values_of(found, "options") == ("one", "2")
    assert values_of(found, "options.a.b.1") == ("2",)
    assert values_of(found, "env") == ()
    assert places(found) == {}
    broken = Entry(1, 1, found.subject, b"", b"{'password': 'abcdefgh'")
    assert places(broken) == {"body": ("abcdefgh",)}
    assert Redactor({"abcdefgh"}).entry(broken).body == b"{'password': '***'"
