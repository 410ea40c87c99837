"""Adapters from the hub: fetched within bounds, and only what makes an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nebula.actors.node import adapter_download
from nebula.actors.node.adapter_copies import AdapterCopies, Unusable
from nebula.actors.node.weights import listing
from nebula.actors.node.weights.hub import Hub
from tests.hub import SmallHub, tensors

pytestmark = pytest.mark.anyio

POET = "lab/poet"


@pytest.fixture
def server() -> Iterator[SmallHub]:
    hub = SmallHub()
    hub.sources[POET] = {
        "adapter_config.json": b'{"r": 8}',
        "adapter_model.safetensors": tensors(300_000),
        "checkpoint/optimizer.pt": b"x" * 9000,
        "README.md": b"# A poet",
    }
    yield hub
    hub.close()


@pytest.fixture
def copies(server: SmallHub, tmp_path: Path) -> AdapterCopies:
    return AdapterCopies(tmp_path / "copies", "n1", Hub(tmp_path / "hub", server.url))


async def test_an_adapter_of_the_hub_is_fetched_and_copied(
    copies: AdapterCopies, server: SmallHub
) -> None:
    await copies.fetch(POET)
    digest = copies.take(POET)
    assert {path.name for path in copies.path(POET, digest).iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert server.fetched("README") == server.fetched("optimizer") == []
    server.asked.clear()
    await copies.fetch(POET, digest)
    assert server.asked == []
    server.down = True
    await copies.fetch(POET)
    assert copies.take(POET) == digest


async def test_a_list_without_an_end_is_not_read_on(
    copies: AdapterCopies, server: SmallHub
) -> None:
    server.odd[POET] = "endless"
    with pytest.raises(Unusable, match=r"lab/poet can't be fetched from .* endless list"):
        await copies.fetch(POET)
    assert server.sent < 2 * listing.MAX_BYTES


async def test_a_list_that_leads_out_is_refused(copies: AdapterCopies, server: SmallHub) -> None:
    file = {"rfilename": "../adapter_config.json", "size": 2, "blobId": "b" * 40}
    server.lists[POET] = {"siblings": [file]}
    with pytest.raises(Unusable, match="not a path within it"):
        await copies.fetch(POET)


async def test_a_slow_adapter_has_an_end_in_time(
    copies: AdapterCopies, server: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_download, "SECONDS", 0.5)
    server.rates["adapter_model.safetensors"] = 2000
    with pytest.raises(
        Unusable, match=r"not complete within 0 s; the next try continues from there"
    ):
        await copies.fetch(POET)


async def test_what_the_hub_has_not_is_said(copies: AdapterCopies, tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="has no lab/none, or it is private"):
        await copies.fetch("lab/none")
    await copies.fetch(str(tmp_path))
    with pytest.raises(Unusable, match="lab/none can't be fetched from"):
        copies.take("lab/none")
