"""Tokens, batches and generative scores of a simulated engine, and which tasks it says it has."""

from typing import Any

import pytest

from nebula.engines.simulated import parse
from nebula.engines.simulated_app import SimulatedEngine
from nebula.engines.simulated_settings import HfOverrides, Settings
from tests.unit.asked_engine import HOUR, Call, chat, engine, get, post, said

pytestmark = pytest.mark.anyio

BATCH = "/v1/chat/completions/batch"
SCORING = "/generative_scoring"
CONVERSATIONS = [chat("a b")["messages"], chat("c")["messages"]]


# Tasks


@pytest.mark.parametrize(
    ("line", "tasks"),
    [
        ("", ("generate",)),
        ("--runner generate", ("generate",)),
        ("--runner pooling", ("embed", "token_embed")),
        ("--runner pooling --convert embed", ("embed", "token_embed")),
        ("--runner pooling --convert none", ("embed", "token_embed")),
        ("--runner pooling --convert classify", ("classify", "token_classify")),
        ("--simulate-tasks transcription", ("transcription",)),
        ("--simulate-tasks generate transcription", ("generate", "transcription")),
    ],
)
async def test_the_tasks_are_those_of_the_command_line_and_the_app_says_them_as_vllms_does(
    line: str, tasks: tuple[str, ...]
) -> None:
    app = SimulatedEngine(parse(["--model", "m", *line.split()]))

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.shutdown"}

    async def send(_: Any) -> None:
        pass

    scope: dict[str, Any] = {"type": "lifespan"}
    await app(scope, receive, send)
    assert await scope["app"].state.engine_client.get_supported_tasks() == tasks


@pytest.mark.parametrize(
    "line",
    [
        "--simulate-tasks score",
        "--convert reward",
        "--hf-overrides nonsense",
        "--hf-overrides []",
        '--hf-overrides {"num_labels":0}',
    ],
)
def test_tasks_and_overrides_that_do_not_exist_end_the_start(line: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(["--model", "m", *line.split()])
    assert exit_.value.code == 2


def test_what_an_override_says_of_other_things_is_passed_over() -> None:
    line = ["--model", "m", "--hf-overrides", '{"num_labels": 3, "architectures": ["A"]}']
    assert parse(line) == Settings(model="m", hf_overrides=HfOverrides(num_labels=3))


# Tokens


@pytest.mark.parametrize("runner", ["auto", "pooling"])
async def test_every_engine_tells_tokens_and_reads_them(runner: str) -> None:
    app = engine(runner=runner, max_model_len=99)
    answer = (await post(app, "/tokenize", {"prompt": "red green"})).json()
    assert (answer["count"], answer["max_model_len"]) == (2, 99)
    assert answer["token_strs"] is None
    back = await post(app, "/detokenize", {"tokens": answer["tokens"]})
    assert back.json() == {"prompt": "red green"}
    strings = await post(app, "/tokenize", {"prompt": "red green", "return_token_strs": True})
    assert strings.json()["token_strs"] == ["red", "green"]


async def test_the_tokens_of_a_chat_are_those_that_it_is_answered_from() -> None:
    app, body = engine(), chat("a b", max_tokens=1, return_token_ids=True)
    told = (await post(app, "/v1/chat/completions", body)).json()
    answer = (await post(app, "/tokenize", {**chat("a b"), "prompt": "not this"})).json()
    assert answer["tokens"] == told["prompt_token_ids"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tokenize", {}, 400),
        ("/tokenize", {"prompt": "a", "model": "big"}, 404),
        ("/tokenize", {"messages": []}, 400),
        (
            "/tokenize",
            {**chat("a"), "continue_final_message": True, "add_generation_prompt": True},
            400,
        ),
        ("/detokenize", {"tokens": [-5]}, 400),
        ("/detokenize", {"tokens": [5], "model": "big"}, 404),
    ],
)
async def test_tokens_of_nothing_are_refused(path: str, body: Any, status: int) -> None:
    response = await post(engine(), path, body)
    assert response.status_code == response.json()["error"]["code"] == status


# Batches


async def test_a_batch_answers_each_chat_as_if_it_were_alone() -> None:
    app = engine()
    body = {"messages": CONVERSATIONS, "max_tokens": 3, "return_token_ids": True}
    answer = (await post(app, BATCH, body)).json()
    assert answer["object"] == "chat.completion"
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert texts == [await said(app, chat(text, max_tokens=3)) for text in ("a b", "c")]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert [len(choice["token_ids"]) for choice in answer["choices"]] == [3, 3]
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize(
    "fields",
    [{"n": 2}, {"messages": []}, {"messages": [[]]}, chat("flat"), {"max_tokens": 0}],
)
async def test_a_batch_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    response = await post(engine(), BATCH, {"messages": CONVERSATIONS, **fields})
    assert response.status_code == 400


# Generative scores


async def test_a_score_is_the_probability_of_the_first_label() -> None:
    labels = [5, 6, 7]

    async def scores(**fields: Any) -> list[float]:
        body = {"query": "is it", "items": ["good", "bad"], "label_token_ids": labels, **fields}
        answer = (await post(engine(), SCORING, body)).json()
        assert answer["usage"]["prompt_tokens"] == 6
        assert answer["usage"]["completion_tokens"] == 2
        return [item["score"] for item in answer["data"]]

    among = [await scores(label_token_ids=labels[at:] + labels[:at]) for at in range(len(labels))]
    assert [sum(each) for each in zip(*among, strict=True)] == pytest.approx([1, 1])
    of_all = await scores(apply_softmax=False)
    assert all(one < other for one, other in zip(of_all, among[0], strict=True))
    assert await scores(item_first=True) != among[0] == await scores()


@pytest.mark.parametrize(
    "fields", [{"items": []}, {"label_token_ids": []}, {"label_token_ids": [-1]}, {"query": None}]
)
async def test_scores_of_nothing_are_refused(fields: dict[str, Any]) -> None:
    body = {"query": "a", "items": ["b"], "label_token_ids": [5], **fields}
    assert (await post(engine(), SCORING, body)).status_code == 400


# What is true of all generating paths


GENERATING: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", chat("!status=503")),
    (BATCH, {"messages": [chat("a")["messages"], chat("!status=503")["messages"]]}),
    ("/v1/completions", {"prompt": "!status=503"}),
    ("/v1/responses", {"input": "!status=503"}),
    ("/v1/messages", {**chat("!status=503"), "model": "Org/Model", "max_tokens": 2}),
    (SCORING, {"query": "!status=503", "items": ["a"], "label_token_ids": [5]}),
]


@pytest.mark.parametrize(("path", "body"), GENERATING)
async def test_every_generating_path_obeys_waits_and_notices_a_client_that_leaves(
    path: str, body: dict[str, Any]
) -> None:
    assert (await post(engine(orders=True), path, body)).status_code == 503
    app = engine(first_token=HOUR, max_num_seqs=1)
    first, waiting = (Call(app, path, body) for _ in range(2))
    for call in (waiting, first):
        call.leave()
        await call.task
        assert call.sent.empty()
    assert (app.core.running, app.core.aborted) == (0, 2)
    stalled = engine()
    await post(stalled, "/simulate", {"stall": True})
    call = Call(stalled, path, body)
    assert (await get(stalled, "/health")).status_code == 200
    await post(stalled, "/simulate", {"stall": False})
    await call.task
    assert (await call.sent.get())["status"] == 200
