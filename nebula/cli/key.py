"""`nebula key`: issues, lists, changes, rotates and revokes API keys."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

import click
import msgspec
from rich.table import Table

from nebula.actors.intents import Refused
from nebula.actors.new_keys import new_key
from nebula.cli import tables
from nebula.cli.cluster import joined
from nebula.cli.columns import Columns
from nebula.cli.limit_options import limit_option
from nebula.cli.options import json_option, nats_option
from nebula.cli.plan_first import plan_option
from nebula.cli.process import fail, run
from nebula.cli.submit import append
from nebula.cli.tables import print_json
from nebula.events.key import Key
from nebula.events.key_events import KeyIssued, KeyRevoked, Scope
from nebula.events.state import State
from nebula.events.subjects import model_id
from nebula.events.usage_limits import limit_texts
from nebula.events.vocabulary import Event
from nebula.events.wrong_values import in_words
from nebula.history.key_rights import rotated, with_changes
from nebula.http.views import KeyView, key_view

_SPAN = re.compile(r"(\d+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_NEVER = "never"


def _span(text: str) -> float | None:
    found = _SPAN.fullmatch(text)
    return None if found is None else float(int(found[1]) * _SECONDS[found[2]])


def _expiry(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Read when a key expires: a time, or how long from now; "" for never."""
    if text is None:
        return None
    if text == _NEVER:
        return ""
    span = _span(text)
    try:
        if span is not None:
            return (datetime.now(UTC) + timedelta(seconds=span)).isoformat(timespec="seconds")
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{text!r} is neither a time such as 2027-01-31 or 2027-01-31T12:00Z, nor how long "
            "from now, such as 30d, 12h or 4w"
        ) from error
    moment = moment if moment.tzinfo else moment.astimezone()
    if moment <= datetime.now(UTC):
        raise click.BadParameter(f"{text!r} is over: `nebula key revoke ID` ends a key at once")
    return moment.isoformat()


def _overlap(_: click.Context, __: click.Parameter, text: str) -> float:
    span = _span(text)
    if span is None:
        raise click.BadParameter(f"{text!r} is not a time such as 0s, 10m, 1h or 2d")
    return span


_OPTIONS: tuple[Callable[[Callable[..., None]], Callable[..., None]], ...] = (
    click.option("--name", default=None, metavar="TEXT", help="Its holder, in words."),
    click.option(
        "--scope",
        "scopes",
        multiple=True,
        type=click.Choice(("infer", "view", "operate", "admin")),
        help="What it is for: requests to models, seeing the cluster, changing it, or everything. "
        "Repeatable. [infer]",
    ),
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="NAME",
        help="A model that it may use; * stands for any text. Repeatable. [all]",
    ),
    click.option("--tenant", default=None, metavar="NAME", help="The tenant that it belongs to."),
    click.option(
        "--expires",
        default=None,
        metavar="TIME",
        callback=_expiry,
        help="When it stops being valid: a time, or how long from now: 30d, 12h. [never]",
    ),
    limit_option,
)


