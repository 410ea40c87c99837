"""Every command that Nebula advises, in whatever it says, is one that its command line takes."""

import ast
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nebula.cli.elsewhere import shown_message
from nebula.cli.main import main
from nebula.cli.tables import console
from nebula.events.advised import (
    asks,
    command,
    commands,
    looking_back,
    looks_back,
    reaching,
    why,
)
from nebula.events.evolve import evolve
from nebula.events.state import EMPTY
from nebula.history.advice import advice
from nebula.history.outcome import asked, outcome
from nebula.history.subject import named_by, verdict
from tests.unit import corpus
from tests.wording import nodes

ROOT = Path(__file__).parents[2]
MODULES = sorted({*ROOT.glob("nebula/**/*.py")} - {ROOT / "nebula" / "events" / "advised.py"})
PAGES = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
SAMPLE = "sample"
"""What stands for a value that only a run can tell; it is a number where one must be."""


def refused(words: list[str]) -> str:
    """Return why the command line refuses the words after `nebula`; "" if it takes them."""
    if words == ["--help"]:
        return ""
    try:
        with click.Context(main, info_name="nebula") as context:
            found: click.Command = main
            while isinstance(found, click.Group) and words:
                _, inner, words = found.resolve_command(context, words)
                assert inner is not None
                found = inner
                if isinstance(found, click.Group) and not _names_a_command(found, words):
                    break
            found.make_context(found.name, list(words), parent=context)
    except click.UsageError as error:
        return error.format_message()
    return ""


def _names_a_command(group: click.Group, words: list[str]) -> bool:
    return bool(words) and not words[0].startswith("-")


def test_the_parser_of_this_test_refuses_what_the_command_line_refuses() -> None:
    assert refused(["adapters", "load", "chat"])
    assert refused(["alias"])
    assert refused(["sclae", "chat", "1"])
    assert refused(["weights", "prune"])
    assert refused(["why", "chat"]) == refused(["weights"]) == ""


