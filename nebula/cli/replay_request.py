"""`nebula replay request`: a captured request is sent again, to another model."""

import os
import time
from typing import Any

import click
from rich.table import Table

from nebula.cli import kept_key, tables
from nebula.cli.capture import find
from nebula.cli.login import gateway_option
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import fail, run
from nebula.events.captured import CapturedRequest
from nebula.events.showing import shown, shown_text
from nebula.openai.replayed import NotReplayable, Replayed, body_again, replayed

LONGEST = 600.0
"""Seconds to wait for the answer."""


@click.command("request")
@click.argument("request")
@click.option("--to", required=True, metavar="MODEL", help="Model, adapter or alias to ask.")
@gateway_option
@nats_option
@json_option
def replay_request(request: str, to: str, gateway: str, nats: str, as_json: bool) -> None:
    """Send the captured REQUEST again, and show both answers side by side.

    The API key is that of NEBULA_API_KEY, or of `nebula login`. What was masked is sent masked.
    """
    captured = run(find(nats, request))
    try:
        body = body_again(captured, to)
    except NotReplayable as error:
        fail(str(error))
    try:
        key = os.environ.get("NEBULA_API_KEY") or kept_key.kept(kept_key.path_of(gateway))
    except OSError as error:
        fail(f"can't read the key of `nebula login`: {error.strerror or error}")
    now = run(_asked(f"{gateway}{captured.path}", gateway, key, body))
    if as_json:
        tables.print_json({"captured": shown(captured), "replayed": shown(now)})
    else:
        _print(captured, now)
    if now.status >= 400:
        raise SystemExit(1)


async def _asked(url: str, gateway: str, key: str, body: dict[str, Any]) -> Replayed:
    import httpx

    headers = {"authorization": f"Bearer {key}"} if key else {}
    began = time.monotonic()
    try:
        async with httpx.AsyncClient(timeout=LONGEST) as http:
            answer = await http.post(url, json=body, headers=headers)
    except httpx.HTTPError as error:
        fail(f"the gateway at {gateway} does not answer: {error or type(error).__name__}")
    took = round((time.monotonic() - began) * 1000)
    identity = answer.headers.get("x-request-id", "")
    return replayed(body["model"], answer.status_code, took, answer.content, identity)


def _print(captured: CapturedRequest, now: Replayed) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column(tables.escape(f"captured: {captured.model}"), overflow="fold")
    table.add_column(tables.escape(f"now: {now.model}"), overflow="fold")
    kept = captured.answer or f"not kept ({captured.contents}), {captured.answer_size} bytes"
    for name, one, other in (
        ("status", str(captured.status), str(now.status)),
        ("milliseconds", str(captured.milliseconds), str(now.milliseconds)),
        ("prompt tokens", str(captured.prompt_tokens), str(now.prompt_tokens)),
        ("answer tokens", str(captured.completion_tokens), str(now.completion_tokens)),
        ("answer", kept, now.answer),
    ):
        table.add_row(name, *(_cell(each) for each in (one, other)))
    tables.console().print(table)


def _cell(text: str) -> str:
    return tables.escape(shown_text(text), LONGEST_CELL)


LONGEST_CELL = 4000
"""Characters of an answer that are printed."""
