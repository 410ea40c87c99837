"""What commands say of their own arguments and of files: no cluster is there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from nebula.actors.intents import Refused
from nebula.cli import cluster as cluster_module
from nebula.cli import submit
from nebula.cli.main import COMMANDS, main
from nebula.events.intents import AdapterLoadRequested, AliasRequested
from nebula.events.values import Target
from nebula.events.vocabulary import EngineFailed
from nebula.history.subject import replica_status
from nebula.store.archive import Reader, write
from tests.unit.story import cluster, load

LOG = str(Path(__file__).parents[1] / "corpus" / "lost-node.jsonl")
NOBODY = "nats://127.0.0.1:1"
EMPTY_FILE = os.devnull
"""A cluster file that asks for nothing."""


def said(*arguments: str) -> tuple[int, str]:
    """Return a command's exit code and its last line."""
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output.splitlines()[-1] if result.output else ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("scale", "chat", "many"), "'many' is not a whole number"),
        (("scale", "chat", "1025"), "1025 is not in the range"),
        (("scale", "chat", "-1"), "-1 is not in the range"),
        (("scale", "chat", "-1", "--jsn"), "No such option '--jsn'"),
        (("scale", "chat", "--", "-1"), "-1 is not in the range"),
        (("why", "seq", "-3"), "-3 is not in the range"),
        (("diff", "-3"), "-3"),
        (("alias", "", "org/chat"), "the name of an alias must not be empty"),
        (("why", "seq", "abc"), "'abc' is not a whole number"),
        (("models", "--nats", ""), "it is empty: write it like nats://"),
        (("models", "--nats", "http://127.0.0.1:8000"), "http:// is not what NATS speaks: write"),
        (("up", "--nats", " "), "it is empty: write it like nats://"),
        (
            ("up", "--nats", NOBODY, "--nats-port", "4223"),
            f"--nats-port is for the NATS that it starts, and --nats names one: {NOBODY}",
        ),
        (("load", ""), "the source must not be empty: give a folder on the nodes or a hub id"),
        (("load", "m", "--adapter", "poet="), "the source must not be empty"),
        (("load", "m", "--id", "x" * 129), "128 at most"),
        (("load", "m", "--autoscale", "3"), "--autoscale '3': write LEAST:MOST, like 1:4"),
        (("load", "m", "--autoscale", "1:2,calmly=3"), "write LEAST:MOST, like 1:4"),
        (("load", "m", "--autoscale", "1:2,wait=1,foo=3"), "'foo' is not one of in-flight=N, wait"),
        (("load", "m", "--autoscale", "1:many"), "autoscale.most"),
        (("load", "m", "--idle-after", "-1"), "-1.0 is not in the range"),
        (("gateway", "--workers", "0"), "0 is not in the range"),
        (("gateway", "--workers", "many"), "'many' is not a whole number"),
        (("up", "--workers", "65"), "65 is not in the range"),
        (("router", "--lost-after", "-1"), "-1.0 is not in the range"),
        (("router", "--lost-after", "19"), "19 s would lose healthy nodes"),
        (("up", "--lost-after", "0.5"), "0.5 s would lose healthy nodes"),
        (("load", "~nobody-has-this-name/m"), "~nobody-has-this-name/m: "),
        (("adapters", "load", "m", "poet", ""), "the source must not be empty"),
        (("adapters", "load", "m", "", "poet"), "name must"),
    ],
)
def test_bad_arguments_are_named_before_a_cluster_is_asked(
    arguments: tuple[str, ...], words: str
) -> None:
    code, told = said(*arguments)
    assert code == 2
    assert words in told


NOT_UTF_8 = "x\udc9b"
"""How Python has the bytes `x\\x9b` of a command line."""


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_takes_an_argument_that_is_not_utf_8(command: str) -> None:
    assert said(command, "a", NOT_UTF_8) == (2, "nebula: argument 3 is not valid UTF-8")
    assert said(command, f"--nats={NOT_UTF_8}") == (2, "nebula: argument 2 is not valid UTF-8")


