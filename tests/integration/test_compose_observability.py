"""Prometheus and Grafana of the compose file: what they read is there, and their key is good."""

import asyncio
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.composed import COMPOSE, GATEWAYS, Composed
from tests.integration.test_compose import compose_config

OBSERVABILITY = COMPOSE / "observability"
ADDED = {"view-key", "prometheus", "grafana"}


@pytest.fixture
def read(tmp_path: Path) -> dict[str, Any]:
    """Both files, as docker compose reads them."""
    return compose_config(tmp_path, "compose.yaml", "observability/compose.yaml")


def test_all_that_is_mounted_is_there(read: dict[str, Any], tmp_path: Path) -> None:
    before = compose_config(tmp_path, "compose.yaml")
    assert set(read["services"]) == {*before["services"], *ADDED}
    for name in ADDED:
        for mount in read["services"][name]["volumes"]:
            if mount["type"] == "bind":
                assert Path(mount["source"]).exists(), mount
                assert mount["read_only"]
            else:
                assert mount["source"] in read["volumes"]


def test_a_configuration_names_only_what_its_service_has(read: dict[str, Any]) -> None:
    prometheus, grafana = (read["services"][name] for name in ("prometheus", "grafana"))
    places = {mount["target"] for mount in prometheus["volumes"]}
    config = (OBSERVABILITY / "prometheus.yaml").read_text()
    for path in re.findall(r"/etc/prometheus/[\w./]+", config):
        assert places & {path, str(Path(path).parent)}, path
    gateways = set(re.findall(r"([\w-]+):8000", config))
    assert gateways == set(GATEWAYS)
    boards = "/etc/grafana/boards"
    assert boards in {mount["target"] for mount in grafana["volumes"]}
    provisioning = OBSERVABILITY / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "nebula.yaml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] == boards
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (OBSERVABILITY / "grafana" / "boards" / Path(home).name).exists()


def test_what_ends_is_waited_for(read: dict[str, Any]) -> None:
    waits = read["services"]["prometheus"]["depends_on"]["view-key"]
    assert waits["condition"] == "service_completed_successfully"


@pytest.mark.anyio
async def test_the_key_may_view_and_nothing_else(
    composed: Composed, read: dict[str, Any], tmp_path: Path
) -> None:
    await composed.all_healthy()
    file = tmp_path / "view.key"
    _, script, *_, scope = read["services"]["view-key"]["command"]
    line = ["sh", str(COMPOSE / Path(script).name), str(file), scope]
    environment = composed.process_environment("admin-key")
    ended = await asyncio.to_thread(subprocess.run, line, env=environment, check=False)
    assert ended.returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o644, "Prometheus is another user"
    key = {"authorization": f"Bearer {file.read_text().strip()}"}
    async with composed.of("gateway-1") as http:
        for path in ("/metrics", "/metrics/cluster", "/metrics/engines"):
            assert (await http.get(path, headers=key)).status_code == 200
        refused = await http.post("/admin/models", json={}, headers=key)
    assert refused.status_code == 403
