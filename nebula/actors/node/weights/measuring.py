"""Computes a model's memory need from the headers of its files and its config.json. Pure.

Weights are counted as stored in the files. The cache is counted as if every layer kept all of a
request; layers that keep only a window need less.
"""

import posixpath
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from nebula.events.reading import UNREADABLE

Config: TypeAlias = Mapping[str, Any]

MAX_HEADER = 100_000_000
"""Largest safetensors header by its format, in bytes."""

MOST = 2**50
"""Largest accepted number of bytes or tokens; files that claim more are not valid."""

_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "half": 2}
_STATES = frozenset({"optimizer.bin", "optimizer.pt", "scaler.pt", "scheduler.pt"})
"""Files that training leaves beside the weights, which are never served."""

_FORMATS = (".safetensors", ".bin", ".pt", ".pth")
"""Files with weights, in an engine's order of preference."""

_ENCODERS = (
    *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie"),
    *("gte", "jina_bert", "modernbert", "mpnet", "new", "nomic_bert", "roberta", "roformer"),
    "xlm-roberta",
)
"""Types of models that read a whole text at once and have no cache."""


class _Tensor(Struct, frozen=True):
    data_offsets: tuple[int, int] | None = None


_headers = msgspec.json.Decoder(dict[str, _Tensor])


class Unmeasurable(Exception):
    """The memory need can't be read from the files; the text says why."""


class Figures(Struct, frozen=True):
    """Bytes of all weights, bytes of cache for one token, and the longest request in tokens."""

    weights: int
    cache_per_token: int
    context: int


def figures(weights: int, config: Config) -> Figures:
    """Return the need that follows from a model's files. Raise Unmeasurable."""
    if weights <= 0:
        raise Unmeasurable("its files have no weights that can be counted")
    cache, longest = cache_per_token(config), context(config)
    if max(weights, cache, longest) > MOST:
        raise Unmeasurable("its files claim more memory or longer texts than there are")
    return Figures(weights, cache, longest)


def tensor_bytes(header: bytes) -> int:
    """Return the bytes of the tensors in a safetensors header. Raise Unmeasurable."""
    try:
        listed = _headers.decode(header)
    except UNREADABLE as error:
        raise Unmeasurable(f"a safetensors header can't be read: {error}") from error
    spans = [tensor.data_offsets for name, tensor in listed.items() if name != "__metadata__"]
    if any(span is None or not 0 <= span[0] <= span[1] for span in spans):
        raise Unmeasurable("a safetensors header lists a tensor without its place in the file")
    return sum(span[1] - span[0] for span in spans if span is not None)


def header_size(head: bytes) -> int:
    """Return a safetensors header's length from the file's first 8 bytes. Raise Unmeasurable."""
    size = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= size <= MAX_HEADER:
        raise Unmeasurable("a file that is called .safetensors does not begin as one")
    return size


def weight_files(names: Iterable[str], index: Config | None = None) -> tuple[str, ...]:
    """Return the files from which an engine loads the weights: one format, without copies.

    `names` are paths within the model's folder, with `/`. `index`: the content of its
    `model.safetensors.index.json`; files that it does not name are copies.
    """
    found = [name for name in names if not name.startswith("original/")]
    for suffix in _FORMATS:
        chosen = [
            name
            for name in found
            if name.endswith(suffix) and _is_weights(posixpath.basename(name), suffix)
        ]
        if not chosen:
            continue
        named = _indexed(index) if suffix == ".safetensors" else frozenset()
        at_root = [name for name in chosen if "/" not in name and (not named or name in named)]
        if any(not name.startswith("consolidated") for name in at_root):
            at_root = [name for name in at_root if not name.startswith("consolidated")]
        return tuple(sorted(at_root or chosen))
    return ()


def missing_files(names: Iterable[str], index: Config | None) -> tuple[str, ...]:
    """Return the files that an index names and that are missing."""
    return tuple(sorted(_indexed(index) - set(names)))


