"""Where engines listen: a folder of their node's own, with paths that Linux takes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node.engine_sockets import LONGEST, events_of, place, prepare, socket_of, tidy


@given(st.text("abcé/", max_size=200).map(lambda text: Path(f"/home/{text}")))
def test_every_path_is_short_enough_and_the_nodes_own(folder: Path) -> None:
    where = place(folder)
    assert len(os.fsencode(socket_of(where, 65_535))) <= LONGEST
    assert where == place(folder)
    assert where == folder / "sockets" or where != place(folder / "x")


def test_only_the_nodes_user_may_enter_the_folder(tmp_path: Path) -> None:
    where = tmp_path / "node" / "sockets"
    socket = socket_of(where, 8001)
    prepare(socket)
    assert stat.S_IMODE(where.stat().st_mode) == 0o700
    where.chmod(0o755)
    socket.touch()
    prepare(socket)
    assert stat.S_IMODE(where.stat().st_mode) == 0o700
    assert not socket.exists(), "one that is left over would be in the way"


def test_a_folder_that_others_have_put_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, link = tmp_path / "elsewhere", tmp_path / "link"
    elsewhere.mkdir()
    link.symlink_to(elsewhere)
    with pytest.raises(PermissionError):
        prepare(socket_of(link, 8001))
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        prepare(socket_of(elsewhere, 8001))


def test_sockets_of_engines_that_are_gone_are_removed(tmp_path: Path) -> None:
    where = tmp_path / "sockets"
    for port in (1, 2):
        for socket in (socket_of(where, port), events_of(where, port)):
            prepare(socket)
            socket.touch()
    tidy(where, {2})
    assert {path.name for path in where.iterdir()} == {"2.sock", "2.kv"}
    tidy(where, ())
    assert not where.exists()
    tidy(where, ())
