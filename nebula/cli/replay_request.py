"""`nebula replay request`: a captured request is sent again, to another model."""

import os
import time
from typing import Any

import click
import msgspec
from msgspec import Struct
from rich.table import Table

from nebula.cli import kept_key, tables
from nebula.cli.capture import find
from nebula.cli.login import gateway_option
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import fail, run
from nebula.events.captured import CapturedRequest
from nebula.events.endpoints import ENDPOINTS
from nebula.events.reading import UNREADABLE
from nebula.events.showing import shown, shown_text

LONGEST = 600.0
"""Seconds to wait for the answer."""


class Replayed(Struct, frozen=True):
    """What came of a request now."""

    model: str
    status: int
    milliseconds: int
    prompt_tokens: int
    completion_tokens: int
    answer: str
    id: str = ""


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
    if not isinstance(captured.body, dict):
        fail(f"request {captured.id} was captured without its body: {captured.omitted}")
    if captured.path not in ENDPOINTS:
        fail(f"{captured.path} is not a path that engines answer")
    try:
        key = os.environ.get("NEBULA_API_KEY") or kept_key.kept(kept_key.path_of(gateway))
    except OSError as error:
        fail(f"can't read the key of `nebula login`: {error.strerror or error}")
    now = run(_asked(gateway, key, captured, to))
    if as_json:
        tables.print_json({"captured": shown(captured), "replayed": shown(now)})
    else:
        _print(captured, now)
    if now.status >= 400:
        raise SystemExit(1)


async def _asked(gateway: str, key: str, captured: CapturedRequest, to: str) -> Replayed:
    import httpx

    from nebula.openai.answer_text import text_of
    from nebula.openai.token_usage import told

    body: dict[str, Any] = {**captured.body, "model": to}
    for field in ("stream", "stream_options"):
        body.pop(field, None)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    began = time.monotonic()
    try:
        async with httpx.AsyncClient(timeout=LONGEST) as http:
            answer = await http.post(f"{gateway}{captured.path}", json=body, headers=headers)
    except httpx.HTTPError as error:
        fail(f"the gateway at {gateway} does not answer: {error or type(error).__name__}")
    took = round((time.monotonic() - began) * 1000)
    try:
        usage = msgspec.json.decode(answer.content, type=dict[str, Any]).get("usage")
    except UNREADABLE:
        usage = None
    tokens = told(usage if isinstance(usage, dict) else {})
    return Replayed(
        to,
        answer.status_code,
        took,
        tokens.prompt,
        tokens.completion,
        text_of(answer.content, stream=False),
        answer.headers.get("x-request-id", ""),
    )


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
