"""`nebula up --demo`: its models answer while the adapter is still being built."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from nebula.cli import demo
from tests.adapters import trained
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def test_the_models_answer_before_the_adapter_is_built_and_the_adapter_once_it_is(
    own_cluster: Cluster,
) -> None:
    folder = own_cluster.folder / "demo"
    for name in (demo.CHAT, demo.EMBEDDING):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    own_cluster.up("--demo", str(folder))
    await own_cluster.ready()
    await own_cluster.stands(demo.EMBEDDING)
    await own_cluster.stands(demo.CHAT)
    async with own_cluster.http() as http:
        assert (await http.post(CHAT, json=chat(demo.CHAT))).status_code == 200
        assert (await http.post(CHAT, json=chat(demo.ADAPTER))).status_code == 404

        os.rename(trained(folder / ".unfinished", says="taught"), folder / demo.ADAPTER)  # noqa: PTH104
        await own_cluster.until(
            lambda state: bool(state.replicas[f"{demo.CHAT}-0"].adapters.get(demo.ADAPTER)),
            "the engine has the adapter",
        )
        assert "taught" in said(await http.post(CHAT, json=chat(demo.ADAPTER)))

    async def told() -> bool:
        return f'"model": "{demo.ADAPTER}"' in own_cluster.output("up")

    await own_cluster.poll(told, "it is shown how to try the adapter")


async def test_an_adapter_that_is_not_being_built_is_given_up_and_said_how_to_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not await demo.built(tmp_path / "poet", Console(), within=0)
    assert f"There is no {tmp_path}/poet: `make demo-models` builds it" in "".join(
        capsys.readouterr().out.splitlines()
    )
