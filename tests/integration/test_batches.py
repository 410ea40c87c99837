"""Batches over OpenAI's API: every line once, in order, whatever becomes of the batch."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from nebula.events.vocabulary import BatchProgressed
from nebula.store.server import MAX_PAYLOAD
from tests.integration.asking import chat
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio

OVER = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", stands="")
        await cluster.load("embed", task="embedding", stands="")
        for identity in ("chat", "embed"):
            await cluster.stands(identity)

    asyncio.run(load())


def official(cluster: Cluster, key: str = "-") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{cluster.port}/v1", api_key=key, max_retries=0, timeout=PATIENCE
    )


def line(custom_id: str, body: dict[str, Any], url: str = "/v1/chat/completions") -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def jsonl(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


async def submitted(
    client: openai.AsyncOpenAI, data: bytes, endpoint: Any = "/v1/chat/completions", **how: Any
) -> Batch:
    file = await client.files.create(file=("batch.jsonl", data), purpose="batch")
    how = {"completion_window": "24h", **how}
    return await client.batches.create(input_file_id=file.id, endpoint=endpoint, **how)


async def over(
    cluster: Cluster, client: openai.AsyncOpenAI, batch: str, patience: float = PATIENCE
) -> Batch:
    """Return a batch once the gateway knows that it is over."""

    async def ended() -> bool:
        return (await client.batches.retrieve(batch)).status in OVER

    await cluster.poll(ended, "the batch is over", patience)
    return await client.batches.retrieve(batch)


async def read(client: openai.AsyncOpenAI, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    content = (await client.files.content(file)).read()
    return [json.loads(each) for each in content.splitlines()]


async def test_openais_example_of_a_batch_works_unchanged(cluster: Cluster, tmp_path: Path) -> None:
    lines = [
        line(
            f"request-{number}",
            {
                "model": "chat",
                "messages": [
                    {"role": "system", "content": "You are a helpful assistant."},
                    {"role": "user", "content": "Hello world!"},
                ],
                "max_tokens": 4,
            },
        )
        for number in (1, 2)
    ]
    (tmp_path / "batchinput.jsonl").write_bytes(jsonl(lines))
    async with official(cluster) as client:
        with (tmp_path / "batchinput.jsonl").open("rb") as data:
            batch_input_file = await client.files.create(file=data, purpose="batch")
        batch = await client.batches.create(
            input_file_id=batch_input_file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"description": "nightly eval job"},
        )
        assert batch.status == "validating"
        assert batch.expires_at == batch.created_at + 24 * 3600
        done = await over(cluster, client, batch.id)
        assert done.status == "completed"
        assert done.metadata == {"description": "nightly eval job"}
        assert done.request_counts is not None
        counts = done.request_counts
        assert (counts.total, counts.completed, counts.failed) == (2, 2, 0)
        assert done.error_file_id is None
        results = await read(client, done.output_file_id)
        assert [each["custom_id"] for each in results] == ["request-1", "request-2"]
        for each in results:
            assert each["error"] is None
            assert each["response"]["status_code"] == 200
            assert each["response"]["request_id"]
            message = each["response"]["body"]["choices"][0]["message"]
            assert message["role"] == "assistant"
            assert message["content"]
        file = await client.files.retrieve(done.output_file_id or "")
        assert file.purpose == "batch_output"
        listed = [each.id async for each in client.batches.list(limit=10)]
        assert listed[0] == batch.id


async def test_lines_that_fail_are_in_the_error_file(cluster: Cluster) -> None:
    lines = [
        line("good", chat("chat", "one", max_tokens=1)),
        line("unknown", chat("nothing", "one")),
        line("streams", chat("chat", "one", stream=True)),
        line("empty", {"model": "chat"}),
        line("other", chat("embed", "one")),
        line("bad", chat("chat", "one", max_tokens=-1)),
    ]
    async with official(cluster) as client:
        batch = await submitted(client, jsonl(lines))
        done = await over(cluster, client, batch.id)
        assert done.status == "completed"
        assert done.request_counts is not None
        assert (done.request_counts.completed, done.request_counts.failed) == (1, 5)
        [good] = await read(client, done.output_file_id)
        assert good["custom_id"] == "good"
        errors = {each["custom_id"]: each for each in await read(client, done.error_file_id)}
    assert list(errors) == ["unknown", "streams", "empty", "other", "bad"]
    statuses = {each: errors[each]["response"]["status_code"] for each in errors}
    assert statuses == {"unknown": 404, "streams": 400, "empty": 400, "other": 400, "bad": 400}
    said = errors["unknown"]["response"]["body"]["error"]
    assert said["code"] == "model_not_found"


async def test_embeddings_are_answered_as_chats_are(cluster: Cluster) -> None:
    url = "/v1/embeddings"
    lines = [line(f"e{n}", {"model": "embed", "input": f"text {n}"}, url) for n in range(20)]
    async with official(cluster) as client:
        batch = await submitted(client, jsonl(lines), url)
        done = await over(cluster, client, batch.id)
        results = await read(client, done.output_file_id)
    assert [each["custom_id"] for each in results] == [f"e{n}" for n in range(20)]
    assert all(len(r["response"]["body"]["data"][0]["embedding"]) == 384 for r in results)


async def test_an_answer_that_is_larger_than_a_message_is_whole(cluster: Cluster) -> None:
    url, count = "/v1/embeddings", 3000
    lines = [
        line("small", {"model": "embed", "input": "one"}, url),
        line("large", {"model": "embed", "input": [f"t{n}" for n in range(count)]}, url),
    ]
    async with official(cluster) as client:
        batch = await submitted(client, jsonl(lines), url)
        done = await over(cluster, client, batch.id)
        file = await client.files.retrieve(done.output_file_id or "")
        assert file.bytes > MAX_PAYLOAD
        small, large = await read(client, done.output_file_id)
        assert [each.id async for each in client.files.list(purpose="batch_output")]
        owned = {each.purpose async for each in client.files.list()}
    assert owned <= {"batch", "batch_output", "user_data"}
    assert (small["custom_id"], large["custom_id"]) == ("small", "large")
    assert len(large["response"]["body"]["data"]) == count


async def test_an_input_that_is_not_valid_fails_and_says_where(cluster: Cluster) -> None:
    good = line("a", chat("chat"))
    lines = [
        json.dumps(good),
        "",
        "{not json",
        json.dumps(good),
        json.dumps({**good, "custom_id": "b", "method": "GET"}),
        json.dumps({**good, "custom_id": "c", "url": "/v1/embeddings"}),
        json.dumps({**good, "custom_id": None}),
        json.dumps({**good, "custom_id": "d", "body": []}),
    ]
    async with official(cluster) as client:
        batch = await submitted(client, "\r\n".join(lines).encode())
        done = await over(cluster, client, batch.id)
    assert done.status == "failed"
    assert done.failed_at is not None
    assert done.errors is not None
    assert done.errors.data is not None
    found = [(each.line, each.code) for each in done.errors.data]
    assert found == [
        (3, "invalid_json_line"),
        (4, "duplicate_custom_id"),
        (5, "invalid_method"),
        (6, "invalid_url"),
        (7, "missing_required_parameter"),
        (8, "invalid_body"),
    ]
    assert done.output_file_id is None


async def test_a_batch_that_is_cancelled_keeps_the_answers_that_are_there(
    cluster: Cluster,
) -> None:
    await cluster.tell_engine("chat-0", token=0.5)
    lines = [line(f"c{n}", chat("chat", "word", max_tokens=5)) for n in range(300)]
    async with official(cluster) as client:
        batch = await submitted(client, jsonl(lines))
        await cluster.until(
            lambda state: state.batches[batch.id].completed > 0, "some lines have an answer"
        )
        cancelling = await client.batches.cancel(batch.id)
        assert cancelling.status in ("cancelling", "cancelled")
        done = await over(cluster, client, batch.id)
        await cluster.tell_engine("chat-0", token=0.0)
        assert done.status == "cancelled"
        assert (await client.batches.cancel(batch.id)).status == "cancelled"
        output = await read(client, done.output_file_id)
        errors = await read(client, done.error_file_id)
    assert done.request_counts is not None
    assert 0 < len(output) == done.request_counts.completed < 300
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    ids = sorted(each["custom_id"] for each in output + errors)
    assert ids == sorted(f"c{n}" for n in range(300))


async def test_a_batch_whose_time_is_over_expires(cluster: Cluster) -> None:
    await cluster.load("asleep", on_request=True, stands="asleep")
    await cluster.load("slow", options={"simulate-token": 5})
    lines = [
        line("now", chat("chat", max_tokens=1)),
        line("never", chat("asleep")),
        line("under way", chat("slow", max_tokens=50)),
    ]
    async with official(cluster) as client:
        batch = await submitted(client, jsonl(lines), completion_window="8s")
        done = await over(cluster, client, batch.id)
        assert done.status == "expired"
        [good] = await read(client, done.output_file_id)
        bad = await read(client, done.error_file_id)
    assert good["custom_id"] == "now"
    assert [each["custom_id"] for each in bad] == ["never", "under way"]
    assert {each["error"]["code"] for each in bad} == {"batch_expired"}
    state = await cluster.state()
    assert state.models["asleep"].asleep, "a batch wakes no model unless it is asked to"


async def test_a_batch_that_is_asked_to_wakes_a_model(cluster: Cluster) -> None:
    await cluster.load("dozes", on_request=True, stands="asleep")
    async with official(cluster) as client:
        lines = [line("w", chat("dozes", max_tokens=1))]
        batch = await submitted(client, jsonl(lines), extra_body={"wake": True})
        done = await over(cluster, client, batch.id)
    assert done.request_counts is not None
    assert done.request_counts.completed == 1


async def test_a_batch_of_another_key_is_as_unknown_as_none(cluster: Cluster) -> None:
    async with official(cluster, "mine") as mine, official(cluster, "theirs") as theirs:
        batch = await submitted(mine, jsonl([line("x", chat("chat", max_tokens=1))]))
        for ask in (theirs.batches.retrieve, theirs.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await ask(batch.id)
        assert [each async for each in theirs.batches.list()] == []
        with pytest.raises(openai.NotFoundError):
            await theirs.batches.create(
                input_file_id=batch.input_file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
            )
        await over(cluster, mine, batch.id)


async def test_the_same_idempotency_key_gives_the_same_batch(cluster: Cluster) -> None:
    headers = {"Idempotency-Key": "nightly-7"}
    async with official(cluster, "twice") as client:
        batch = await submitted(
            client, jsonl([line("x", chat("chat", max_tokens=1))]), extra_headers=headers
        )
        again = await client.batches.create(
            input_file_id=batch.input_file_id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_headers=headers,
        )
        assert again.id == batch.id
        with pytest.raises(openai.UnprocessableEntityError):
            await client.batches.create(
                input_file_id=batch.input_file_id,
                endpoint="/v1/completions",
                completion_window="24h",
                extra_headers=headers,
            )
        await over(cluster, client, batch.id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"endpoint": "/v1/audio/transcriptions"}, "endpoint"),
        ({"completion_window": "8d"}, "completion_window"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"metadata": {"k": "v" * 513}}, None),
        ({"output_expires_after": {"anchor": "never", "seconds": 3600}}, "output_expires_after"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
        ({"input_file_id": 7}, "input_file_id"),
    ],
)
async def test_a_bad_request_for_a_batch_is_refused(
    cluster: Cluster, fields: dict[str, Any], param: str | None
) -> None:
    async with official(cluster) as client, cluster.http() as http:
        file = await client.files.create(file=("b.jsonl", b"{}"), purpose="batch")
        wanted = {
            "input_file_id": file.id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            **fields,
        }
        headers = {"authorization": "Bearer -"}
        answer = await http.post("/v1/batches", json=wanted, headers=headers)
    assert answer.status_code == 400, answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param


async def test_a_file_of_another_purpose_is_not_an_input(cluster: Cluster) -> None:
    async with official(cluster) as client:
        file = await client.files.create(file=("b.jsonl", b"{}"), purpose="user_data")
        with pytest.raises(openai.BadRequestError, match="purpose is user_data"):
            await client.batches.create(
                input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
            )
        with pytest.raises(openai.NotFoundError):
            await client.batches.create(
                input_file_id="file-none", endpoint="/v1/embeddings", completion_window="24h"
            )


async def test_an_input_stays_as_long_as_its_batch_needs_it(cluster: Cluster) -> None:
    await cluster.load("rests", on_request=True, stands="asleep")
    async with official(cluster) as client:
        batch = await submitted(client, jsonl([line("x", chat("rests"))]))
        with pytest.raises(openai.ConflictError, match="is the input of batch"):
            await client.files.delete(batch.input_file_id)
        await client.batches.cancel(batch.id)
        await over(cluster, client, batch.id)
        assert (await client.files.delete(batch.input_file_id)).deleted
        short = await client.files.create(
            file=("b.jsonl", b"{}"),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        with pytest.raises(openai.BadRequestError, match="expires before"):
            await client.batches.create(
                input_file_id=short.id, endpoint="/v1/embeddings", completion_window="24h"
            )


async def test_the_log_tells_of_a_batch_and_of_no_line(cluster: Cluster) -> None:
    async with official(cluster) as client:
        lines = [line(f"q{n}", chat("chat", max_tokens=1)) for n in range(5)]
        batch = await submitted(client, jsonl(lines))
        await over(cluster, client, batch.id)
    told = await cluster.records(identity=batch.id)
    kinds = [record.type for record in told if not isinstance(record.content, BatchProgressed)]
    assert kinds == ["BatchRequested", "BatchStarted", "BatchFinished"]
    why = await cluster.nebula("why", "batch", batch.id)
    assert why.code == 0, why.err
    assert f"batch {batch.id} is completed: 5 of 5 lines completed, 0 failed" in why.out


async def test_the_command_line_submits_a_batch_and_fetches_its_results(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_bytes(jsonl([line(f"q{n}", chat("chat", max_tokens=1)) for n in range(5)]))
    told = await cluster.nebula(
        "batch", "submit", str(file), "--endpoint", "/v1/chat/completions", "--json"
    )
    assert told.code == 0, told.err
    assert "is completed: 5 of 5 lines completed, 0 failed" in told.err
    found = json.loads(told.out)
    assert (found["status"], found["request_counts"]["completed"]) == ("completed", 5)
    results = await cluster.nebula("batch", "results", found["id"])
    assert [json.loads(each)["custom_id"] for each in results.out.splitlines()] == [
        f"q{n}" for n in range(5)
    ]
    errors = await cluster.nebula("batch", "results", found["id"], "--errors")
    assert errors.code == 1
    assert "has no errors" in errors.err
    status = await cluster.nebula("batch", "status", found["id"])
    assert "5 of 5 lines completed" in status.out
    assert found["id"] in (await cluster.nebula("batch")).out


async def test_the_command_line_cancels_a_batch_and_tells_what_failed(
    cluster: Cluster, tmp_path: Path
) -> None:
    await cluster.load("sleeper", on_request=True, stands="asleep")
    file = tmp_path / "requests.jsonl"
    file.write_bytes(jsonl([line("a", chat("sleeper"))]))
    asked = ("batch", "submit", str(file), "--endpoint", "/v1/chat/completions")
    begun = await cluster.nebula(*asked, "--no-wait")
    assert begun.code == 0, begun.err
    identity = begun.out.strip()
    early = await cluster.nebula("batch", "results", identity)
    assert early.code == 1
    assert "is not over" in early.err
    cancelled = await cluster.nebula("batch", "cancel", identity)
    assert cancelled.code == 0, cancelled.err
    assert f"batch {identity} is cancelled" in cancelled.err
    errors = await cluster.nebula("batch", "results", identity, "--errors")
    assert json.loads(errors.out)["error"]["code"] == "batch_cancelled"
    again = await cluster.nebula("batch", "cancel", identity)
    assert (again.code, "already cancelled" in again.err) == (1, True)
    file.write_bytes(b"{}\n")
    failed = await cluster.nebula(*asked)
    assert failed.code == 1
    assert "line 1: custom_id is required" in failed.err
    unknown = await cluster.nebula("batch", "status", "nothing")
    assert (unknown.code, "there is no batch 'nothing'" in unknown.err) == (1, True)
    unknown = await cluster.nebula("batch", "cancel", "nothing")
    assert (unknown.code, "lists them" in unknown.err) == (1, True)
    assert identity not in unknown.err
