"""The one line of an engine's last words that says why it failed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node.failure import (
    LAST_SECONDS,
    LONGEST_LINE,
    MOST_WORDS,
    OUT_OF_MEMORY,
    Death,
    Recent,
    Sight,
    death_reason,
    failure_reason,
    last_words,
)
from nebula.events.showing import shown_text


def lines(text: str) -> list[str]:
    return [line.removeprefix("    ") for line in text.strip("\n").splitlines()]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param([], "", id="nothing at all"),
        pytest.param(["", "  "], "", id="blank lines"),
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
        pytest.param(
            [
                "RuntimeError: no room",
                "INFO:     Shutting down",
                "INFO:     Finished server process",
            ],
            "RuntimeError: no room",
            id="what is told of the shutdown after it",
        ),
        pytest.param(
            [
                "(APIServer pid=1) INFO 11-28 00:16:01 [api.py:1] refused: ValueError: no schema",
                '(APIServer pid=1) INFO:     127.0.0.1:1 - "POST /v1/completions HTTP/1.1" 400',
            ],
            "",
            id="information is no reason, though it speaks of an error",
        ),
        pytest.param(
            [
                "2026-11-28 00:16:01,123 INFO started",
                "[2026-11-28T00:16:01Z] WARNING: slow",
                '{"time": 1, "level": "info", "message": "ValueError: no"}',
                "DEBUG:root:KeyError: 'x'",
                "Loading safetensors checkpoint shards: 100%|████| 1/1 [00:00<00:00]",
                "/usr/lib/tracker.py:254: UserWarning: There appear to be 1 leaked objects",
                "  warnings.warn('resource_tracker: There appear to be %d '",
                "nebula: an engine starts here, 2026-11-28T00:16:01Z",
            ],
            "",
            id="nor in other programs' forms, nor progress, nor Python's warnings",
        ),
        pytest.param(
            [
                "\x1b[1;36m(EngineCore pid=5)\x1b[0;0m \x1b[31mERROR\x1b[0m 11-23 14:00:00 "
                "[core.py:708] \x1b[31mValueError: no room\x1b[0m",
                "\x1b[1;36m(APIServer pid=1)\x1b[0;0m \x1b[32mINFO\x1b[0m:     Shutting down",
            ],
            "ValueError: no room",
            id="in colours",
        ),
        pytest.param(
            ["Traceback (most recent call last):", '  File "x.py", line 1', "MemoryError"],
            "MemoryError",
            id="an exception without words",
        ),
    ],
)
def test_the_reason_of_a_failure_is_found_among_the_last_words(
    said: list[str], reason: str
) -> None:
    assert failure_reason(said) == reason


def test_the_longest_reason_is_cut() -> None:
    assert len(failure_reason(["ValueError: " + "x" * 10_000])) == 1000


NO = "ValueError: no"
KILLED = "killed by signal 9 (SIGKILL)"
ADOPTED = "its process ended (exit code unknown: it was started before this node process)"


@pytest.mark.parametrize(
    ("death", "words", "reason"),
    [
        (Death(1), NO, NO),
        (Death(1), "", "it ended with exit code 1 without saying why"),
        (Death(0), "", "it ended with exit code 0 without saying why"),
        (Death(1, killings=2), NO, f"{NO}; {OUT_OF_MEMORY}"),
        (
            Death(-9),
            NO,
            f"{KILLED}, sent by a person or program, or by the kernel if memory had run out",
        ),
        (
            Death(-9, killings=0),
            NO,
            f"{KILLED}, sent by a person or program: memory had not run out",
        ),
        (
            Death(-9, killings=1),
            "",
            f"{KILLED}: {OUT_OF_MEMORY}",
        ),
        (Death(-15), NO, "killed by signal 15 (SIGTERM), which neither it nor Nebula sent"),
        (
            Death(137),
            NO,
            f"exit code 137: {KILLED}, sent by a person or program, or by the kernel if memory had "
            "run out",
        ),
        (
            Death(-11),
            "Fatal Python error: Segmentation fault",
            "crashed with signal 11 (SIGSEGV); "
            "its last words: Fatal Python error: Segmentation fault",
        ),
        (Death(-6), "", "crashed with signal 6 (SIGABRT)"),
        (Death(adopted=True), NO, f"{ADOPTED}; its last words: {NO}"),
        (Death(adopted=True), "", ADOPTED),
        (Death(), "", "it ended without saying why"),
    ],
)
def test_how_it_ended_is_said_and_its_words_only_where_they_can_be_about_that(
    death: Death, words: str, reason: str
) -> None:
    assert death_reason(death, words) == reason


def test_only_what_an_engine_that_served_wrote_in_its_last_seconds_counts() -> None:
    recent = Recent(Sight(0.0, 100, None))
    assert recent.before(900.0).position == 100  # it starts: all of it is recent
    for second in range(900, 1000, 2):
        recent.note(Sight(float(second), second * 10, None))
    assert recent.before(1000.0).position == (1000 - LAST_SECONDS) * 10
    assert recent.before(5000.0).position == 9980  # the node itself stood still


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=50).map(sorted),
    st.floats(0, 200),
)
def test_it_never_begins_later_than_the_last_seconds_do_where_the_node_looked_before(
    times: list[float], after: float
) -> None:
    recent = Recent(Sight(times[0], 0, None))
    for number, at in enumerate(times[1:], start=1):
        recent.note(Sight(at, number, None))
    now = times[-1] + after
    found = recent.before(now)
    assert found.at <= max(times[0], now - LAST_SECONDS)
    later = [at for at in times if found.at < at <= now - LAST_SECONDS]
    assert not later


@given(st.lists(st.text(max_size=700), max_size=60))
def test_last_words_take_16_kib_of_json_at_most_and_end_with_the_last_one(said: list[str]) -> None:
    kept = last_words(said)
    assert len(msgspec.json.encode(kept)) <= MOST_WORDS + 2
    assert all(len(line) <= LONGEST_LINE for line in kept)
    said = [shown_text(line) for line in said]
    short = [line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…" for line in said]
    assert list(kept) == short[len(short) - len(kept) :]
    assert not said or kept


def test_last_words_count_as_what_they_take_in_json() -> None:
    kept = last_words(['"' * 5000] * 40)
    assert len(kept) == 16
    assert len(msgspec.json.encode(kept)) <= MOST_WORDS


def test_a_reason_in_colours_is_found_and_brings_none_along() -> None:
    said = [
        "\x1b[0;36m(EngineCore pid=7)\x1b[0m \x1b[31mERROR 11-28 01:02:03 [core.py:1]\x1b[0m x",
        "\x1b[1;31m\x1b[35mValueError\x1b[0m: \x1b[35mno \x1b]0;title\x07room\x00\x1b[0m",
        "\x1b[32mINFO\x1b[0m going down",
    ]
    assert failure_reason(said) == "ValueError: no room"
    assert last_words(said)[1] == "ValueError: no room"


def test_a_secret_in_last_words_is_not_recorded() -> None:
    said = ["non-default args: {'hf_token': 'abcSECRET123'}", "ValueError: hf_SECRET123 is refused"]
    assert failure_reason(said) == "ValueError: *** is refused"
    assert not any("SECRET123" in line for line in last_words(said))


def test_a_package_that_is_built_for_another_torch_is_told_with_what_helps() -> None:
    lines = [
        "Traceback (most recent call last):",
        '  File "torch/library.py", line 493, in impl',
        "RuntimeError: operator torchvision::nms does not exist",
    ]
    reason = failure_reason(lines)
    assert reason.startswith("RuntimeError: operator torchvision::nms does not exist (")
    assert reason.endswith("pip uninstall torchvision torchaudio torchcodec)")
