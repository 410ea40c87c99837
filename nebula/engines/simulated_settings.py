"""The settings of a simulated engine: at its start by flags, and while it runs."""

from __future__ import annotations

from typing import Annotated

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one simulated engine at its start. All times are seconds."""

    model: str
    host: str = "0.0.0.0"
    port: int = 8000
    served_model_name: tuple[str, ...] = ()
    runner: str = "auto"
    enable_lora: bool = False
    max_lora_rank: int = 16
    max_loras: int = 1
    max_model_len: int = 32768
    max_num_seqs: int = 256
    middleware: tuple[str, ...] = ()
    start: Seconds = 0.0
    first_token: Seconds = 0.0
    token: Seconds = 0.0
    tokens: Annotated[int, msgspec.Meta(ge=1)] = 16
    dimensions: Annotated[int, msgspec.Meta(ge=1)] = 384
    missing_model: bool = False
    exit_at_start: int | None = None
    exit_after: int | None = None
    orders: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names that requests may use; answers carry the first."""
        return self.served_model_name or (self.model,)


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /simulate: changes the given settings; ``exit`` ends the process with that code."""

    exit: int | None = None
    stall: bool | None = None
    first_token: Seconds | None = None
    token: Seconds | None = None
