"""Which starts are not tried again, because they could only fail in the same way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node import permanent
from nebula.actors.node.engine_table import EngineEntry, EngineTable
from nebula.actors.node.failure import Death, death_reason, failure_reason
from nebula.actors.node.reconciliation import Restarts
from nebula.actors.node.weights import model_files
from nebula.events.state import Replica

CERTAIN = [
    (2, "/m", "error: unrecognized arguments: --max-modle-len=9", "`--option`"),
    (2, "org/m", "error: argument --dtype: invalid choice: 'int3'", "`--option`"),
    (
        1,
        "org/m",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig: Value "
        "error, User-specified max_model_len (999999) is greater than the derived max_model_len",
        "`--option`",
    ),
    (
        1,
        "org/m",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig: Value "
        "error, Model architectures ['Odd'] are not supported for now.",
        "vLLM that knows",
    ),
    (
        1,
        "org/m",
        "ValueError: it has custom code; pass trust_remote_code=True",
        "trust-remote-code",
    ),
    (1, "/m", "ValueError: Invalid repository ID or local directory specified: '/m'.", "folder"),
    (1, "/m", "safetensors_rust.SafetensorError: header: IncompleteMetadata", "anew"),
    (1, "org/m", "ModuleNotFoundError: No module named 'vllm'", "install"),
    (1, "org/m", "ValueError: OddModel does not support LoRA yet.", "--lora"),
]


@pytest.mark.parametrize(("code", "source", "reason", "words"), CERTAIN)
def test_what_can_only_fail_again_is_given_up_with_a_way_out(
    code: int, source: str, reason: str, words: str
) -> None:
    assert words in permanent.remedy(reason, code, source)
    assert permanent.told(reason, "do it").startswith(f"{reason}; ")


@pytest.mark.parametrize(
    ("code", "source", "reason"),
    [
        (1, "/m", "ValueError: No available memory for the cache blocks."),
        (1, "/m", "torch.OutOfMemoryError: CUDA out of memory."),
        (1, "/m", "ValueError: Free memory on device cuda:0 (1/80 GiB) on startup is less"),
        (1, "/m", "OSError: [Errno 98] error while attempting to bind on address: in use"),
        (1, "/m", "error: the address is in use"),
        (None, "/m", "error: unrecognized arguments: --x"),
        (-9, "/m", "killed by signal 9 (SIGKILL)"),
        (1, "org/m", "ValueError: Invalid repository ID or local directory specified: 'org/m'."),
        (1, "org/m", "OSError: We couldn't connect to 'https://huggingface.co' to load the files"),
        (
            1,
            "org/m",
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig: "
            "Value error, Invalid repository ID or local directory specified: 'org/m'",
        ),
        (3, "/m", ""),
        (None, "/m", "it ended without saying why"),
    ],
)
def test_what_may_go_well_the_next_time_is_tried_again(
    code: int | None, source: str, reason: str
) -> None:
    assert permanent.remedy(reason, code, source) == ""


@given(st.text(max_size=60), st.none() | st.integers(-64, 255), st.sampled_from(["/m", "org/m"]))
def test_any_words_are_judged(words: str, code: int | None, source: str) -> None:
    reason = death_reason(Death(code), failure_reason([words]))
    assert isinstance(permanent.remedy(reason, code, source), str)


def test_a_program_that_is_not_there_is_not_started_again_and_again() -> None:
    gone = FileNotFoundError(2, "No such file or directory", "/opt/vllm")
    assert "--engine-command" in permanent.remedy_of_command(gone, "/opt/vllm")
    assert permanent.remedy_of_command(gone, "/bin/python") == "", "a log file that is not there"
    assert permanent.remedy_of_command(BlockingIOError(11, "again", "/opt/vllm"), "/opt/vllm") == ""


def test_the_first_attempt_is_the_last_where_another_would_fail_so_too() -> None:
    roster: EngineTable[EngineEntry] = EngineTable(Restarts(limit=3))
    entry = EngineEntry(
        Replica(id="chat-0", model="chat", node="alpha", devices=(0,), memory=1, version=1), 1, 1
    )
    roster.open(entry)
    entry.ended()
    failed = roster.failed(entry, 2, "error: no", (), 5.0, again=False)
    assert (failed.attempt, failed.retry_in) == (1, None)
    assert roster.failed(entry, 1, "no room", (), 5.0).retry_in is not None


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["config.json", "model.safetensors"], ""),
        (["config.json", "adapter_config.json"], ""),
        (["params.json", "consolidated.safetensors"], ""),
        (["m-Q4_K_M.gguf"], ""),
        (["adapter_config.json", "adapter_model.safetensors"], "is a LoRA adapter, not a model"),
        (["adapter_config.json", "adapter_model.bin"], "`nebula adapters load MODEL NAME /m`"),
        (["model.safetensors"], "it has no config.json"),
        ([], "it has no config.json"),
    ],
)
def test_what_a_folder_needs_to_hold_a_model(names: list[str], words: str) -> None:
    found = model_files.problem("/m", names)
    assert words in found
    assert bool(found) == bool(words)


def test_a_model_that_is_described_elsewhere_needs_no_description_in_its_folder() -> None:
    assert model_files.problem("/m", ["model.safetensors"], described=True) == ""
    assert "adapter" in model_files.problem("/m", ["adapter_config.json"], described=True)
