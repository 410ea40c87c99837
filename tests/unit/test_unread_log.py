"""Before a gateway has read the log, nothing is answered that rests on it."""

from __future__ import annotations

import re
import warnings
from typing import Any

import httpx
import pytest
from litestar.exceptions import LitestarDeprecationWarning

from nebula.actors.gateway.actor import Gateway
from nebula.http.app import create_app
from nebula.http.document.entries import ENTRIES
from nebula.http.inference import Limits
from nebula.store.connection import Connection

pytestmark = pytest.mark.anyio

OF_ITSELF = {"/health", "/version", "/openapi.json", "/docs"}
"""Paths that tell of the gateway itself, beside the files of the console."""


@pytest.fixture(scope="module")
def app() -> Any:
    """A gateway that never reads the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        return create_app(Gateway(Connection("nats://127.0.0.1:1", "gw"), "gw"), Limits())


@pytest.mark.parametrize("operation", sorted(ENTRIES))
async def test_a_gateway_that_has_not_read_the_log_is_not_ready_for(
    operation: str, app: Any
) -> None:
    method, _, path = operation.partition(" ")
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.request(method, re.sub(r"\{[^}]+\}", "x", path))
    if path in OF_ITSELF or path.startswith("/console"):
        assert answer.status_code in (200, 404)
        return
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"]
    assert "the log is being read" in answer.text
