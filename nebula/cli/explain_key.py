"""`nebula why key`: the events of an API key, with their times and principals."""

from pathlib import Path

import click

from nebula.cli.log_source import log_option, opened, reader_time, state_at, story_until
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import fail, run
from nebula.cli.story_output import tell
from nebula.history.explanation import Chronicle
from nebula.history.key_story import key_verdict, keys_called


@click.command("key")
@click.argument("key")
@log_option
@nats_option
@json_option
def why_key(key: str, file: Path | None, nats: str, as_json: bool) -> None:
    """What KEY may do, and the events that issued, changed or revoked it, with their principals.

    KEY is an id or a name.
    """
    run(_key(nats, file, key, as_json))


async def _key(nats: str, file: Path | None, reference: str, as_json: bool) -> None:
    async with opened(nats, file) as past:
        state = await state_at(past, None)
        found = keys_called(state, reference)
        if not found:
            fail(f"{past.name} has no key {reference!r}: `nebula key list --all` lists them")
        if len(found) > 1:
            ids = ", ".join(each.id for each in found)
            fail(f"several keys have the name {reference!r}: give the id of one: {ids}")
        key = found[0]
        chronicle = Chronicle(lambda record, *_: (record.aggregate, record.id) == ("key", key.id))
        async for record in story_until(past, state.seq):
            chronicle.take(record)
        tell(chronicle, key_verdict(key, reader_time(past, None)), 0, as_json)
