"""The option `--limit` of commands."""

import re

import click

from nebula.events.usage_limits import UsageLimits


def _limits(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, object]:
    """Read NAME=NUMBER; `priority` has two numbers, and an empty value ends a limit."""
    found: dict[str, object] = {}
    for each in given:
        name, equals, text = each.partition("=")
        name = name.replace("-", "_")
        numbers = [int(part) for part in re.findall(r"-?\d+", text)]
        wanted = 2 if name == "priority" else 1
        form = r"-?\d+\.\.-?\d+" if wanted == 2 else r"\d+"
        if not equals or name not in UsageLimits.__struct_fields__:
            there = ", ".join(each.replace("_", "-") for each in UsageLimits.__struct_fields__)
            raise click.BadParameter(f"{each!r}: write NAME=NUMBER with one of {there}")
        if text and re.fullmatch(form, text) is None:
            example = "priority=0..9" if wanted == 2 else f"{name.replace('_', '-')}=600"
            raise click.BadParameter(f"{each!r}: write it like {example}")
        found[name] = (numbers if wanted == 2 else numbers[0]) if text else None
    return found


limit_option = click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=_limits,
    help="A limit, such as requests-per-minute=600, in-flight=16, priority=0..9. Repeatable.",
)
