"""How much memory models need, as their files tell it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node.weights import folder, measuring
from nebula.actors.node.weights.measuring import Figures, Unmeasurable
from tests.hub import config, tensors


def read(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(config(**changes))
    return fields


QWEN_05B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
}
DEEPSEEK = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "hidden_size": 2048,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "max_position_embeddings": 163840,
}
QWEN3_NEXT = {
    "architectures": ["Qwen3NextForCausalLM"],
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "hidden_size": 2048,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "max_position_embeddings": 262144,
}
MINILM = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 384,
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "max_position_embeddings": 512,
}
FALCON = {
    "architectures": ["FalconForCausalLM"],
    "hidden_size": 4544,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "multi_query": True,
}
SEES = {"architectures": ["LlavaForConditionalGeneration"], "text_config": QWEN_05B}


@pytest.mark.parametrize(
    ("fields", "bytes_per_token", "context"),
    [
        (QWEN_05B, 24 * 2 * 2 * 64 * 2, 32768),
        (LLAMA_8B, 131072, 131072),
        (GPT2, 12 * 2 * 12 * 64 * 2, 1024),
        (DEEPSEEK, 27 * (512 + 64) * 2, 163840),
        (QWEN3_NEXT, 1 * 2 * 2 * 256 * 2, 262144),
        (FALCON, 32 * 2 * 1 * 64 * 2, 0),
        (SEES, 24 * 2 * 2 * 64 * 2, 32768),
    ],
)
def test_a_token_takes_what_its_keys_and_values_take(
    fields: dict[str, Any], bytes_per_token: int, context: int
) -> None:
    assert measuring.cache_per_token(fields) == bytes_per_token
    assert measuring.context(fields) == context


def test_an_encoder_keeps_no_cache_but_one_that_also_writes_does() -> None:
    assert measuring.cache_per_token(MINILM) == 0
    assert measuring.cache_per_token({**MINILM, "architectures": ["BertLMHeadModel"]}) > 0


def test_a_model_kept_as_float32_is_served_with_half_of_that() -> None:
    assert measuring.cache_per_token(read(torch_dtype="float32")) == 2048
    assert measuring.cache_per_token(read(torch_dtype=None, dtype="float16")) == 2048
    assert measuring.cache_per_token(read(torch_dtype="float8_e4m3fn")) == 2048


def test_a_stretched_context_is_the_stretched_one() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert measuring.context(read(rope_scaling=yarn)) == 131072


def test_what_a_config_does_not_say_is_named() -> None:
    with pytest.raises(Unmeasurable, match=r"config.json has no num_hidden_layers"):
        measuring.cache_per_token({"model_type": "strange"})


@given(
    st.dictionaries(
        st.sampled_from([*QWEN_05B, *GPT2, *DEEPSEEK, "layer_types"]),
        st.none()
        | st.integers()
        | st.text(max_size=3)
        | st.lists(st.integers(), max_size=2)
        | st.dictionaries(st.text(max_size=3), st.floats(), max_size=2),
    )
)
def test_no_config_breaks_the_measuring(fields: dict[str, Any]) -> None:
    with contextlib.suppress(Unmeasurable):
        assert measuring.cache_per_token(fields) >= 0
    assert measuring.context(fields) >= 0


@given(st.lists(st.integers(0, 10_000), max_size=8))
def test_tensors_are_counted_however_they_are_quantised(sizes: list[int]) -> None:
    listed: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for number, size in enumerate(sizes):
        listed[f"t{number}.qweight"] = {"dtype": "I32", "data_offsets": [at, at + size]}
        at += size
    assert measuring.tensor_bytes(json.dumps(listed).encode()) == sum(sizes)


@given(
    st.binary(max_size=64)
    | st.dictionaries(st.text(), st.text()).map(lambda found: json.dumps(found).encode())
)
def test_no_header_breaks_the_measuring(header: bytes) -> None:
    with contextlib.suppress(Unmeasurable):
        assert measuring.tensor_bytes(header) >= 0


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"[1]", "can't be read"),
        (b'{"a":{"data_offsets":[1]}}', "can't be read"),
        (b'{"a":{"data_offsets":[9,1]}}', "without its place"),
        (b'{"a":{"dtype":"F16"}}', "without its place"),
    ],
)
def test_a_header_that_lies_is_refused(header: bytes, problem: str) -> None:
    with pytest.raises(Unmeasurable, match=problem):
        measuring.tensor_bytes(header)


def test_of_several_formats_and_copies_one_is_counted() -> None:
    count = measuring.weight_files
    assert count(["model.safetensors", "pytorch_model.bin"]) == ("model.safetensors",)
    assert count(["pytorch_model.bin", "training_args.bin", "optimizer.pt"]) == (
        "pytorch_model.bin",
    )
    assert count(["consolidated.safetensors", "model.safetensors"]) == ("model.safetensors",)
    assert count(["consolidated.00.pth", "original/consolidated.00.pth"]) == (
        "consolidated.00.pth",
    )
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    shards = ["model-1.safetensors", "model-2.safetensors", "old.safetensors"]
    assert count(shards, index) == ("model-1.safetensors", "model-2.safetensors")
    assert count(["config.json"]) == ()


def write(place: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (place / name.replace("__", ".")).write_bytes(content)
    return place


def test_a_folder_is_measured_from_its_headers_and_config(tmp_path: Path) -> None:
    write(tmp_path, config__json=config(), model__safetensors=tensors(5000))
    assert folder.measure(tmp_path) == Figures(5000, 2048, 2048)
    assert folder.whole(tmp_path)


def test_weights_in_bin_files_are_counted_by_their_size(tmp_path: Path) -> None:
    write(tmp_path, config__json=config(), pytorch_model__bin=b"x" * 777)
    assert folder.measure(tmp_path).weights == 777


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"model__safetensors": tensors(10)}, "it has no config.json"),
        ({"config__json": config()}, "its files have no weights"),
        ({"config__json": b"{", "model__safetensors": tensors(10)}, "config.json can't be read"),
        (
            {"config__json": b"[]", "model__safetensors": tensors(10)},
            ("config.json is not a JSON object"),
        ),
        ({"config__json": config(), "model__safetensors": b"oops"}, "does not begin as one"),
        (
            {"config__json": config(), "model__safetensors": (2**60).to_bytes(8, "little")},
            "does not begin as one",
        ),
        (
            {"config__json": config(), "model__safetensors": (99).to_bytes(8, "little") + b"{"},
            "can't be read",
        ),
    ],
)
def test_a_folder_that_does_not_tell_says_why(
    tmp_path: Path, files: dict[str, bytes], problem: str
) -> None:
    with pytest.raises(Unmeasurable, match=problem):
        folder.measure(write(tmp_path, **files))


def test_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unmeasurable, match="is not the folder of a model"):
        folder.measure(tmp_path / "nothing")
    assert not folder.whole(tmp_path / "nothing")
