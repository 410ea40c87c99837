"""What other actors tell is put together so that none speaks for another, whatever it tells."""

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from nebula.actors.engine_metrics import of_engines
from nebula.actors.gateway.metrics_gathering import _of_cluster
from nebula.events.metrics_messages import MetricsTold
from nebula.events.state import Replica
from nebula.http.metrics import _is_listed
from nebula.metrics.merging import pack

LIES = """\
# TYPE nebula_engines gauge
nebula_engines{node="n2"} 7
# TYPE nebula_models gauge
nebula_models{router="r1",phase="ready"} 7
# TYPE nebula_actor_up gauge
nebula_actor_up{actor="node",name="n2"} 1
# TYPE process_open_fds gauge
process_open_fds 5
"""


def read(text: bytes) -> list[tuple[str, dict[str, str], float]]:
    return [
        (each.name, dict(each.labels), each.value)
        for family in parse(text.decode())
        for each in family.samples
    ]


def test_a_node_tells_of_itself_only_and_what_nodes_tell() -> None:
    found = read(_of_cluster({("node", "n1"): MetricsTold(text=pack(LIES.encode()))}))
    assert found == [
        ("nebula_actor_up", {"actor": "node", "name": "n1"}, 1.0),
        ("nebula_engines", {"node": "n1", "exported_node": "n2"}, 7.0),
        ("process_open_fds", {"node": "n1"}, 5.0),
    ]


@pytest.mark.parametrize("told", [None, MetricsTold(), MetricsTold(text=b"not packed")])
def test_an_actor_that_tells_nothing_readable_is_not_up(told: MetricsTold | None) -> None:
    (found,) = read(_of_cluster({("router", "r1"): told}))
    assert found == ("nebula_actor_up", {"actor": "router", "name": "r1"}, 0.0)


def test_an_engine_tells_nothing_in_nebulas_name() -> None:
    replica = Replica(
        id="chat-0", model="chat", node="n1", devices=(0,), memory=1, version=1, phase="ready"
    )
    where = {"node": "n1", "replica": "chat-0", "model": "chat"}
    text = 'nebula_models{phase="ready"} 1\nvllm:num_requests_running 2\n'
    assert read(of_engines("gateway", [(replica, text)])) == [
        ("nebula_engine_up", where, 1.0),
        ("vllm:num_requests_running", where, 2.0),
    ]
    assert read(of_engines("gateway", [(replica, None)])) == [("nebula_engine_up", where, 0.0)]


@pytest.mark.parametrize(
    ("address", "loopback", "listed"),
    [
        ("127.0.0.1:9100", True, True),
        ("127.0.0.1:9100", False, False),
        ("[::1]:9100", True, True),
        ("10.0.0.7:9100", False, True),
        ("node-1.example:9100", False, True),
        ("", False, False),
        ("10.0.0.7", False, False),
        ("10.0.0.7:port", False, False),
        ("http://10.0.0.7:80/", False, False),
        ("user@host:80", False, False),
    ],
)
def test_only_what_is_an_address_is_listed(address: str, loopback: bool, listed: bool) -> None:
    assert _is_listed(address, loopback=loopback) == listed
