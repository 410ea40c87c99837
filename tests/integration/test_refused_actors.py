"""An actor with the credentials of another role ends at its start, and says what would help."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from nebula.cli.process import FATAL
from nebula.store import claims
from tests.integration.cluster import Cluster
from tests.integration.test_auth_tokens import Guarded, guarded

pytestmark = pytest.mark.anyio

__all__ = ["guarded"]


@pytest.mark.parametrize(
    ("actor", "user", "refused"),
    [
        ("router", ("gateway",), "nebula.inference.finished.*"),
        ("gateway", ("router",), "nebula.inference.responses."),
        ("node", ("node", "elsewhere"), "nebula.status.node.here"),
        ("node", ("engine",), "$js.api.stream.info.nebula_events"),
    ],
)
async def test_an_actor_that_may_not_do_what_it_must_ends_and_says_what_helps(
    guarded: Guarded,
    tmp_path: Path,
    actor: str,
    user: tuple[str, ...],
    refused: str,
) -> None:
    cluster = Cluster(tmp_path)
    assert (await cluster.nebula("provision", nats=guarded.user("provision"))).code == 0
    cluster.nats_url = guarded.user(*user)
    try:
        cluster.start(actor)
        code = await asyncio.to_thread(cluster.ended, actor)
        last = cluster.output(actor).splitlines()[-1]
    finally:
        cluster.close()
    assert code == FATAL, last
    assert "NATS does not let it" in last
    assert refused in last
    assert f"`nebula auth {actor}" in last
    assert cluster.nats_url in last


SHORT = 6
"""Seconds until a token expires."""


@pytest.mark.parametrize("renewed", [True, False])
async def test_an_actor_whose_token_expires_takes_a_new_one_from_its_file_or_ends(
    guarded: Guarded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    renewed: bool,
) -> None:
    cluster = Cluster(tmp_path)
    assert (await cluster.nebula("provision", nats=guarded.user("provision"))).code == 0
    lasting = claims.user

    def short(*known: Any) -> dict[str, Any]:
        return lasting(known[0], known[1], known[2], known[3], int(time.time()) + SHORT)

    with monkeypatch.context() as patch:
        patch.setattr(claims, "user", short)
        cluster.nats_url = guarded.user("router", "router-1")

    async def said(words: str) -> bool:
        return words in cluster.output("router")

    try:
        cluster.start("router")
        await cluster.poll(lambda: said("is in cluster"), "the router is in the cluster")
        if renewed:
            assert guarded.user("router", "router-1") == cluster.nats_url
            await cluster.poll(lambda: said("NATS is back"), "it has connected with the new one")
            assert cluster.runs("router")
        else:
            assert await asyncio.to_thread(cluster.ended, "router") == FATAL
            assert "user authentication expired" in cluster.output("router").splitlines()[-1]
    finally:
        cluster.close()