def _indexed(index: Config | None) -> frozenset[str]:
    shards = index.get("weight_map") if index is not None else None
    return frozenset(map(str, shards.values())) if isinstance(shards, dict) else frozenset()


def _is_weights(name: str, suffix: str) -> bool:
    if name in _STATES or name.startswith(("training_args", "rng_state", "adapter_model")):
        return False
    return suffix != ".bin" or not name.startswith("openvino")


def cache_per_token(config: Config) -> int:
    """Return the bytes of key and value that one token takes in the cache. Raise Unmeasurable.

    Return 0 for a model without a cache.
    """
    text = _text_part(config)
    if _keeps_nothing(config, text):
        return 0
    layers = _whole(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    kept = _attending(text, layers)
    latent = _whole(text, "kv_lora_rank", default=0)
    if latent:  # DeepSeek's attention keeps one compressed vector for all heads
        return kept * (latent + _whole(text, "qk_rope_head_dim", default=0)) * _width(text, config)
    heads = _whole(text, "num_attention_heads", "n_head", "n_heads")
    width = _whole(text, "hidden_size", "n_embd", "d_model", "dim")
    head_size = _whole(text, "head_dim", default=0) or width // heads
    return kept * 2 * _kv_heads(text, heads) * head_size * _width(text, config)


def context(config: Config) -> int:
    """Return how many tokens a request may have, 0 if the model sets no limit."""
    text = _text_part(config)
    length = _whole(
        text,
        "max_position_embeddings",
        "n_positions",
        "max_sequence_length",
        "max_seq_len",
        "seq_length",
        "n_ctx",
        default=0,
    )
    scaling = text.get("rope_scaling") or text.get("rope_parameters")
    if isinstance(scaling, dict) and scaling.get("rope_type", scaling.get("type")) == "yarn":
        factor, before = scaling.get("factor"), scaling.get("original_max_position_embeddings")
        if (
            isinstance(factor, int | float)
            and isinstance(before, int)
            and max(abs(factor), abs(before)) < 2**40
        ):
            length = max(length, int(before * factor))
    return length


def _text_part(config: Config) -> Config:
    """Multimodal models describe their text model separately."""
    for key in ("text_config", "llm_config", "language_config"):
        part = config.get(key)
        if isinstance(part, dict):
            return part
    return config


def _keeps_nothing(config: Config, text: Config) -> bool:
    named = config.get("architectures")
    writes = any(
        isinstance(name, str) and word in name
        for name in (named if isinstance(named, list) else ())
        for word in ("CausalLM", "LMHead", "ConditionalGeneration")
    )
    return not writes and text.get("model_type") in _ENCODERS


def _attending(text: Config, layers: int) -> int:
    """Some models have layers whose memory does not grow with the text."""
    kinds = text.get("layer_types") or text.get("layers_block_type")
    if not isinstance(kinds, list):
        return layers
    return sum(
        isinstance(kind, str) and "attention" in kind and "linear" not in kind for kind in kinds
    )


def _kv_heads(text: Config, heads: int) -> int:
    if text.get("multi_query") is True and not text.get("new_decoder_architecture"):
        return 1
    nested = text.get("attn_config")
    if isinstance(nested, dict) and "kv_n_heads" in nested:
        text = nested
    return _whole(
        text, "num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads", default=heads
    )


def _width(text: Config, config: Config) -> int:
    """Return the bytes of a number in the cache; engines serve float32 weights as half."""
    for part in (text, config):
        named = part.get("dtype") or part.get("torch_dtype")
        if isinstance(named, str):
            return min(_BYTES.get(named.removeprefix("torch."), 2), 2)
    return 2


def _whole(config: Config, *names: str, default: int | None = None) -> int:
    """Return a number under any of its names. Raise Unmeasurable if there is none."""
    for name in names:
        value = config.get(name)
        least = 1 if default is None else 0
        if isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**40:
            return value
    if default is None:
        raise Unmeasurable(f"its config.json has no {names[0]}")
    return default
