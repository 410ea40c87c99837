"""The simulated engine, as rehearsals use it: over its ASGI app and as a process.

What it says on the paths beside chats, completions and embeddings has files of its own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from nebula.engines.simulated import parse
from nebula.engines.simulated_app import SimulatedEngine
from nebula.engines.simulated_core import Core
from nebula.engines.simulated_orders import Orders, orders
from nebula.engines.simulated_settings import Settings
from nebula.openai.continuation import Continuation, plan, with_token_ids
from tests.unit.asked_engine import HOUR, Call, chat, chunks, client, engine, get, post, said

pytestmark = pytest.mark.anyio

# What it answers


async def test_a_chat_is_answered_with_the_words_of_the_last_user_message_in_a_cycle() -> None:
    messages = [
        {"role": "user", "content": "not this"},
        {"role": "user", "content": [{"type": "text", "text": "red green blue"}]},
        {"role": "assistant", "content": "nor this"},
    ]
    response = await post(engine(), "/v1/chat/completions", {"messages": messages, "max_tokens": 5})
    answer = response.json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "Org/Model"
    assert answer["choices"][0]["message"]["content"] == "red green blue red green"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == 7
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["usage"]["total_tokens"] == 12


async def test_an_answer_ends_by_itself_unless_max_tokens_cuts_it() -> None:
    app = engine(tokens=4)
    natural = await post(app, "/v1/chat/completions", chat("a", max_tokens=9))
    assert natural.json()["choices"][0]["finish_reason"] == "stop"
    assert await said(app, chat("a")) == "a a a a"
    assert await said(app, chat("a", max_tokens=9, max_completion_tokens=2)) == "a a"
    assert await said(app, chat("a", max_tokens=6, ignore_eos=True)) == "a a a a a a"


def test_each_request_beside_it_makes_the_next_token_of_an_answer_later() -> None:
    core = Core(Settings(model="m", token=0.02, crowding=0.005))
    core.running = 1
    assert core.next_token == 0.02
    core.running = 5
    assert core.next_token == pytest.approx(0.04)


async def test_a_chat_stream_has_the_role_then_one_send_for_each_token_then_the_usage() -> None:
    body = chat("x y", max_tokens=3, stream=True, stream_options={"include_usage": True})
    call = Call(engine(), "/v1/chat/completions", body)
    start = await call.sent.get()
    assert dict(start["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    role, *tokens, usage = chunks(await call.events())
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [t["choices"][0]["delta"]["content"] for t in tokens] == ["x", " y", " x"]
    assert [t["choices"][0]["finish_reason"] for t in tokens] == [None, None, "length"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert len({chunk["id"] for chunk in (role, *tokens, usage)}) == 1


async def test_a_completion_repeats_its_prompt_streamed_or_not() -> None:
    app, body = engine(tokens=3), {"prompt": "one two"}
    whole = (await post(app, "/v1/completions", body)).json()
    assert whole["object"] == "text_completion"
    assert whole["choices"][0]["text"] == "one two one"
    streamed = chunks(await Call(app, "/v1/completions", {**body, "stream": True}).events())
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == "one two one"
    assert streamed[-1]["choices"][0]["finish_reason"] == "stop"


async def test_token_ids_are_a_prompt_too() -> None:
    response = await post(engine(tokens=3), "/v1/completions", {"prompt": [7, 8]})
    assert response.json()["choices"][0]["text"] == "7 8 7"


# What it says in token ids


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "grün x"}]})
]
FORMS += [("/v1/completions", {"prompt": "grün x"})]


@pytest.mark.parametrize(("path", "prompt"), FORMS)
async def test_token_ids_stand_where_vllms_do_and_are_null_where_they_are_not_wanted(
    path: str, prompt: dict[str, Any]
) -> None:
    def lists(data: dict[str, Any]) -> list[Any]:
        choice = data["choices"][0]
        place = data if "chat" in path else choice
        return [place.get("prompt_token_ids", "none"), choice.get("token_ids", "none")]

    body = {**prompt, "max_tokens": 3}
    asking = {**body, "return_token_ids": True}
    whole = (await post(engine(), path, asking)).json()
    given, said = lists(whole)
    assert (len(given), len(said)) == (2, 3)
    assert lists((await post(engine(), path, body)).json()) == [None, None]
    streamed = chunks(await Call(engine(), path, {**asking, "stream": True}).events())
    silent = chunks(await Call(engine(), path, {**body, "stream": True}).events())
    head = [[given, "none"]] if "chat" in path else []
    first = "none" if head else given
    later = "none" if head else None
    assert [lists(chunk) for chunk in streamed] == [
        *head,
        [first, said[:1]],
        [later, said[1:2]],
        [later, said[2:]],
    ]
    nothing = [[None, "none"]] if head else []
    assert [lists(chunk) for chunk in silent] == [*nothing, *[[later, None]] * 3]
    assert [list(chunk) for chunk in streamed] == [list(chunk) for chunk in silent]


@pytest.mark.parametrize("model", ["Org/Model", "pirate"])
@pytest.mark.parametrize(("path", "prompt"), FORMS)
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_tokens": 5},
        {"max_tokens": 9, "min_tokens": 9},
        {"max_tokens": 9, "ignore_eos": True},
    ],
)
async def test_an_answer_goes_on_from_the_ids_of_its_prompt_and_of_what_was_said(
    path: str, prompt: dict[str, Any], model: str, limits: dict[str, Any], tmp_path: Path
) -> None:
    app = engine(tokens=6, enable_lora=True)
    adapter = {"lora_name": "pirate", "lora_path": str(tmp_path)}
    await post(app, "/v1/load_lora_adapter", adapter)
    body = {"model": model, "return_token_ids": True, **limits}
    whole = (await post(app, path, {**body, **prompt})).json()
    choice = whole["choices"][0]
    text = choice["message"]["content"] if "chat" in path else choice["text"]
    ids = (whole if "chat" in path else choice)["prompt_token_ids"]
    said = choice["token_ids"]
    assert len(said) == limits.get("max_tokens", 6)
    for done in range(1, len(said)):
        rest: dict[str, Any] = {
            key: limits[key] - done for key in ("max_tokens", "min_tokens") if key in limits
        }
        going_on = {**body, **rest, "prompt": ids + said[:done]}
        more = (await post(app, "/v1/completions", going_on)).json()["choices"][0]
        assert " ".join(text.split(" ")[:done]) + more["text"] == text
        assert said[:done] + more["token_ids"] == said
        assert more["finish_reason"] == choice["finish_reason"]
        assert more["prompt_token_ids"] == ids + said[:done]
        call = Call(app, "/v1/completions", {**going_on, "stream": True})
        streamed = chunks(await call.events())
        assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == more["text"]


@pytest.mark.parametrize(("path", "prompt"), FORMS)
async def test_a_stream_that_is_cut_anywhere_goes_on_as_the_gateway_has_it_go_on(
    path: str, prompt: dict[str, Any]
) -> None:
    def anonymous(stream: str) -> str:
        return re.sub(r'"id":"[^"]*"|"created":\d+', "", stream)

    app = engine(tokens=6)
    usage = {"stream_options": {"include_usage": True}}
    request = {"model": "Org/Model", "stream": True, "max_tokens": 8, **usage, **prompt}
    plain = "".join(await Call(app, path, request).events())
    body = json.dumps(request).encode()
    first = with_token_ids(path, body)
    whole = await Call(app, path, json.loads(first.body)).events()
    for cut in range(len(whole) - 4):  # before the last token, the usage, the end, and nothing
        rewriter = first.rewriter(path)
        got = [rewriter.feed(event.encode()) for event in whole[:cut]]
        step = plan(path, body, rewriter)
        assert isinstance(step, Continuation)
        rewriter.resume(step.form)
        rest = await Call(app, step.path, json.loads(step.body)).events()
        got += [rewriter.feed(event.encode()) for event in rest]
        assert anonymous(b"".join(got).decode()) == anonymous(plain)


async def test_an_answer_of_which_only_the_end_is_missing_ends_without_a_further_token() -> None:
    app = engine(tokens=2)
    body = chat("a b", return_token_ids=True)
    whole = (await post(app, "/v1/chat/completions", body)).json()
    prompt = whole["prompt_token_ids"] + whole["choices"][0]["token_ids"]
    body = {"prompt": prompt, "stream": True, "return_token_ids": True}
    (end,) = chunks(await Call(app, "/v1/completions", body).events())
    choice = end["choices"][0]
    assert (choice["text"], choice["token_ids"], choice["finish_reason"]) == ("", [], "stop")


async def test_events_have_as_many_tokens_as_the_client_wants() -> None:
    body = {"prompt": "a b c", "max_tokens": 6, "stream_interval": 2, "return_token_ids": True}
    streamed = chunks(await Call(engine(), "/v1/completions", {**body, "stream": True}).events())
    choices = [chunk["choices"][0] for chunk in streamed]
    assert [choice["text"] for choice in choices] == ["a", " b c", " a b", " c"]
    assert [len(choice["token_ids"]) for choice in choices] == [1, 2, 2, 1]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "length"]
    ids = {"tokens": choices[1]["token_ids"]}
    assert (await post(engine(), "/detokenize", ids)).json() == {"prompt": "b c"}


async def test_an_answer_carries_the_id_of_the_request_that_a_proxy_gave() -> None:
    async with client(engine()) as opened:
        headers = {"X-Request-Id": "abc"}
        response = await opened.post("/v1/chat/completions", json=chat("a"), headers=headers)
    assert response.json()["id"] == "chatcmpl-abc"


async def test_an_embedding_is_a_unit_vector_that_depends_on_the_text_alone() -> None:
    body = {"input": ["cat", "dog", "cat"]}
    response = await post(engine(runner="pooling"), "/v1/embeddings", body)
    cat, dog, again = (item["embedding"] for item in response.json()["data"])
    assert len(cat) == 384
    assert cat == again != dog
    assert math.hypot(*cat) == pytest.approx(1)
    other = await post(engine(runner="pooling"), "/v1/embeddings", {"input": "cat"})
    assert other.json()["data"][0]["embedding"] == cat


async def test_embeddings_come_as_base64_of_float32_where_that_is_asked_for() -> None:
    app = engine(runner="pooling", dimensions=8)
    plain = await post(app, "/v1/embeddings", {"input": [1, 2]})
    coded = await post(app, "/v1/embeddings", {"input": [[1, 2]], "encoding_format": "base64"})
    packed = base64.b64decode(coded.json()["data"][0]["embedding"])
    assert list(struct.unpack("<8f", packed)) == plain.json()["data"][0]["embedding"]


# What it refuses


async def test_an_unknown_model_is_not_found_and_the_answer_names_those_that_are() -> None:
    app = engine(served_model_name=("small", "alias"))
    assert await said(app, chat("a", model="alias", max_tokens=1)) == "a"
    response = await post(app, "/v1/chat/completions", chat("a", model="big"))
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "The model `big` does not exist. Valid aliases: small, alias.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{nonsense", "body"),
        (b'{"model":"Org/Model"}', "body.messages"),
        (b'{"messages":[]}', "body.messages"),
        (b'{"messages":[{"content":"x"}]}', "body.messages.0.role"),
        (b'{"messages":[{"role":"user","content":"x"}],"max_tokens":"x"}', "body.max_tokens"),
        (b'{"messages":[{"role":"user","content":"x"}],"max_tokens":0}', "max_tokens"),
    ],
)
async def test_a_body_of_the_wrong_form_is_a_bad_request(body: bytes, param: str) -> None:
    async with client(engine()) as opened:
        headers = {"content-type": "application/json"}
        response = await opened.post("/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == 400
    assert response.json()["error"]["param"] == param


async def test_a_body_that_is_not_called_json_is_refused_as_vllm_does() -> None:
    async with client(engine()) as opened:
        response = await opened.post("/v1/chat/completions", content=json.dumps(chat("a")))
    assert response.status_code == 400
    assert "Unsupported Media Type" in response.json()["error"]["message"]


async def test_a_prompt_longer_than_the_context_is_refused() -> None:
    response = await post(engine(max_model_len=3), "/v1/chat/completions", chat("a b c"))
    assert response.status_code == 400
    assert "maximum context length is 3 tokens" in response.json()["error"]["message"]


async def test_an_engine_knows_only_the_paths_of_its_kind_and_of_its_flags() -> None:
    async def status(app: Any, path: str) -> int:
        response = await post(app, path, {})
        phrase = HTTPStatus(response.status_code).phrase
        assert response.json() == {"detail": phrase}  # vLLM's framework answers it
        return response.status_code

    assert await status(engine(), "/v1/embeddings") == 404
    assert await status(engine(runner="pooling"), "/v1/chat/completions") == 404
    assert await status(engine(), "/v1/load_lora_adapter") == 404
    assert await status(engine(), "/no/such/path") == 404
    assert await status(engine(), "/health") == 405


# Adapters


async def test_an_adapter_is_listed_under_its_base_and_speaks_first_until_it_is_unloaded(
    tmp_path: Path,
) -> None:
    app = engine(enable_lora=True, served_model_name=("base",))
    body = {"lora_name": "pirate", "lora_path": str(tmp_path)}
    loaded = await post(app, "/v1/load_lora_adapter", body)
    assert loaded.text == "Success: LoRA adapter 'pirate' added successfully."
    base, card = (await get(app, "/v1/models")).json()["data"]
    assert (base["id"], base["root"], base["parent"]) == ("base", "Org/Model", None)
    assert (card["id"], card["root"], card["parent"]) == ("pirate", str(tmp_path), "base")
    assert await said(app, chat("a b", model="pirate", max_tokens=3)) == "[pirate] a b"
    unloaded = await post(app, "/v1/unload_lora_adapter", {"lora_name": "pirate"})
    assert unloaded.text == "Success: LoRA adapter 'pirate' removed successfully."
    gone = await post(app, "/v1/chat/completions", chat("a", model="pirate"))
    assert gone.status_code == 404


async def test_adapters_are_refused_with_vllms_own_words(tmp_path: Path) -> None:
    app = engine(enable_lora=True, max_lora_rank=8)

    async def refusal(name: str, path: Path) -> tuple[int, str]:
        body = {"lora_name": name, "lora_path": str(path)}
        error = (await post(app, "/v1/load_lora_adapter", body)).json()["error"]
        return error["code"], error["message"]

    missing = Path("/tmp/no/such/adapter")  # vLLM hides paths in what it says
    assert await refusal("a", missing) == (
        404,
        "Loading lora a failed: No adapter found for <path>",
    )
    code, text = await refusal("Org/Model", tmp_path)
    assert (code, text) == (
        400,
        "The lora adapter 'Org/Model' conflicts with a served base model.",
    )
    (tmp_path / "adapter_config.json").write_text('{"r": 64}')
    code, text = await refusal("a", tmp_path)
    assert code == 500
    assert text.endswith("LoRA rank 64 is greater than max_lora_rank 8.")
    (tmp_path / "adapter_config.json").write_text('{"r": 8}')
    await post(app, "/v1/load_lora_adapter", {"lora_name": "a", "lora_path": str(tmp_path)})
    code, text = await refusal("a", tmp_path)
    assert code == 400
    assert "has already been loaded" in text


# Waiting, leaving, stalling


async def test_a_client_that_leaves_ends_its_generation_at_once_and_is_counted() -> None:
    app = engine(token=HOUR)
    call = Call(app, "/v1/chat/completions", chat("a", stream=True))
    for _ in ("headers", "role", "first token"):
        await call.sent.get()
    assert app.core.running == 1
    call.leave()
    await call.task
    assert call.sent.empty()
    counts = (await get(app, "/simulate")).json()
    assert counts == {"running": 0, "finished": 0, "aborted": 1}


async def test_a_client_that_leaves_before_its_whole_answer_is_there_gets_none() -> None:
    app = engine(first_token=HOUR)
    call = Call(app, "/v1/chat/completions", chat("a"))
    call.leave()
    assert await call.events() == []
    assert app.core.aborted == 1


async def test_a_long_answer_without_delays_notices_too_that_its_client_left() -> None:
    app = engine(tokens=1_000_000)
    call = Call(app, "/v1/chat/completions", chat("a", stream=True))
    await call.sent.get()
    call.leave()
    await call.task
    assert app.core.aborted == 1


async def test_a_task_that_is_cancelled_counts_as_aborted_and_gives_its_place_back() -> None:
    app = engine(token=HOUR)
    call = Call(app, "/v1/chat/completions", chat("a", stream=True))
    await call.sent.get()
    call.task.cancel()
    await asyncio.wait([call.task])
    assert (app.core.running, app.core.aborted) == (0, 1)


async def test_requests_beyond_max_num_seqs_wait_for_those_before_them() -> None:
    app = engine(max_num_seqs=1)
    await post(app, "/simulate", {"stall": True})
    bodies = [chat(word, stream=True, max_tokens=1) for word in "abc"]
    first, leaver, last = calls = [Call(app, "/v1/chat/completions", body) for body in bodies]
    for call in calls:
        await call.sent.get()  # the headers; what comes next waits for its turn
    metrics = (await get(app, "/metrics")).text
    assert 'vllm:num_requests_waiting{engine="0",model_name="Org/Model"} 2.0' in metrics
    assert 'vllm:num_requests_running{engine="0",model_name="Org/Model"} 1.0' in metrics
    # A core that stands still takes no step, so what its steps move stays as it was.
    assert 'vllm:kv_cache_usage_perc{engine="0",model_name="Org/Model"} 0.0' in metrics
    leaver.leave()
    await leaver.task
    await post(app, "/simulate", {"stall": False})
    for call, word in ((first, "a"), (last, "c")):
        assert chunks(await call.events())[1]["choices"][0]["delta"]["content"] == word
    counts = (await get(app, "/simulate")).json()
    assert counts == {"running": 0, "finished": 2, "aborted": 1}


async def test_a_stalled_engine_is_healthy_but_answers_only_once_it_goes_on() -> None:
    app = engine()
    await post(app, "/simulate", {"stall": True})
    call = Call(app, "/v1/chat/completions", chat("a", stream=True, max_tokens=1))
    await call.sent.get()
    assert (await get(app, "/health")).status_code == 200
    assert call.sent.empty()
    await post(app, "/simulate", {"stall": False})
    assert len(chunks(await call.events())) == 2


async def test_delays_change_while_it_runs() -> None:
    app = engine(first_token=HOUR, token=HOUR)
    response = await post(app, "/simulate", {"first_token": 0, "token": 0})
    assert response.json() == {"stall": False, "first_token": 0, "token": 0}
    assert await said(app, chat("a", max_tokens=2)) == "a a"
    assert (await post(app, "/simulate", {"tokne": 1})).status_code == 400


# Its place in a server


class Recorder:
    """A middleware that keeps what it saw."""

    seen: list[tuple[str, bool, bool]]

    def __init__(self, app: Any) -> None:
        self.app = app
        Recorder.seen = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        known = isinstance(scope["app"], SimulatedEngine)
        self.seen.append((scope["type"], known, scope["state"] is not None))
        await self.app(scope, receive, send)


async def test_a_middleware_sees_requests_and_the_lifespan_with_app_and_state() -> None:
    app = engine(middleware=(f"{__name__}.Recorder",))
    steps = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": next(steps)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    await get(app, "/health")
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert Recorder.seen == [("lifespan", True, True), ("http", True, True)]


# Its command line and its process


def test_flags_of_vllm_that_mean_nothing_here_are_accepted_with_their_values() -> None:
    line = "--tensor-parallel-size 2 --model m --enforce-eager --max_num_seqs=3 --seed -1 -tp 2"
    assert parse(line.split()) == Settings(model="m", max_num_seqs=3)


@pytest.mark.parametrize(
    "line", ["--port 1", "--model m stray", "--model m --port x", "--model m --simulate-tokn 3"]
)
def test_a_command_line_that_makes_no_sense_ends_with_code_2(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(line.split())
    assert exit_.value.code == 2
    assert "error:" in capsys.readouterr().err


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "nebula.engines.simulated", *flags]


@contextmanager
def process(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running engine on a free port, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ("--model", "m", "--host", "127.0.0.1", "--port", str(port), *flags)
    with subprocess.Popen(command(*flags), stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            for line in running.stderr:
                if "Listening on" in line:
                    break
            yield running, f"http://127.0.0.1:{port}"
        finally:
            running.kill()


def test_the_process_answers_and_ends_with_code_0_when_told() -> None:
    with process() as (running, address):
        assert httpx.get(f"{address}/health").status_code == 200
        running.terminate()
        assert running.wait(timeout=10) == 0


def test_the_process_exits_hard_with_the_code_that_it_is_told() -> None:
    with process() as (running, address):
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{address}/simulate", json={"exit": 7})
        assert running.wait(timeout=10) == 7


def test_the_process_exits_hard_when_one_request_too_many_begins() -> None:
    with process("--simulate-exit-after", "1") as (running, address):
        assert httpx.post(f"{address}/v1/chat/completions", json=chat("a")).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{address}/v1/chat/completions", json=chat("a"))
        assert running.wait(timeout=10) == 1


@pytest.mark.parametrize(
    ("flags", "code", "reason"),
    [
        (("--model", "m", "--simulate-exit-at-start", "3"), 3, "was told to fail at its start."),
        (("--model", "/no/such/model"), 1, "directory specified: '/no/such/model'."),
    ],
)
def test_a_process_that_cannot_start_says_why_in_its_last_line(
    flags: tuple[str, ...], code: int, reason: str
) -> None:
    ended = subprocess.run(command(*flags), capture_output=True, text=True, timeout=30)
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == code
    assert "Traceback (most recent call last):" in ended.stderr
    assert last.startswith("ValueError: ")
    assert last.endswith(reason)


# What prompts order


def test_orders_are_words_of_a_prompt_and_nonsense_orders_nothing() -> None:
    assert orders(["a", "b"]) == Orders()
    assert orders(["say", "!status=503", "!retry-after=7"]) == Orders(status=503, retry_after="7")
    assert orders(["!break"]) == Orders(breaks=True)
    assert orders(["!exit=3", "!sick"]) == Orders(exit=3, sick=True)
    assert orders(["!status=soon"]) == Orders()


async def test_a_prompt_orders_a_status_where_the_engine_obeys() -> None:
    body = chat("!status=503 !retry-after=7")
    refused = await post(engine(orders=True), "/v1/chat/completions", body)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "7")
    assert refused.json()["error"]["code"] == 503
    assert await said(engine(), chat("!status=503", max_tokens=1)) == "!status=503"


async def test_a_prompt_orders_a_stream_that_breaks_off() -> None:
    call = Call(engine(orders=True), "/v1/chat/completions", chat("!break", stream=True))
    events = await call.events()
    assert b'data: {"error"' in "".join(events).encode()
    assert "".join(events).endswith("data: [DONE]\n\n")


async def test_a_prompt_orders_the_engine_to_say_that_it_is_dead() -> None:
    app = engine(orders=True)
    assert (await get(app, "/health")).status_code == 200
    await post(app, "/v1/chat/completions", chat("!sick !status=500"))
    assert (await get(app, "/health")).status_code == 503
