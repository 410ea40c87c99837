"""What a simulated engine reports of itself, and the faults that it makes on demand."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import msgspec

from nebula.engines.simulated_answers import VERSION
from nebula.engines.simulated_core import Core
from nebula.engines.simulated_http import Exchange, Routes, encode
from nebula.engines.simulated_settings import Control

_PERMITTED = {
    "allow_create_engine": False,
    "allow_sampling": True,
    "allow_logprobs": True,
    "allow_search_indices": False,
    "allow_view": True,
    "allow_fine_tuning": False,
    "is_blocking": False,
}

_control = msgspec.json.Decoder(Control)


class ReportRoutes:
    """The paths about one engine itself."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._settings = core.settings
        self._created = int(time.time())

    def routes(self) -> Routes:
        """Return what vLLM registers for every model, and the engine's own path."""
        return {
            "/health": {"GET": self._health},
            "/version": {"GET": self._version},
            "/v1/models": {"GET": self._models},
            "/metrics": {"GET": self._metrics},
            "/simulate": {"GET": self._counts, "POST": self._control},
        }

    async def _health(self, exchange: Exchange) -> None:
        await exchange.reply(b"", 503 if self._core.sick else 200)

    async def _version(self, exchange: Exchange) -> None:
        await exchange.reply(encode({"version": VERSION}))

    async def _models(self, exchange: Exchange) -> None:
        settings = self._settings
        cards = [self._card(name, settings.model, None) for name in settings.names]
        adapters = self._core.adapters.loaded.values()
        cards += [self._card(each.name, each.path, settings.names[0]) for each in adapters]
        await exchange.reply(encode({"object": "list", "data": cards}))

    def _card(self, name: str, root: str, parent: str | None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "vllm",
            "root": root,
            "parent": parent,
            "max_model_len": self._settings.max_model_len if parent is None else None,
            "permission": [
                {
                    "id": f"modelperm-{uuid.uuid4().hex[:16]}",
                    "object": "model_permission",
                    "created": self._created,
                    "organization": "*",
                    "group": None,
                    **_PERMITTED,
                }
            ],
        }

    async def _metrics(self, exchange: Exchange) -> None:
        quoted = json.dumps(self._settings.names[0])
        labels = f'{{engine="0",model_name={quoted}}}'
        lines = [
            f"# TYPE vllm:{name} gauge\nvllm:{name}{labels} {float(value)}\n"
            for name, value in self._core.gauges().items()
        ]
        lines.append(self._core.metrics.text(quoted))
        await exchange.text("".join(lines), b"text/plain; version=0.0.4; charset=utf-8")

    async def _counts(self, exchange: Exchange) -> None:
        core = self._core
        counts = {"running": core.running, "finished": core.finished, "aborted": core.aborted}
        if self._settings.orders:
            counts["refused"] = core.refused
        await exchange.reply(encode(counts))

    async def _control(self, exchange: Exchange) -> None:
        wish = await exchange.read(_control, typed=False)
        core = self._core
        if wish.exit is not None:
            core.exit(wish.exit, "as told")
        if wish.first_token is not None:
            core.first_token = wish.first_token
        if wish.token is not None:
            core.token = wish.token
        if wish.stall:
            core.stall()
        elif wish.stall is False:
            core.resume()
        state = {
            "stall": core.stalled,
            "first_token": core.first_token,
            "token": core.token,
        }
        await exchange.reply(encode(state))
