"""What `nebula up` makes of its arguments and of the NATS that it is told to use."""

import io
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from nebula.cli import joining, up
from nebula.cli.main import main
from nebula.store.connection import Connection, NotLetIn, Unavailable

ELSEWHERE = "nats://10.0.0.7:4222"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[up.UpSettings]:
    """Return where the settings of a `nebula up` appear that starts nothing."""
    seen: list[up.UpSettings] = []

    def starts(settings: up.UpSettings, _: float) -> None:
        seen.append(settings)

    monkeypatch.setattr(up, "_up", starts)
    monkeypatch.setattr(up, "run", lambda _: None)
    return seen


def test_a_port_on_the_command_line_goes_before_the_environment_s_nats(
    settings: list[up.UpSettings], tmp_path: Path
) -> None:
    line = ["up", "--nats-port", "4223", "--folder", str(tmp_path)]
    ended = CliRunner(env={"NEBULA_NATS_URL": ELSEWHERE}).invoke(main, line)
    assert ended.exit_code == 0, ended.output
    assert (settings[0].nats, settings[0].nats_port) == (None, 4223)
    assert f"NEBULA_NATS_URL ({ELSEWHERE}) is not used" in ended.output
    assert "--nats nats://127.0.0.1:4223" in ended.output


def test_the_environment_s_nats_is_used_where_no_port_is_given(
    settings: list[up.UpSettings], tmp_path: Path
) -> None:
    line = ["up", "--folder", str(tmp_path)]
    assert CliRunner(env={"NEBULA_NATS_URL": ELSEWHERE}).invoke(main, line).exit_code == 0
    assert settings[0].nats == ELSEWHERE


def opening(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """Have connections open as they would: not at all, where there is an error."""

    async def opened(self: Connection, **_: Any) -> Connection:
        if error is not None:
            raise error
        return self

    async def closed(_: Connection) -> None:
        return None

    monkeypatch.setattr(Connection, "open", opened)
    monkeypatch.setattr(Connection, "close", closed)


@pytest.mark.anyio
async def test_what_keeps_a_nats_from_answering_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = io.StringIO()
    reason = f"no NATS server answers at {ELSEWHERE}: nothing listens there"
    opening(monkeypatch, Unavailable(reason))
    assert not await joining.answers(ELSEWHERE, Console(file=told, width=200))
    assert told.getvalue() == (f"{reason}; tried again until it answers\n")
    opening(monkeypatch, NotLetIn("it refuses the user or password"))
    with pytest.raises(NotLetIn):
        await joining.answers(ELSEWHERE, Console(file=told))
    opening(monkeypatch, None)
    assert await joining.answers(ELSEWHERE, Console(file=told))


def test_the_two_ways_to_name_a_nats_exclude_each_other(settings: list[up.UpSettings]) -> None:
    ended = CliRunner().invoke(main, ["up", "--nats", ELSEWHERE, "--nats-port", "4223"])
    assert ended.exit_code == 2
    assert settings == []
    assert isinstance(main, click.Group)
