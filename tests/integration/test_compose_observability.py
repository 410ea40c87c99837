"""What watches the cluster of the compose file: what it reads is there, and names what there is."""

import asyncio
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.composed import COMPOSE, GATEWAYS, NEBULA, Composed
from tests.integration.prometheus import program
from tests.integration.test_compose import compose_config

OBSERVABILITY = COMPOSE / "observability"
ADDED = {"view-key", "prometheus", "alertmanager", "grafana", "collector", "jaeger"}
ALERTMANAGER = OBSERVABILITY / "alertmanager.yaml"


@pytest.fixture
def read(tmp_path: Path) -> dict[str, Any]:
    """Both files, as docker compose reads them."""
    return compose_config(tmp_path, "compose.yaml", "observability/compose.yaml")


def test_all_that_is_mounted_is_there(read: dict[str, Any], tmp_path: Path) -> None:
    before = compose_config(tmp_path, "compose.yaml")
    assert set(read["services"]) == {*before["services"], *ADDED}
    for name in ADDED:
        for mount in read["services"][name].get("volumes", ()):
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


def loaded(name: str) -> Any:
    return yaml.safe_load((OBSERVABILITY / name).read_text())


def published(read: dict[str, Any], service: str) -> set[int]:
    return {each["target"] for each in read["services"][service].get("ports", ())}


def test_alerts_go_from_prometheus_to_alertmanager(read: dict[str, Any]) -> None:
    (to,) = loaded("prometheus.yaml")["alerting"]["alertmanagers"][0]["static_configs"]
    assert to["targets"] == ["alertmanager:9093"]
    assert published(read, "alertmanager") == {9093}
    service = read["services"]["alertmanager"]
    (file,) = [word for word in service["command"] if word.startswith("--config.file=")]
    targets = {mount["target"]: mount.get("source", "") for mount in service["volumes"]}
    assert Path(targets[file.partition("=")[2]]) == ALERTMANAGER


def test_alertmanager_reads_its_configuration_and_routes_each_alert() -> None:
    line = [program("amtool"), "check-config", str(ALERTMANAGER)]
    checked = subprocess.run(line, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    rules = [rule for group in loaded("rules.yaml")["groups"] for rule in group["rules"]]
    severities = {rule["labels"]["severity"] for rule in rules}
    receivers = {}
    for severity in severities:
        test = ["config", "routes", "test", f"--config.file={ALERTMANAGER}", f"severity={severity}"]
        told = subprocess.run([line[0], *test], capture_output=True, text=True, check=False)
        receivers[severity] = told.stdout.strip()
    assert receivers == {"critical": "critical", "warning": "others", "info": "others"}
    names = {rule["alert"] for rule in rules}
    for inhibits in loaded("alertmanager.yaml")["inhibit_rules"]:
        text = " ".join(inhibits["source_matchers"] + inhibits["target_matchers"])
        assert set(re.findall(r"Nebula\w+", text)) <= names


def test_spans_go_from_every_actor_through_the_collector_to_jaeger(read: dict[str, Any]) -> None:
    collector = loaded("collector.yaml")
    for actor in NEBULA:
        endpoint = read["services"][actor]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
        service, port = re.fullmatch(r"http://([\w-]+):(\d+)", endpoint).groups()  # type: ignore[union-attr]
        assert service == "collector"
        listens = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
        assert listens == f"0.0.0.0:{port}"
    (pipeline,) = collector["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) == collector[kind].keys(), kind
    (to,) = (each["endpoint"] for each in collector["exporters"].values())
    assert to == "jaeger:4317"
    assert published(read, "jaeger") == {16686}
    assert not published(read, "collector"), "only the cluster sends spans"
    (source,) = loaded("grafana/provisioning/datasources/jaeger.yaml")["datasources"]
    assert source["url"] == "http://jaeger:16686"


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
