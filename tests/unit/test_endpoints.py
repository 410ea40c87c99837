"""Which paths clients may use, and which models serve them."""

from typing import get_args

import pytest

from nebula.events.endpoints import (
    ENDPOINTS,
    GENERATION,
    POOLING,
    RUNNER,
    able,
    generates,
    served,
    serves,
)
from nebula.events.values import Task

NEVER = (
    "/start_profile",
    "/stop_profile",
    "/sleep",
    "/wake_up",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/update_weights",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/scale_elastic_ep",
    "/abort_requests",
    "/invocations",
    "/metrics",
    "/nebula/adapters",
)
"""Paths of an engine that change it, tell of it, or answer for others (vLLM 0.32)."""


@pytest.mark.parametrize("path", NEVER)
def test_a_path_that_administers_an_engine_is_not_for_clients(path: str) -> None:
    assert path not in ENDPOINTS


@pytest.mark.parametrize("task", get_args(Task))
def test_a_model_of_every_task_serves_a_path_before_its_engines_have_told_theirs(
    task: Task,
) -> None:
    paths = served(able(task, ()))
    assert {"/tokenize", "/detokenize"} < set(paths)
    assert ("/v1/chat/completions" in paths) == generates(task)
    assert ("/v1/embeddings" in paths) == (not generates(task))


def test_what_engines_have_told_counts_for_more_than_the_task() -> None:
    assert able("embedding", ("classify", "token_classify")) == ("classify", "token_classify")
    assert not serves(ENDPOINTS["/v1/embeddings"], ("classify",))
    assert serves(ENDPOINTS["/rerank"], ("classify",))


def test_every_path_can_be_served_by_some_task_of_vllm() -> None:
    for endpoint in ENDPOINTS.values():
        assert endpoint.tasks <= GENERATION | POOLING
        assert endpoint.tasks


def test_every_task_has_a_runner() -> None:
    assert set(RUNNER) == set(get_args(Task))
