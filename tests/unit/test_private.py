"""That others may not read what Nebula writes, nor what it wrote before it minded."""

import logging
import os
from pathlib import Path

import pytest

from nebula.store import private


def modes(path: Path) -> dict[str, int]:
    found = [path, *sorted(path.rglob("*"))]
    return {str(each.relative_to(path.parent)): os.lstat(each).st_mode & 0o777 for each in found}


@pytest.fixture(autouse=True)
def _open_umask() -> object:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_what_is_made_is_its_owner_s_alone(tmp_path: Path) -> None:
    with private.opened(private.folder(tmp_path / "a" / "b") / "c", "w") as file:
        file.write("x")
    assert modes(tmp_path / "a") == {"a": 0o700, "a/b": 0o700, "a/b/c": 0o600}
    assert private.folder(tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("mode", ["ab", "wb", "a+"])
def test_a_file_that_is_there_is_opened_as_it_was_asked_for(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with private.opened(path, mode) as file:
        file.write("x" if mode == "a+" else b"x")
    assert path.read_text() == ("x" if mode == "wb" else "beforex")


def test_a_file_is_replaced_as_a_whole_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    private.write(path, b"before")
    with path.open("rb") as reader:
        private.write(path, b"after")
        assert reader.read() == b"before"
    assert path.read_bytes() == b"after"
    assert modes(tmp_path / "a") == {"a": 0o700, "a/file": 0o600}


def test_a_file_that_can_not_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path, __: Path) -> None:
        raise OSError(28, "no space left")

    path = tmp_path / "file"
    private.write(path, b"before")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        private.write(path, b"after")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"


def test_what_was_open_is_closed_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = tmp_path / "home"
    (home / "nodes" / "here" / "logs").mkdir(parents=True)
    (home / "nats").mkdir()
    (home / "nodes" / "here" / "logs" / "a.log").write_text("x")
    (tmp_path / "elsewhere").write_text("x")
    (home / "nats" / "link").symlink_to(tmp_path / "elsewhere")
    private.tighten(home, home / "nats", home / "nodes" / "here")
    found = {name: mode for name, mode in modes(home).items() if not name.endswith("link")}
    assert set(found.values()) == {0o700, 0o600}
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o644
    assert "6 files and folders were open to other users" in caplog.text
    caplog.clear()
    private.tighten(home, home / "nats", home / "nodes" / "here")
    assert caplog.records == []


def test_a_folder_with_other_things_in_it_is_left_to_its_owner(tmp_path: Path) -> None:
    home = tmp_path / "project"
    (home / "logs").mkdir(parents=True)
    (home / "mine.txt").write_text("x")
    private.tighten(home, home / "logs", home / "absent")
    assert modes(home) == {"project": 0o755, "project/logs": 0o700, "project/mine.txt": 0o644}


def test_what_can_not_be_closed_keeps_nothing_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    home = tmp_path / ".nebula"
    home.mkdir()
    monkeypatch.setattr(Path, "chmod", refuse)
    with caplog.at_level(logging.WARNING):
        private.tighten(home)
    assert "stays open to other users: Operation not permitted" in caplog.text
