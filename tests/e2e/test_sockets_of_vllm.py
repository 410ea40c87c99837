"""A real vLLM listens where only its node's user reaches it."""

import ipaddress
import socket
from pathlib import Path

import psutil

from tests.e2e.demo_cluster import CHAT, DemoCluster, metrics_of
from tests.engines import socket_of_engine


def test_vllm_answers_on_its_socket_and_opens_no_port_for_others(cluster: DemoCluster) -> None:
    engine = cluster.replica(f"{CHAT}-0")["engine"]
    there = Path(socket_of_engine(engine["pid"], engine["port"]))
    assert there.is_socket()
    assert "vllm:num_requests_running" in metrics_of(engine)
    server = psutil.Process(engine["pid"])
    assert not listening(server)
    # The parts of an engine talk to each other on loopback.
    inner = [place for child in server.children(recursive=True) for place in listening(child)]
    assert all(ipaddress.ip_address(place).is_loopback for place in inner), inner
    with socket.socket() as tried:
        assert tried.connect_ex(("127.0.0.1", engine["port"])) != 0


def listening(process: psutil.Process) -> list[str]:
    """Return the addresses on which a process listens."""
    found = process.net_connections("inet")
    return [each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN]