def _rights(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def _given(
    name: str | None,
    scopes: tuple[Scope, ...],
    models: tuple[str, ...],
    tenant: str | None,
    expires: str | None,
) -> dict[str, object]:
    """Return the rights that were given, as the fields of an event."""
    fields: dict[str, object] = {}
    for field, value in (("name", name), ("tenant", tenant)):
        if value is not None:
            fields[field] = value
    if expires is not None:
        fields["expires"] = expires or None
    if scopes:
        fields["scopes"] = scopes
    if models:
        fields["models"] = models
    return fields


@click.group()
def key() -> None:
    """API keys: what their holders may ask for. Only a hash of each key is stored."""


@key.command()
@click.argument("identity", metavar="ID")
@_rights
@plan_option
@nats_option
@json_option
def issue(
    identity: str,
    name: str | None,
    scopes: tuple[Scope, ...],
    models: tuple[str, ...],
    tenant: str | None,
    expires: str | None,
    limits: dict[str, object],
    nats: str,
    as_json: bool,
) -> None:
    """Issue a key and print it: this once, since it is stored nowhere."""
    identity = model_id(identity)
    new = new_key(identity)
    given = _given(name, scopes, models, tenant, expires)
    fields = {"scopes": ("infer",), "hash": new.hash, "prefix": new.prefix, **given}
    event = _converted({**fields, "limits": limits})

    async def issued() -> None:
        async with joined(nats) as projection:
            await append(projection, lambda _: (identity, event))
            _say(projection.state, identity, new.text, as_json=as_json)

    run(issued())


def _converted(fields: Mapping[str, object]) -> KeyIssued:
    try:
        return msgspec.convert(fields, KeyIssued)
    except msgspec.ValidationError as error:
        fail(in_words(error), 2)


@key.command("list")
@click.option("--all", "whole", is_flag=True, help="Revoked keys too.")
@nats_option
@json_option
def list_keys(whole: bool, nats: str, as_json: bool) -> None:
    """List the keys: what they are for, and how they begin."""

    async def listed() -> None:
        async with joined(nats) as projection:
            keys = projection.state.keys
            present = [keys[each] for each in sorted(keys) if whole or not keys[each].revoked_ns]
            if as_json:
                print_json([key_view(each) for each in present])
            else:
                tables.console().print(_table(map(key_view, present)))

    run(listed())


@key.command()
@click.argument("identity", metavar="ID")
@_rights
@plan_option
@nats_option
@json_option
def change(
    identity: str,
    name: str | None,
    scopes: tuple[Scope, ...],
    models: tuple[str, ...],
    tenant: str | None,
    expires: str | None,
    limits: dict[str, object],
    nats: str,
    as_json: bool,
) -> None:
    """Change what a key may do; what is not given stays. `--limit NAME=` ends a limit."""
    fields = _given(name, scopes, models, tenant, expires)
    if not fields and not limits:
        fail(
            "no change is given: name a right, such as --scope view or --limit in-flight=16",
            2,
        )

    def intent(state: State) -> tuple[str, Event]:
        known = _key(state, identity)
        changed = {**msgspec.to_builtins(known.limits), **limits}
        return identity, with_changes(known, {**fields, "limits": changed})

    run(_changed(nats, intent, as_json=as_json))


@key.command()
@click.argument("identity", metavar="ID")
@click.option(
    "--overlap",
    default="0s",
    show_default=True,
    callback=_overlap,
    help="For how long the previous key stays valid, such as 1h.",
)
@plan_option
@nats_option
@json_option
def rotate(identity: str, overlap: float, nats: str, as_json: bool) -> None:
    """Replace a key by a new one with the same id and rights, and print it."""
    new = new_key(identity)

    def intent(state: State) -> tuple[str, Event]:
        return identity, rotated(_key(state, identity), new, overlap)

    run(_changed(nats, intent, new.text, as_json=as_json))


@key.command()
@click.argument("identity", metavar="ID")
@click.option("--reason", default="", help="Why, for the log.")
@plan_option
@nats_option
@json_option
def revoke(identity: str, reason: str, nats: str, as_json: bool) -> None:
    """Revoke a key, for good: every gateway refuses it from then on."""

    def intent(state: State) -> tuple[str, Event]:
        _key(state, identity)
        return identity, KeyRevoked(reason)

    run(_changed(nats, intent, as_json=as_json))


async def _changed(
    nats: str, intent: Callable[[State], tuple[str, Event]], text: str = "", *, as_json: bool
) -> None:
    async with joined(nats) as projection:
        try:
            identity, _ = await append(projection, intent)
        except msgspec.ValidationError as error:
            fail(in_words(error), 2)
        _say(projection.state, identity, text, as_json=as_json)


def _key(state: State, identity: str) -> Key:
    """Return a key. Raise Refused."""
    found = state.keys.get(identity)
    if found is None:
        there = ", ".join(sorted(state.keys)) or "none"
        raise Refused(f"there is no key {identity!r}; there are: {there}")
    return found


def _say(state: State, identity: str, text: str, *, as_json: bool) -> None:
    """Print a key, and its text if it is new: alone on the standard output."""
    view = key_view(state.keys[identity])
    if as_json:
        if not text:
            print_json(view)
            return
        told = msgspec.json.encode({"id": identity, "secret": text, "rights": view})
        click.echo(msgspec.json.format(told, indent=2))  # the key itself, which is masked elsewhere
        return
    tables.console(errors=bool(text)).print(_table([view]))
    if text:
        click.echo("Keep it: it is shown this once.", err=True)
        click.echo(text)


def _table(found: Iterable[KeyView]) -> Table:
    """Show API keys, without their secrets."""
    table = Columns(("KEY", "BEGINS", "STATE", "SCOPES", "TENANT", "EXPIRES", "MODELS", "LIMITS"))
    for key in found:
        table.add_row(
            key.id,
            key.begins,
            tables.coloured(key.state),
            ",".join(key.scopes),
            key.tenant,
            key.expires,
            tables.escape(",".join(key.models)),
            ", ".join(limit_texts(key.limits)),
        )
    return table
