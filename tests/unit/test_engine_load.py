"""What an engine says of itself, read from its own HTTP paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.engine.load import EngineLoad, get, read_context, read_load

METRICS = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
process_cpu_seconds_total 12.5
"""


def test_what_waits_and_how_full_the_cache_is_is_read_from_vllms_metrics() -> None:
    assert read_load(METRICS) == EngineLoad(3, 0.25, 4, steps=(0.25,))


def test_of_several_engine_cores_requests_add_up_and_the_fullest_cache_counts() -> None:
    second = METRICS.replace(b'"0"', b'"1"').replace(b"0.25", b"0.75")
    assert read_load(METRICS + second) == EngineLoad(6, 0.75, 8, steps=(0.25, 0.75))


@pytest.mark.parametrize(
    "metrics",
    [
        b"",
        b"vllm:num_requests_waiting",
        b"vllm:num_requests_waiting many",
        b'{"detail":"Not Found"}',
        b"\xff\xfe",
    ],
)
def test_what_an_engine_does_not_tell_counts_as_nothing(metrics: bytes) -> None:
    assert read_load(metrics) == EngineLoad(0, 0.0)


@given(st.sampled_from(["NaN", "+Inf", "-1", "1e400", "7.9"]) | st.floats().map(str))
def test_whatever_number_it_tells_the_load_makes_sense(number: str) -> None:
    said = f"vllm:num_requests_waiting {number}\nvllm:kv_cache_usage_perc {number}\n"
    load = read_load(said.encode())
    assert load.waiting >= 0
    assert 0 <= load.cache <= 1


def test_the_context_is_the_models_and_not_that_of_an_adapter_that_tells_none() -> None:
    models = b'{"object":"list","data":[{"id":"m","max_model_len":2048},{"id":"lora"}]}'
    assert read_context(models) == 2048


@pytest.mark.parametrize(
    "models", [b"", b"{", b"\xff", b"[]", b'{"data":[]}', b'{"data":[{"max_model_len":null}]}']
)
def test_an_engine_that_tells_no_context_has_none(models: bytes) -> None:
    assert read_context(models) == 0


@pytest.mark.anyio
async def test_an_engine_is_asked_as_over_http_and_one_that_fails_says_nothing() -> None:
    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        assert (await receive())["type"] == "http.request"
        if scope["path"] != "/metrics":
            raise ValueError(scope["path"])
        assert (scope["method"], scope["state"]) == ("GET", {"a": 1})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one ", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    assert await get(app, {"state": {"a": 1}}, "/metrics") == b"one two"
    assert await get(app, {"state": {"a": 1}}, "/nothing") == b""
