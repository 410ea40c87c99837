"""The settings of a simulated engine: at its start by flags, and while it runs."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0)]

Task = Literal[
    "generate",
    "transcription",
    "realtime",
    "embed",
    "classify",
    "token_embed",
    "token_classify",
]

POOLING_TASKS: Final[tuple[Task, ...]] = ("embed", "classify", "token_embed", "token_classify")
"""In the order of their priority, where a model supports several."""


class HfOverrides(msgspec.Struct, frozen=True):
    """vLLM's ``--hf-overrides``: what is read of a model's configuration.

    ``num_labels``: the labels of a classifier; a model with one can be a reranker, others not.
    """

    num_labels: Annotated[int, msgspec.Meta(ge=1)] = 1


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one simulated engine at its start. All times are seconds."""

    model: str
    host: str = "0.0.0.0"
    uds: str | None = None
    port: int = 8000
    served_model_name: tuple[str, ...] = ()
    runner: str = "auto"
    convert: Literal["auto", "none", "embed", "classify"] = "auto"
    hf_overrides: HfOverrides = HfOverrides()
    enable_lora: bool = False
    max_lora_rank: int = 16
    max_loras: int = 1
    max_model_len: int = 32768
    max_num_seqs: int = 256
    middleware: tuple[str, ...] = ()
    otlp_traces_endpoint: str | None = None
    start: Seconds = 0.0
    first_token: Seconds = 0.0
    token: Seconds = 0.0
    crowding: Seconds = 0.0
    tokens: Annotated[int, msgspec.Meta(ge=1)] = 16
    dimensions: Annotated[int, msgspec.Meta(ge=1)] = 384
    tasks: tuple[Task, ...] = ()
    missing_model: bool = False
    exit_at_start: int | None = None
    exit_after: int | None = None
    orders: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names that requests may use; answers carry the first."""
        return self.served_model_name or (self.model,)

    @property
    def supported_tasks(self) -> tuple[Task, ...]:
        """What the model can do, in vLLM's words (``vllm/tasks.py``)."""
        if self.tasks:
            return self.tasks
        if self.runner != "pooling":
            return ("generate",)
        if self.convert == "classify":
            return ("classify", "token_classify")
        return ("embed", "token_embed")

    @property
    def pooling_task(self) -> Task | None:
        """What its pooler is used for where a request names no task."""
        supported = self.supported_tasks
        return next((task for task in POOLING_TASKS if task in supported), None)

    @property
    def scores(self) -> bool:
        """Whether it scores pairs of texts (``vllm/entrypoints/pooling/utils.py``)."""
        if self.pooling_task == "classify":
            return self.hf_overrides.num_labels == 1
        return self.pooling_task in ("embed", "token_embed")


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /simulate: changes the given settings; ``exit`` ends the process with that code."""

    exit: int | None = None
    stall: bool | None = None
    first_token: Seconds | None = None
    token: Seconds | None = None
