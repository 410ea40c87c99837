"""A Unix socket to listen on: its permissions, and what becomes of what was there before."""

import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nebula.cli.readiness_watch import client
from nebula.http.origins import Doors, host_allowed
from nebula.http.server.listening import CantListen
from nebula.http.server.unix_sockets import LONGEST, UnixSocket


@pytest.fixture
def kept() -> Iterator[ExitStack]:
    """Closes what a test opens."""
    with ExitStack() as stack:
        yield stack


def listening(place: UnixSocket, kept: ExitStack) -> None:
    for each in place.listen():
        kept.callback(each.close)


def reached(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        return asking.connect_ex(str(path)) == 0


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_its_file_has_the_mode_that_was_asked_for(
    tmp_path: Path, kept: ExitStack, mode: int
) -> None:
    place = UnixSocket(tmp_path / "gateway", mode)
    listening(place, kept)
    assert stat.S_IMODE(place.path.stat().st_mode) == mode
    assert reached(place.path)
    place.close()
    assert not place.path.exists()


def test_what_a_dead_process_has_left_is_replaced(tmp_path: Path, kept: ExitStack) -> None:
    path = tmp_path / "gateway"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
        left.listen()
    assert path.is_socket()
    assert not reached(path)
    listening(UnixSocket(path), kept)
    assert reached(path)


def test_a_living_gateways_socket_is_left_alone(tmp_path: Path, kept: ExitStack) -> None:
    first, second = (UnixSocket(tmp_path / "gateway") for _ in range(2))
    listening(first, kept)
    with pytest.raises(CantListen, match="another process listens on it"):
        second.listen()
    second.close()
    assert reached(first.path)


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "gateway"
    path.write_text("mine")
    place = UnixSocket(path)
    with pytest.raises(CantListen, match="there is a file of another kind"):
        place.listen()
    place.close()
    assert path.read_text() == "mine"


def test_a_place_where_no_socket_can_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(CantListen, match="No such file or directory"):
        UnixSocket(tmp_path / "none" / "gateway").listen()
    with pytest.raises(CantListen, match=f"more than {LONGEST} bytes"):
        UnixSocket(tmp_path / ("x" * LONGEST)).listen()


def test_names_that_no_web_page_can_have_are_known_on_it() -> None:
    doors = Doors(bound=UnixSocket(Path("gateway")).url)
    for name in ("localhost", "gateway", "127.0.0.1", "unix"):
        assert host_allowed(doors, name)
    assert not host_allowed(doors, "evil.example")


async def _transports(address: str) -> str:
    async with client(address) as asking:
        return str(asking.base_url)


@pytest.mark.anyio
async def test_a_client_of_either_kind_of_address_can_be_made(tmp_path: Path) -> None:
    assert await _transports("http://127.0.0.1:8000") == "http://127.0.0.1:8000"
    assert await _transports(UnixSocket(tmp_path / "gateway").url) == "http://localhost"
