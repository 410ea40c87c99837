"""What a command is told that was given something which belongs elsewhere."""

import click
import pytest
from click.testing import CliRunner

from nebula.cli.hints import ELSEWHERE
from nebula.cli.main import COMMANDS, main
from nebula.events.engine_validation import RESERVED_OPTIONS


def told(*arguments: str) -> str:
    """Return the last line of a command that was called in a wrong way."""
    ended = CliRunner().invoke(main, arguments)
    assert ended.exit_code == 2, ended.output
    return ended.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--max-model-len", "4096"), "If vLLM is to have it: --option max-model-len=4096."),
        (("--max-model-len=4096",), "If vLLM is to have it: --option max-model-len=4096."),
        (("--enforce-eager",), "If vLLM is to have it: --option enforce-eager=true."),
        (("--enforce-eager", "--replicas", "2"), "--option enforce-eager=true."),
        (("--no-enable-chunked-prefill",), "--option enable-chunked-prefill=false."),
        (("--no-fetch",), "It is an option of nebula node and nebula up."),
        (("--gpu-memory-utilization", "0.3"), "Its share of the device goes to --memory"),
        (("--load-timeout", "9"), "It is an option of nebula gateway and nebula up."),
    ],
)
def test_an_option_that_load_does_not_take_is_told_where_it_goes(
    arguments: tuple[str, ...], hint: str
) -> None:
    line = told("load", "org/model", *arguments)
    assert line.startswith(f"Error: No such option '{arguments[0].partition('=')[0]}'.")
    assert hint in line


@pytest.mark.parametrize(
    ("given", "meant"), [("loda", "load"), ("unlaod", "unload"), ("evnets", "events")]
)
def test_a_command_that_is_misspelt_is_told_which_was_meant(given: str, meant: str) -> None:
    assert told(given, "x").startswith(f"Error: No such command {given!r}. Did you mean {meant}")


def test_what_is_like_nothing_is_told_without_a_guess() -> None:
    assert told("xyzzy") == "Error: No such command 'xyzzy'."
    assert told("status", "--xyzzy") == "Error: No such option '--xyzzy'."


@pytest.mark.parametrize(("option", "homes"), ELSEWHERE.items())
def test_an_option_is_where_it_is_said_to_be(option: str, homes: tuple[str, ...]) -> None:
    context = click.Context(main)
    takers = {
        name
        for name in COMMANDS
        if (command := main.get_command(context, name)) is not None
        and any(option in (*each.opts, *each.secondary_opts) for each in command.params)
    }
    assert set(homes) <= takers


@pytest.mark.parametrize("option", sorted(RESERVED_OPTIONS))
def test_what_nebula_sets_itself_is_not_advised_as_an_option(option: str) -> None:
    if option in ("host", "port", "task"):  # they are options of commands of Nebula's own
        return
    line = told("load", "org/model", f"--{option}", "x")
    assert "--option" not in line
    assert line.startswith(f"Error: No such option '--{option}'.")
    assert line != f"Error: No such option '--{option}'."


def test_the_model_is_told_as_the_argument_that_it_is() -> None:
    line = told("load", "--model", "org/a model")
    assert line.endswith("The model is the first argument: `nebula load 'org/a model'`.")
