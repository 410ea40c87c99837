"""What the simulated engine counts, and in which words it tells so."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from nebula.engines.simulated_app import SimulatedEngine
from tests.unit.asked_engine import HOUR, Call, chat, engine, get, post

pytestmark = pytest.mark.anyio


async def samples(app: SimulatedEngine) -> list[Sample]:
    """Read its metrics as Prometheus does."""
    text = (await get(app, "/metrics")).text
    return [each for family in text_string_to_metric_families(text) for each in family.samples]


async def value(app: SimulatedEngine, name: str, **labels: str) -> float:
    wanted = {"engine": "0", "model_name": "Org/Model", **labels}
    (found,) = (each for each in await samples(app) if (each.name, each.labels) == (name, wanted))
    return found.value


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_and_ends_of_answers_are_counted(stream: bool) -> None:
    app = engine(tokens=8)
    for limit in (4, 9):
        await post(app, "/v1/chat/completions", chat("a b", max_tokens=limit, stream=stream))
    prompt = await value(app, "vllm:prompt_tokens_total")
    assert prompt > 2
    assert await value(app, "vllm:request_prompt_tokens_sum") == prompt
    assert await value(app, "vllm:generation_tokens_total") == 12
    assert await value(app, "vllm:request_generation_tokens_bucket", le="5.0") == 1
    assert await value(app, "vllm:request_generation_tokens_bucket", le="+Inf") == 2
    assert await value(app, "vllm:request_success_total", finished_reason="length") == 1
    assert await value(app, "vllm:request_success_total", finished_reason="stop") == 1
    assert await value(app, "vllm:inter_token_latency_seconds_count") == 10


async def test_the_times_of_an_answer_add_up() -> None:
    app = engine(first_token=0.02, token=0.01)
    await post(app, "/v1/chat/completions", chat("a", max_tokens=3, stream=True))
    names = ("request_prefill_time", "request_decode_time", "e2e_request_latency")
    prefill, decode, whole = [await value(app, f"vllm:{name}_seconds_sum") for name in names]
    assert prefill >= 0.02
    assert decode >= 0.02
    assert whole >= prefill + decode
    assert await value(app, "vllm:time_to_first_token_seconds_sum") == prefill


async def test_a_stream_s_tokens_count_as_they_come_and_its_end_once_it_is_there() -> None:
    app = engine(token=HOUR)
    call = Call(app, "/v1/chat/completions", chat("a", stream=True))
    for _ in range(3):  # the headers, the role, a token
        await call.sent.get()
    assert await value(app, "vllm:generation_tokens_total") == 1
    call.leave()
    await call.task
    assert await value(app, "vllm:e2e_request_latency_seconds_count") == 0


async def test_an_embedding_is_counted_as_a_request_without_tokens() -> None:
    app = engine(runner="pooling")
    await post(app, "/v1/embeddings", {"input": "a"})
    assert await value(app, "vllm:e2e_request_latency_seconds_count") == 1
    assert await value(app, "vllm:time_to_first_token_seconds_count") == 0
