"""What the simulated engine counts, and in which words it tells so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from nebula.engines.simulated_app import SimulatedEngine
from nebula.engines.simulated_metrics import _KEPT, Metrics, _Histogram
from tests.unit.asked_engine import HOUR, Call, chat, engine, get, post

pytestmark = pytest.mark.anyio

BOUNDS = (0.5, 1.0, 2.0, 5.0)


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


@given(st.lists(st.floats(0, 10) | st.sampled_from(BOUNDS)))
def test_many_values_are_observed_as_one_by_one(values: list[float]) -> None:
    together, alone = _Histogram(BOUNDS), _Histogram(BOUNDS)
    together.observe_all(values)
    for value in values:
        alone.observe(value)
    counts = [
        [line for line in each.lines("x", "") if "_sum" not in line] for each in (together, alone)
    ]
    assert counts[0] == counts[1]


def test_ended_requests_are_counted_once_however_often_they_are_told() -> None:
    metrics = Metrics(100)
    for number in range(2 * _KEPT + 1):
        metrics.answered(3, 2, "stop", 0.0, 1.0)
        metrics.finished(0.0, 1.0)
        if number == 5:
            metrics.text('"m"')
    for _ in range(2):
        told = metrics.text('"m"')
        for name in ("e2e_request_latency", "request_prefill_time", "inter_token_latency"):
            assert (
                f'vllm:{name}_seconds_count{{engine="0",model_name="m"}} {2.0 * _KEPT + 1}' in told
            )
        assert (
            f'vllm:prompt_tokens_total{{engine="0",model_name="m"}} {3.0 * (2 * _KEPT + 1)}' in told
        )