def said(tree: list[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module's nodes that people may be shown, with their lines.

    Docstrings are for readers of the code; values that only a run can tell are SAMPLE.
    """
    docs = {node.value for node in tree if isinstance(node, ast.Expr)}
    joined = [node for node in tree if isinstance(node, ast.JoinedStr)]
    passed = docs | {part for node in joined for part in node.values}
    for node in joined:
        yield node.lineno, "".join(map(_text, node.values))
    for each in tree:
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and each not in passed:
            yield each.lineno, each.value


def _text(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "{}"


def built(tree: list[ast.AST]) -> Iterator[tuple[int, list[str]]]:
    """Yield the words of each command that a module's nodes build, with their lines."""
    for node in tree:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id == "command" and not any(map(_starred, node.args)):
            yield node.lineno, [_word(each) for each in node.args]


def _starred(node: ast.expr) -> bool:
    return isinstance(node, ast.Starred)


def _word(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return (
        "1"
        if isinstance(node, ast.Call) and ast.unparse(node).startswith("str(model.wanted")
        else SAMPLE
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_module_advises_is_taken(path: Path) -> None:
    tree = nodes(ast.parse(path.read_text()))
    wrong = []
    for line, text in said(tree):
        if "`nebula {" in text or any("{}" in word for words in commands(text) for word in words):
            wrong.append(f"{line}: build it with nebula.events.advised.command: {text}")
            continue
        wrong += [
            f"{line}: {words}: {reason}" for words in commands(text) if (reason := refused(words))
        ]
    made = [(line, words, refused(words)) for line, words in built(tree)]
    wrong += [f"{line}: {words}: {reason}" for line, words, reason in made if reason]
    assert wrong == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_shows_is_taken(path: Path) -> None:
    text = path.read_text().replace("\\\n", "")
    shown = []
    for line in text.splitlines():
        _, prompt, rest = line.partition("$ nebula ")
        for each in rest.split(" ; nebula ") if prompt else ():
            shown.append(before_the_shell(shlex.split(each, comments=True)))
    wrong = [f"{words}: {reason}" for words in shown if (reason := refused(words))]
    if path.name != "CHANGELOG.md":
        wrong += [
            f"{words}: {reason}" for words in commands(text) if _unknown(reason := refused(words))
        ]
    assert [each for each in wrong if "does not exist" not in each] == []


def before_the_shell(words: list[str]) -> list[str]:
    """Return a command's own words, without those by which a shell passes its output on.

    What a shell puts in place of `$(…)` is a number.
    """
    ends = (at for at, word in enumerate(words) if word in (">", "|", "||", "2>&1"))
    return ["1" if word.startswith("$(") else word for word in words[: next(ends, len(words))]]


def _unknown(refusal: str) -> bool:
    """Return whether something was refused that is there not at all: a page may only name it."""
    return "No such" in refusal


def test_a_word_is_written_as_a_shell_needs_it() -> None:
    text = f"Load it: {command('adapters', 'load', 'chat', 'my poet', './a folder/of `mine`')}."
    assert commands(text) == [["adapters", "load", "chat", "my poet", "./a folder/of `mine`"]]


@pytest.mark.parametrize("name", ["42", "seq", "request", "model", "replica", "node", "chat"])
def test_why_is_asked_about_what_has_that_name(name: str) -> None:
    with click.Context(main, info_name="nebula") as context:
        (words,) = commands(why(name))
        _, group, words = main.resolve_command(context, words)
        assert isinstance(group, click.Group)
        kind, _, rest = group.resolve_command(context, words)
    assert (kind, rest) == ("model", [name])


def test_a_command_is_told_where_the_cluster_listens() -> None:
    nats = "nats://10.0.0.7:4223"
    assert reaching("see `nebula why chat`.", nats) == f"see `nebula why chat --nats {nats}`."
    for alone in (
        "`nebula up`",
        "`nebula why x --log f`",
        "`nebula why x --nats nats://y`",
        "nebula",
    ):
        assert reaching(alone, nats) == alone


def test_every_command_that_can_be_told_where_the_cluster_listens_takes_it() -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        found = main.get_command(context, name)
        assert found is not None
        inner = found.commands.values() if isinstance(found, click.Group) else ()
        for each in inner or (found,):
            takes = any("--nats" in parameter.opts for parameter in each.params)
            words = (name, each.name or "") if inner else (name,)
            assert takes == (asks(*words) or name == "up"), words


def test_every_command_that_can_be_told_to_look_at_a_log_takes_it() -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        found = main.get_command(context, name)
        assert found is not None
        named: list[tuple[tuple[str, ...], click.Command]] = [((name,), found)]
        if isinstance(found, click.Group):
            itself = named if found.invoke_without_command else []
            named = itself + [((name, inner), each) for inner, each in found.commands.items()]
        for words, each in named:
            takes = any("--log" in parameter.opts for parameter in each.params)
            assert takes == looks_back(*words), words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nothing is advised", "nothing is advised"),
        ("see `nebula why x`.", "see `nebula why x --log 'my log'`."),
        ("see `nebula why x --log a`; `nebula up`", "see `nebula why x --log a`; `nebula up`"),
        ("Load it again: `nebula load 'a: b. c; d'`.", "Load it again."),
        ("no key 'a': `nebula key list` lists them", "no key 'a'"),
        ("`nebula key list` lists them", ""),
        ("`nebula key list` lists them; it is lost", "It is lost"),
        (
            "Start n2 (`nebula node n2` there), or wait; `nebula events` shows it. Or so.",
            "Start n2, or wait; `nebula events --log 'my log'` shows it. Or so.",
        ),
        ("Load it, `nebula load x`, or move it: `nebula alias set a`.", "Load it, or move it."),
        ("Wait: a starts first, as `nebula logs a` shows. It is slow.", "Wait. It is slow."),
        ("`nebula why request r1` tells; `nebula events --follow`", ""),
    ],
)
def test_on_a_log_commands_look_at_it_and_those_that_ask_a_cluster_are_left_out(
    text: str, expected: str
) -> None:
    assert looking_back(text, "my log") == expected


def test_a_message_about_a_log_advises_commands_on_that_log() -> None:
    resilience = main.get_command(click.Context(main), "resilience")
    assert resilience is not None
    log = str(ROOT / "tests" / "corpus" / "lost-node.jsonl")
    with resilience.make_context("resilience", ["--log", log]):
        told = shown_message("do `nebula scale opt 1`; see `nebula why opt`")
        assert told == f"see `nebula why opt --log {log}`"
        assert plain_words("see `nebula why opt`") == f"see `nebula why opt --log {log}`"


@pytest.mark.parametrize("name", corpus.NAMES)
def test_nothing_that_is_said_of_a_recorded_log_asks_a_cluster(name: str) -> None:
    state = EMPTY
    for record in corpus.records(name):
        state = evolve(state, record)
        for _, subject in named_by(record):
            told = verdict(state, subject)
            for text in (told.headline, told.todo, *told.behind):
                found = looking_back(text, "a.jsonl")
                assert found or text == told.todo, "something is always said"
                assert not [each for each in commands(found) if asks(*each) and "--log" not in each]
                assert "()" not in found


@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [
        ([], None, ""),
        ([], "nats://10.0.0.7:4223", ""),
        (["--nats", "nats://10.0.0.7:4223"], None, " --nats nats://10.0.0.7:4223"),
        (["--nats", "nats://127.0.0.1:4222"], None, ""),
        (["--nats", "nats://127.0.0.1:4222"], "nats://b:1", " --nats nats://127.0.0.1:4222"),
        (["--nats", "nats://me:secret@b:1"], None, " --nats nats://b:1"),
    ],
)
def test_a_message_advises_commands_that_reach_the_cluster_it_was_asked_about(
    monkeypatch: pytest.MonkeyPatch, given: list[str], variable: str | None, expected: str
) -> None:
    monkeypatch.delenv("NEBULA_NATS_URL", raising=False)
    if variable:
        monkeypatch.setenv("NEBULA_NATS_URL", variable)
    models = main.get_command(click.Context(main), "models")
    assert models is not None
    with models.make_context("models", given):
        assert shown_message("do `nebula scale opt 1`") == f"do `nebula scale opt 1{expected}`"
        assert plain_words("do `nebula scale opt 1`") == f"do `nebula scale opt 1{expected}`"


def plain_words(text: str) -> str:
    """Return a text as a console shows it."""
    return console().render_str(text).plain


@pytest.mark.parametrize("name", corpus.NAMES)
def test_what_is_advised_amid_a_recorded_log_is_taken(name: str) -> None:
    state, advised = EMPTY, set[str]()
    for record in corpus.records(name):
        state = evolve(state, record)
        for _, subject in named_by(record):
            told = verdict(state, subject)
            advised |= {told.headline, told.todo, *told.behind}
        for model in state.models.values():
            found = outcome(state, asked(state, model.id, state.seq))
            advised |= {advice(state, model), found.text, found.todo, *found.troubles}
    for text in advised:
        assert text.count("`nebula ") == len(commands(text))
        assert [reason for words in commands(text) if (reason := refused(words))] == [], text
