"""Whether texts of real vLLM that differ from the undisturbed ones do so by numerics alone.

What is computed beside what changes the last digits of its logits, and where two tokens are about
as likely, the text. So a stream that went on elsewhere is held against what one vLLM, alone, gives
for the token ids that the next engine was asked with.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx

from benchmarks.data_plane.processes import Failed
from benchmarks.data_plane.streams import run
from nebula.events import envelope, subjects
from nebula.store import inference_log
from nebula.store.connection import Connection

from .asking import Outcome

TIE = 0.5
"""By how much the log probabilities of two tokens may differ that numerics may swap."""

_PATIENCE = 300.0


class Check(NamedTuple):
    """An answer held against one vLLM, which was asked for all of it or for the rest alone.

    `made`: tokens that it had when it went on elsewhere; 0 if it never did. `same`: the text is
    that of vLLM alone; else `gap` is how far apart the log probabilities of the two best tokens
    were where they part.
    """

    number: int
    made: int
    same: bool
    gap: float

    @property
    def good(self) -> bool:
        """Whether nothing but numerics can be the reason."""
        return self.same or self.gap < TIE


def check(differing: Sequence[Outcome], nats: str, model: str, engine: str) -> list[Check]:
    """Hold answers against what the engine at that address gives alone. Raise Failed."""
    asked = run(_continuations(nats, model))
    with httpx.Client(base_url=engine, timeout=_PATIENCE, trust_env=False) as http:
        return [_check(http, outcome, _last(asked, outcome)) for outcome in differing]


async def _continuations(nats: str, model: str) -> dict[str, dict[str, Any]]:
    """Find what engines were asked to go on with, by the ids of the requests: the last of each."""
    found = {}
    connection = await Connection(nats, "benchmark").open(patience=10)
    try:
        asked = [subjects.requests(model), subjects.router_requests(model, "*")]
        async for said in inference_log.read(connection, asked):
            if said.headers.get(envelope.CONTINUES) == "rest":
                found[said.headers[envelope.REQUEST]] = json.loads(said.body)
    finally:
        await connection.close()
    return found


def _last(asked: dict[str, dict[str, Any]], outcome: Outcome) -> dict[str, Any] | None:
    return next((asked[name] for name in outcome.ids if name in asked), None)


def _check(http: httpx.Client, outcome: Outcome, rest: dict[str, Any] | None) -> Check:
    whole = json.loads(outcome.asked.body)
    if rest is None:
        answer = _ask(
            http,
            "/v1/chat/completions",
            {**whole, "stream": False, "logprobs": True, "top_logprobs": 2},
        )
        steps = [
            (step["token"], [top["logprob"] for top in step["top_logprobs"]])
            for step in answer["logprobs"]["content"]
        ]
        return _compare(outcome, 0, outcome.text, answer["message"]["content"], steps)
    made = whole["max_tokens"] - rest["max_tokens"]
    had = _had(http, rest, made)
    if not outcome.text.startswith(had):
        return Check(outcome.asked.number, made, False, float("inf"))
    answer = _ask(http, "/v1/completions", {**rest, "stream": False, "logprobs": 2})
    told = answer["logprobs"]
    steps = [
        (token, list(tops.values()))
        for token, tops in zip(told["tokens"], told["top_logprobs"], strict=True)
    ]
    return _compare(outcome, made, outcome.text[len(had) :], answer["text"], steps)


def _had(http: httpx.Client, rest: dict[str, Any], made: int) -> str:
    """Return the text of the tokens that the client had when its answer went on elsewhere."""
    tokens = rest["prompt"][len(rest["prompt"]) - made :]
    answer = http.post("/detokenize", json={"model": rest["model"], "tokens": tokens})
    return str(answer.raise_for_status().json()["prompt"])


def _ask(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.post(path, json=body)
    if answer.status_code != 200:
        raise Failed(f"the engine alone does not answer: {answer.text[:300]}")
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def _compare(
    outcome: Outcome, made: int, got: str, alone: str, steps: list[tuple[str, list[float]]]
) -> Check:
    number = outcome.asked.number
    if got == alone:
        return Check(number, made, True, 0.0)
    at = 0
    for token, tops in steps:
        if not got.startswith(token, at):
            best = sorted(tops, reverse=True)
            return Check(number, made, False, best[0] - best[1] if len(best) > 1 else 0.0)
        at += len(token)
    return Check(number, made, False, float("inf"))


def told(checks: Sequence[Check]) -> str:
    """Return what came of it."""
    lines = []
    for title, some in (
        ("of answers that went on elsewhere differ", [one for one in checks if one.made]),
        ("of the other answers differ", [one for one in checks if not one.made]),
    ):
        if not some:
            continue
        same = sum(one.same for one in some)
        ties = [one.gap for one in some if not one.same and one.good]
        bad = [one for one in some if not one.good]
        line = f"- {len(some)} {title}: {same} are what one vLLM alone gives for the same token ids"
        if ties:
            line += f"; {len(ties)} part from it where the two best tokens are as likely "
            line += f"(log probabilities {max(ties):.3f} apart at most)"
        if bad:
            line += f"; WRONG are those of requests {[(one.number, one.gap) for one in bad]}"
        lines.append(line)
    return "\n".join(lines)
