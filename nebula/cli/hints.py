"""Explains an argument that a command does not take: where it belongs."""

import difflib
import shlex
from collections.abc import Iterable, Sequence

import click

ELSEWHERE = {
    "--fetch": ("node", "up"),
    "--no-fetch": ("node", "up"),
    "--weights-folder": ("node", "up"),
    "--engine-command": ("node", "up"),
    "--engine-listen": ("node", "up"),
    "--allow-source": ("node", "up"),
    "--allow-option": ("node", "up"),
    "--allow-env": ("node", "up"),
    "--start-limit": ("node", "up"),
    "--stall-limit": ("node", "up"),
    "--restart-limit": ("node", "up"),
    "--restart-pause": ("node", "up"),
    "--drain": ("node", "up", "remove-node"),
    "--load-timeout": ("gateway", "up"),
    "--keep-alive": ("gateway", "up"),
    "--allowed-host": ("gateway", "up"),
    "--allow-origin": ("gateway", "up"),
    "--lost-after": ("router", "up"),
    "--waiting-memory": ("router",),
    "--port": ("gateway", "up"),
    "--host": ("gateway", "up"),
}
"""Options of the actors that people look for in client commands."""

SWITCH = "true"


def command_like(name: str, known: Iterable[str]) -> str:
    """Return the commands that an unknown name may have meant; "" for none."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def option_hint(command: str, option: str, arguments: Sequence[str]) -> str:
    """Return which command takes an option that this one does not; "" if that is unknown.

    `arguments`: all arguments of the command, for the option's value.
    """
    if command == "load" and option == "--model":
        from nebula.events.advised import command as advised

        source = _value(option, arguments)
        source = "SOURCE" if source == SWITCH else source
        return f" The model is the first argument: {advised('load', source)}."
    if command == "load" and option.removeprefix("--") in _SPEC_OF:
        return f" {_SPEC_OF[option.removeprefix('--')]}"
    homes = [each for each in ELSEWHERE.get(option, ()) if each != command]
    if homes:
        return f" It is an option of {' and '.join(f'nebula {each}' for each in homes)}."
    if command != "load" or not option.startswith("--"):
        return ""
    key, value = option.removeprefix("--"), _value(option, arguments)
    if key.startswith("no-") and value == SWITCH:
        key, value = key.removeprefix("no-"), "false"
    # The list of commands imports nothing that events need.
    from nebula.events.engine_validation import bad_options
    from nebula.events.intents import ModelLoadRequested

    if bad_options(ModelLoadRequested("/", options={key: value})):
        return " Nebula sets vLLM's option of that name itself."
    return f" If vLLM is to have it: --option {shlex.quote(f'{key}={value}')}."


_SPEC_OF = {
    "gpu-memory-utilization": "Its share of the device goes to --memory, such as --memory 6GiB.",
    "tensor-parallel-size": "Nebula calls it --tensor-parallel.",
    "enable-lora": "Nebula calls it --lora.",
    "served-model-name": "Nebula calls it --name.",
    "runner": "Nebula calls it --task: chat, or embedding for --runner pooling.",
    "lora-modules": "Nebula calls it --adapter NAME=SOURCE.",
}


def _value(option: str, arguments: Sequence[str]) -> str:
    """Return the value that an option was given on the command line; SWITCH for none."""
    for number, each in enumerate(arguments):
        name, equals, value = each.partition("=")
        if name == option and equals:
            return value
        if each == option:
            following = arguments[number + 1 : number + 2]
            return following[0] if following and not following[0].startswith("-") else SWITCH
    return SWITCH


def explained(error: click.NoSuchOption, arguments: Sequence[str]) -> click.NoSuchOption:
    """Return an error about an unknown option with a hint where the option goes."""
    command = (error.ctx.info_name if error.ctx is not None else None) or ""
    hint = option_hint(command, error.option_name, arguments)
    if not hint:
        return error
    return click.NoSuchOption(error.option_name, f"{error.message}{hint}", ctx=error.ctx)
