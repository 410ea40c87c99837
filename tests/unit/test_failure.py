"""The one line of an engine's last words that says why it failed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node.failure import (
    LONGEST_LINE,
    MOST_WORDS,
    death_reason,
    failure_reason,
    last_words,
)


def lines(text: str) -> list[str]:
    return [line.removeprefix("    ") for line in text.strip("\n").splitlines()]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param([], "it said nothing", id="nothing at all"),
        pytest.param(["", "  "], "it said nothing", id="blank lines"),
        pytest.param(
            ["INFO loading", "Killed", ""], "Killed", id="no exception: the last line it wrote"
        ),
        pytest.param(
            lines("""
    Traceback (most recent call last):
      File "x.py", line 1, in <module>
        import vllm
    ModuleNotFoundError: No module named 'vllm'
    """),
            "ModuleNotFoundError: No module named 'vllm'",
            id="a plain traceback",
        ),
        pytest.param(
            lines("""
    usage: api_server.py [-h] [--model MODEL]
                         [--seed SEED]
    api_server.py: error: argument --max-model-len: invalid int value: 'many'
    """),
            "error: argument --max-model-len: invalid int value: 'many'",
            id="a wrong option",
        ),
        pytest.param(
            lines("""
    (APIServer pid=123) Traceback (most recent call last):
    (APIServer pid=123)   File "api_server.py", line 700, in run_server
    (APIServer pid=123) ValueError: No supported config format found in /models/none.
    """),
            "ValueError: No supported config format found in /models/none.",
            id="the server's own failure",
        ),
        pytest.param(
            lines("""
    (EngineCore pid=5) ERROR 11-23 14:00:00 [core.py:708] EngineCore failed to start.
    (EngineCore pid=5) ERROR 11-23 14:00:00 [core.py:708] Traceback (most recent call last):
    (EngineCore pid=5) ERROR 11-23 14:00:00 [core.py:708]   File "core.py", line 699, in run
    (EngineCore pid=5) ERROR 11-23 14:00:00 [core.py:708] ValueError: No available memory for
    (EngineCore pid=5) Process EngineCore:
    (EngineCore pid=5) Traceback (most recent call last):
    (EngineCore pid=5) ValueError: No available memory for the cache blocks.
    (APIServer pid=1) Traceback (most recent call last):
    (APIServer pid=1)   File "utils.py", line 964, in wait_for_engine_startup
    (APIServer pid=1)     raise RuntimeError(
    (APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. \
Failed core proc(s): {'EngineCore': 1}
    """),
            "ValueError: No available memory for the cache blocks.",
            id="the core's failure behind the server's",
        ),
        pytest.param(
            lines("""
    (EngineCore_DP0 pid=5) ERROR 11-23 14:00:00 [core.py:708] torch.OutOfMemoryError: CUDA out \
of memory. Tried to allocate 2.00 GiB.
    (APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
    """),
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            id="only a log line of the core tells it",
        ),
        pytest.param(
            ["(APIServer pid=1) RuntimeError: Engine core initialization failed. See above."],
            "RuntimeError: Engine core initialization failed. See above.",
            id="nothing but the wrapper",
        ),
        pytest.param(
            lines("""
    (APIServer pid=9) pydantic_core._pydantic_core.ValidationError: 1 validation error for \
ModelConfig
    (APIServer pid=9)   Value error, max_model_len (999) is greater than 512
    (APIServer pid=9)     For further information visit https://errors.pydantic.dev/2.12/
    """),
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig: "
            "Value error, max_model_len (999) is greater than 512",
            id="pydantic tells the reason on its second line",
        ),
        pytest.param(
            lines("""
    ValueError: No available memory for the cache blocks.
    RuntimeError: Engine core initialization failed. See root cause above.
    /usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: \
There appear to be 1 leaked shared_memory objects to clean up at shutdown
      warnings.warn('resource_tracker: There appear to be %d '
    """),
            "ValueError: No available memory for the cache blocks.",
            id="Python's complaints after the end",
        ),
        pytest.param(
            ["OSError: [Errno 98] error while attempting to bind on address: in use"],
            "OSError: [Errno 98] error while attempting to bind on address: in use",
            id="an error that speaks of an error",
        ),
    ],
)
def test_the_reason_of_a_failure_is_found_among_the_last_words(
    said: list[str], reason: str
) -> None:
    assert failure_reason(said) == reason


def test_the_longest_reason_is_cut() -> None:
    assert len(failure_reason(["ValueError: " + "x" * 10_000])) == 1000


@pytest.mark.parametrize(
    ("code", "adopted", "reason"),
    [
        (1, False, "ValueError: no"),
        (None, False, "ValueError: no"),
        (-9, False, "killed by signal 9; its last words: ValueError: no"),
        (
            None,
            True,
            "the process ended (exit code unknown: an earlier node process started it); "
            "its last words: ValueError: no",
        ),
    ],
)
def test_how_it_ended_is_said_where_its_words_do_not(
    code: int | None, adopted: bool, reason: str
) -> None:
    assert death_reason(code, adopted, "ValueError: no") == reason


@given(st.lists(st.text(max_size=700), max_size=60))
def test_last_words_take_16_kib_of_json_at_most_and_end_with_the_last_one(said: list[str]) -> None:
    kept = last_words(said)
    assert len(msgspec.json.encode(kept)) <= MOST_WORDS + 2
    assert all(len(line) <= LONGEST_LINE for line in kept)
    short = [line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…" for line in said]
    assert list(kept) == short[len(short) - len(kept) :]
    assert not said or kept


def test_last_words_full_of_control_characters_count_as_what_they_take() -> None:
    kept = last_words(["\x00" * 5000] * 40)
    assert len(kept) == 5
    assert len(msgspec.json.encode(kept)) <= MOST_WORDS