@pytest.mark.parametrize(
    "option", ["--name", "--env", "--label", "--fallback", "--option", "--adapter", "--help"]
)
def test_no_option_takes_a_value_that_is_not_utf_8(option: str) -> None:
    line = ("load", "m", option, f"K={NOT_UTF_8}")
    assert said(*line) == (2, "nebula: argument 4 is not valid UTF-8")


def test_no_environment_variable_may_hold_what_is_not_utf_8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEBULA_CLUSTER", NOT_UTF_8)
    told = "nebula: the variable 'NEBULA_CLUSTER' is not valid UTF-8"
    assert said("router", "--nats", NOBODY) == (2, told)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands do not wait for a NATS server that is not there yet."""
    monkeypatch.setattr(cluster_module, "CONNECT_PATIENCE", 0.0)


@pytest.mark.usefixtures("hasty")
def test_text_beyond_ascii_is_taken() -> None:
    code, told = said("alias", "größe", "日本", "--nats", NOBODY)
    assert code == 1
    assert "no NATS server answers" in told


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("command", [("models",), ("events",), ("import", LOG)])
def test_where_no_cluster_answers_it_is_said_how_to_start_one(command: tuple[str, ...]) -> None:
    code, told = said(*command, "--nats", NOBODY)
    assert code == 1
    assert told.startswith(f"nebula: no NATS server answers at {NOBODY}")
    assert "`make run` or `nebula up` starts a cluster, --nats URL names another" in told


@pytest.mark.usefixtures("hasty")
def test_a_file_that_is_to_hold_the_url_and_is_not_there_is_named() -> None:
    code, told = said("status", "--nats", "file:/nowhere/nats")
    assert code == 1
    assert "file:/nowhere/nats: the file with its URL can't be read (No such file" in told


# What a log knows nothing of


@pytest.mark.parametrize("arguments", [("nope",), ("model/nope",), ("chat", "nope")])
def test_events_of_what_the_log_does_not_know_are_an_error(arguments: tuple[str, ...]) -> None:
    code, told = said("events", *arguments, "--log", LOG)
    assert code == 1
    assert told == (
        f"nebula: no event of {LOG} is about '{arguments[-1]}'; "
        "there are: chat, n1, n2, n3, poet, search"
    )


@pytest.mark.parametrize(
    "arguments",
    [("chat",), ("chat-0",), ("replica/chat-0",), ("log",), ("chat", "--rejected"), ("n2",)],
)
def test_events_of_what_it_knows_may_be_none(arguments: tuple[str, ...]) -> None:
    assert said("events", *arguments, "--log", LOG)[0] == 0


def test_without_a_node_that_never_was_nothing_is_decided_again() -> None:
    code, told = said("replay", "--log", LOG, "--what-if", "without n99")
    assert code == 1
    assert told == "nebula: without n99: the log has no such node; there were: n1, n2, n3"
    assert said("replay", "--log", LOG, "--what-if", "without n3")[0] == 0


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("events", "--until", "99"), 1, "there is no sequence 99: {log} ends with 23"),
        (("events", "--since", "99"), 1, "there is no sequence 99: {log} ends with 23"),
        (("events", "--cause", "99"), 1, "there is no sequence 99: {log} ends with 23"),
        (("events", "--since", "20", "--until", "3"), 2, "--since 20 is after --until 3: nothing"),
        (
            ("events", "--since", "1h", "--until", "2h"),
            2,
            "--since 1h is after --until 2h: ",
        ),
        (("export", "x", "--until", "2001-01-01"), 1, "no event of {log} was stored by 2001-01-01"),
    ],
)
def test_a_moment_that_the_log_does_not_have_is_the_only_thing_said(
    command: tuple[str, ...], code: int, words: str
) -> None:
    result = CliRunner().invoke(main, [*command, "--log", LOG])
    assert result.exit_code == code
    [line] = result.output.splitlines()
    assert line.startswith("nebula: " + words.format(log=LOG))


@pytest.mark.parametrize(
    "command",
    [
        ("events",),
        ("events", "--until", "3"),
        ("state",),
        ("replay",),
        ("why", "model", "m"),
        ("export", "x"),
    ],
)
def test_an_empty_log_is_told_so(command: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(b"".join(write([], 0)))
    code, told = said(*command, "--log", str(path))
    assert code == 1
    assert told.startswith(f"nebula: {path} is empty: ")


def test_a_fork_s_port_that_is_taken_is_told_before_its_folder_is_made(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = ("fork", LOG, "--folder", str(tmp_path / "home"), "--port", str(port))
        result = CliRunner().invoke(main, line)
    assert result.exit_code == 1
    assert f"something listens on port {port} already: give another --port" in result.output
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("what", "at", "headline"),
    [
        (
            ("model", "poet"),
            "14",
            "poet is ready, 1 of 1 replicas serve as far as is known: "
            "poet-0 on n2 was ready when n2 was lost: its current state is unknown",
        ),
        (("model", "poet"), "13", "poet is ready, 1 of 1 replicas serve"),
        (("replica", "poet-0"), "13", "poet-0 on n2 is ready"),
        (
            ("replica", "poet-0"),
            "14",
            "poet-0 on n2 was ready when n2 was lost: its current state is unknown",
        ),
        (
            ("replica", "chat-0"),
            "16",
            "chat-0 on n2 was starting and retired when n2 was lost: its current state is unknown",
        ),
    ],
)
def test_what_was_on_a_node_when_it_was_lost_is_not_told_as_if_it_still_ran(
    what: tuple[str, str], at: str, headline: str
) -> None:
    told = CliRunner().invoke(main, ["why", *what, "--at", at, "--log", LOG])
    assert told.output.splitlines()[0] == headline


def test_a_replica_that_starts_is_not_told_with_the_last_engine_s_reason() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    failed = EngineFailed("ValueError: no", 1, attempt=1, retry_in=2.0)
    story.runs("chat-0", ready=False).given("chat-0", failed)
    said_of = replica_status(story.state, story.state.replicas["chat-0"])
    assert said_of.startswith("chat-0 on alpha failed (attempt 1, again after a pause of 2 s)")
    assert said_of.endswith(": ValueError: no")
    story.runs("chat-0", ready=False)
    said_of = replica_status(story.state, story.state.replicas["chat-0"])
    assert said_of == "chat-0 on alpha is starting (attempt 1)"


# Files that can't be true


def told_otherwise(path: Path, seq: int, **fields: object) -> str:
    """Write the log with another entry at `seq`, and a chain that fits."""
    with Path(LOG).open("rb") as file:
        entries = list(Reader(file, "log").entries())
    entries[seq - 1] = replace(entries[seq - 1], **fields)
    path.write_bytes(b"".join(write(entries, len(entries))))
    return str(path)


@pytest.mark.parametrize("seq", [1, 8, 23])
@pytest.mark.parametrize("time", [4 * 10**18, 253_380_000_000 * 10**9])
@pytest.mark.parametrize(
    "command",
    [
        ("state",),
        ("events",),
        ("diff", "1", "2"),
        ("replay",),
        ("why", "seq", "2"),
        ("export", "{out}"),
    ],
)
def test_an_entry_from_the_future_is_named_wherever_it_stands(
    command: tuple[str, ...], time: int, seq: int, tmp_path: Path
) -> None:
    path = told_otherwise(tmp_path / "future.jsonl", seq, time=time)
    out = str(tmp_path / "out.jsonl")
    code, told = said(*(each.format(out=out) for each in command), "--log", path)
    assert code == 1
    assert told.startswith(f"nebula: {path}: sequence {seq} comes from the future: it was stored ")
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"time": 4 * 10**18}, "sequence 9 comes from the future"),
        ({"time": 253_380_000_000 * 10**9}, "sequence 9: its time is not within 1970 to 2262"),
        (
            {"subject": "foo.events.model.poet.X"},
            ("sequence 9: 'foo.events.model.poet.X' is not a su"),
        ),
        ({"subject": "nebula.events.model.po et.X"}, "sequence 9: 'nebula.events.model.po et.X' i"),
    ],
)
@pytest.mark.parametrize("command", [("import",), ("fork", "--folder", "{folder}")])
def test_what_can_not_be_imported_is_named_before_anybody_is_asked(
    command: tuple[str, ...], fields: dict[str, object], reason: str, tmp_path: Path
) -> None:
    path = told_otherwise(tmp_path / "bad.jsonl", 9, **fields)
    folder = tmp_path / "sandbox"
    code, told = said(command[0], path, *(each.format(folder=folder) for each in command[1:]))
    assert code == 1
    if command[0] == "import":
        assert told.startswith(f"nebula: {path}, line 10: {reason}")
    assert not folder.exists()


def test_what_is_on_another_s_subject_is_not_an_event_of_ours(tmp_path: Path) -> None:
    subject = "foo.events.model.poet.ModelLoadRequested"
    path = told_otherwise(tmp_path / "other.jsonl", 7, subject=subject)
    code, told = said("why", "model", "poet", "--log", path, "--at", "7")
    assert code == 1
    assert "is called 'poet'; there are: " in told


@pytest.mark.parametrize("moment", ["999999d", "9" * 300 + "h", "0002-01-01", "1970-01-01"])
def test_a_moment_before_the_first_event_is_told_so(moment: str) -> None:
    code, told = said("state", "--at", moment, "--log", LOG)
    assert code == 1
    assert "is before the first event, which was stored at 2026-11-23 " in told


def test_a_file_shows_the_chain_that_its_export_has_told(tmp_path: Path) -> None:
    with Path(LOG).open("rb") as file:
        chain = file.readlines()[-1].decode()[-67:-3]
    assert said("export", str(tmp_path / "a.jsonl"), "--log", LOG)[1].endswith(f", chain {chain}")
    assert said("replay", "--log", LOG)[1] == f"the file ends with chain {chain}"
    assert (
        f'"chain": "{chain}"' in CliRunner().invoke(main, ["replay", "--log", LOG, "--json"]).output
    )
    assert chain not in said("replay", "--log", LOG, "--until", "22")[1]


def test_now_is_a_moment() -> None:
    until_now = CliRunner().invoke(main, ["diff", "3", "now", "--log", LOG])
    assert until_now.exit_code == 0
    assert until_now.output == CliRunner().invoke(main, ["diff", "3", "--log", LOG]).output


def test_what_is_not_a_model_is_told_with_the_command_for_it() -> None:
    story = cluster(n1=[80]).given("mine", load(1, lora=True))
    story.settles()
    story.given("mine", AdapterLoadRequested("poet", "/poet"))
    story.given("prod", AliasRequested((Target("mine"),), "prod"))
    for name, words in (
        ("poet", "poet is an adapter of mine: `nebula adapters unload mine poet`"),
        ("prod", "prod is an alias: `nebula aliases`"),
        ("mine-0", "mine-0 is a replica of mine"),
        ("n1", "n1 is a node: `nebula why n1`"),
    ):
        with pytest.raises(Refused) as refused:
            submit.model_in(story.state, name)
        assert str(refused.value).startswith(words)


# Sources


@pytest.mark.parametrize(
    ("source", "sent"),
    [
        ("./nowhere", "{here}/nowhere"),
        ("../nowhere", "{above}/nowhere"),
        (".", "{here}"),
        ("there", "{here}/there"),
        ("~/nowhere", "{home}/nowhere"),
        ("/no/where", "/no/where"),
        ("org/model", "org/model"),
    ],
)
def test_what_is_written_as_a_path_is_sent_as_a_whole_one(
    source: str, sent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    (here / "there").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert submit.absolute(source) == sent.format(here=here, above=tmp_path, home=tmp_path / "home")


def test_an_id_used_as_a_name_is_explained() -> None:
    state = cluster(n1=[80]).given("chat", load(name="org/chat")).state
    assert submit.absent(state, ["org/chat", "chat", "later"]) == [
        "nothing has the name 'chat' yet, so no requests go there; "
        "the model with that id has the name 'org/chat'",
        "nothing has the name 'later' yet, so no requests go there",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("chat", "--type", "NodeLost"),
            "no event meets all conditions: of the 23 of {log}, 6 are about chat, 1 is of "
            "type NodeLost; what there is: ModelAssigned (2), ",
        ),
        (
            ("chat", "--rejected"),
            "no event meets all conditions: of the 23 of {log}, 6 are about chat, none is "
            "rejected, or a rejection",
        ),
        (
            ("chat", "--node", "n9"),
            "no event meets all conditions: of the 23 of {log}, 6 are about chat, none is "
            "about node n9, on it or planned for it",
        ),
        (
            ("n2", "--since", "23"),
            "nothing happened since then: 2 events are of the kind asked for, but earlier",
        ),
        (("--until", "1", "--since", "1", "--node", "n3"), "no event meets all conditions: "),
    ],
)
def test_where_no_event_is_what_was_asked_for_it_is_said_what_happened_instead(
    arguments: tuple[str, ...], words: str
) -> None:
    code, told = said("events", *arguments, "--log", LOG)
    assert code == 0
    assert told.startswith(words.format(log=LOG))


ASKING = (
    ("load", "m"),
    ("unload", "m"),
    ("scale", "m", "1"),
    ("drain", "n1"),
    ("drain", "n1", "--undo"),
    ("remove-node", "n1"),
    ("remove-node", "n1", "--drain"),
    ("rebalance",),
    ("rebalance", "--yes"),
    ("resilience",),
    ("resilience", "--node", "n1"),
    ("capacity",),
    ("capacity", "--since", "7d", "--with", "n4: 2x80GiB"),
    ("models",),
    ("replicas",),
    ("nodes",),
    ("adapters",),
    ("adapters", "load", "m", "poet", "/poet"),
    ("adapters", "unload", "m", "poet"),
    ("weights",),
    ("weights", "pin", "n1", "m"),
    ("weights", "unpin", "n1", "m"),
    ("weights", "remove", "n1", "m"),
    ("weights", "prune", "n1"),
    ("alias", "prod", "m"),
    ("alias", "prod", "--remove"),
    ("aliases",),
    ("batch",),
    ("batch", "submit", LOG, "--endpoint", "/v1/embeddings"),
    ("batch", "status", "b"),
    ("batch", "cancel", "b"),
    ("batch", "results", "b"),
    ("provision",),
    ("key", "issue", "ci"),
    ("key", "list"),
    ("key", "change", "ci", "--scope", "view"),
    ("key", "rotate", "ci"),
    ("key", "revoke", "ci"),
    ("usage",),
    ("limits", "list"),
    ("capture",),
    ("capture", "start", "--tenant", "a", "--for", "10m"),
    ("capture", "stop", "c"),
    ("capture", "list"),
    ("capture", "show", "r"),
    ("replay", "request", "r", "--to", "chat"),
    ("requests", "list"),
    ("requests", "cancel", "r"),
    ("limits", "set", "tenant", "team-a", "--limit", "in-flight=8"),
    ("kill", "m-0"),
    ("status",),
    ("status", "--json"),
    ("logs", "m-0"),
    ("logs", "m-0", "-f"),
    ("state",),
    ("diff", "1"),
    ("dump",),
    ("apply", "-f", EMPTY_FILE, "--yes"),
    ("events",),
    ("events", "-f"),
    ("why", "m"),
    ("why", "m-0"),
    ("why", "3"),
    ("why", "request", "r"),
    ("replay",),
    ("export", "-"),
    ("import", LOG),
    ("log", "redact", "--find"),
    ("snapshots",),
    ("snapshots", "check"),
    ("snapshots", "make"),
    ("revert", "--to", "3", "--yes"),
)
"""Every command that asks a cluster for something."""


def test_every_command_that_asks_a_cluster_is_among_them() -> None:
    apart = {"up", "gateway", "router", "node", "fork", "schema", "auth", "login", "logout"}
    apart |= {"console", "top"}  # which need a browser, and a terminal
    assert {line[0] for line in ASKING} == COMMANDS.keys() - apart


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("command", ASKING, ids=" ".join)
@pytest.mark.parametrize(
    ("url", "words"),
    [
        (NOBODY, "nothing listens there"),
        # A resolver may take longer than the command waits, so the reason is not always the same.
        ("nats://nobody:secret@nowhere.invalid", "nowhere.invalid: it"),
    ],
)
def test_every_command_says_in_one_line_that_nats_is_not_there(
    command: tuple[str, ...], url: str, words: str
) -> None:
    result = CliRunner().invoke(main, [*command, "--nats", url])
    [line] = result.output.splitlines()
    assert result.exit_code == 1
    assert line.startswith("nebula: no NATS server answers at nats://")
    assert words in line
    assert "secret" not in line
