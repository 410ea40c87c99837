"""Real small processes as a node keeps its engines, and why those that failed did so."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from nebula.actors.node import log_marks, processes
from nebula.actors.node.engine_mark import EngineMark
from nebula.actors.node.processes import (
    EngineProcess,
    NotAdopted,
    end_group,
    free_port,
    marked_groups,
)
from nebula.store import child_output
from nebula.store.child_output import tail

pytestmark = pytest.mark.anyio

NODE, FOLDER = "n1", "/srv/n1"
ENGINE = EngineMark(NODE, FOLDER, "chat-0", "3", "8123", "a-cluster")
MARK = ENGINE.variables
HOUR = "3600"  # nothing here outlasts it


class Machine:
    """Starts processes, and ends whatever a test has left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[EngineProcess] = []

    @property
    def log_file(self) -> Path:
        return self.folder / "logs" / "engine.log"

    async def start(self, *command: str, **variables: str) -> EngineProcess:
        environment = {"PATH": os.environ["PATH"], **variables}
        process = await EngineProcess.start(command, environment, self.log_file)
        self.started.append(process)
        return process

    async def sleeper(self, **variables: str) -> EngineProcess:
        """Start a process that stays what it is: a shell becomes another one amid a look at it.

        Its environment can be read a moment after its program has replaced ours.
        """
        process = await self.start("sleep", f"{HOUR}", **variables)
        async with asyncio.timeout(20):
            while variables and not environ(process):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return process

    async def shell(self, script: str, **variables: str) -> EngineProcess:
        return await self.start("/bin/sh", "-c", script, **variables)

    def adopt(
        self, process: EngineProcess, birth: str | None = None, mark: EngineMark = ENGINE
    ) -> EngineProcess:
        told = process.birth if birth is None else birth
        return EngineProcess.adopt(process.pid, told, process.log_file, mark)

    async def end_orphans(self, process: EngineProcess, birth: str | None = None) -> None:
        told = process.birth if birth is None else birth
        await processes.end_orphans(process.pid, told, ENGINE, self.log_file)

    async def said(self, text: str) -> None:
        async with asyncio.timeout(20):
            while text not in " ".join(tail(self.log_file, 50)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for process in machine.started:
        await end_group(process.pid, grace=0)
        await process.wait()


def living(group: int) -> list[str]:
    """Name the processes of a group that are not dead."""
    names = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                names.append(process.name())
        except (psutil.Error, ProcessLookupError):
            continue
    return sorted(names)


def environ(process: EngineProcess) -> bytes:
    return Path(f"/proc/{process.pid}/environ").read_bytes()


async def sleeping(process: EngineProcess, count: int) -> None:
    """Wait for so many sleepers in a group: a shell's child is itself a shell at first."""
    async with asyncio.timeout(20):
        while living(process.pid).count("sleep") != count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_process_leads_its_own_group_and_writes_into_its_log(machine: Machine) -> None:
    process = await machine.shell(f"echo hello; echo oops >&2; sleep {HOUR}")
    await machine.said("oops")
    assert os.getpgid(process.pid) == process.pid
    assert process.alive
    assert process.tail() == ("hello", "oops")


async def test_it_gets_the_environment_it_is_given_and_no_other(machine: Machine) -> None:
    process = await machine.shell("env", ONLY="this")
    assert await process.wait() == 0
    assert "ONLY=this" in process.tail()
    assert not any(line.startswith("HOME=") for line in process.tail())


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", -9), ("kill $$", -15)]
)
async def test_waiting_gives_the_exit_code_or_the_signal(
    machine: Machine, script: str, code: int
) -> None:
    process = await machine.shell(script)
    assert await process.wait() == code
    assert not process.alive


async def test_a_program_that_does_not_exist_cannot_be_started(machine: Machine) -> None:
    with pytest.raises(OSError, match="no-such-program"):
        await machine.start("/no-such-program")


async def test_ending_a_process_ends_its_grandchildren_too(machine: Machine) -> None:
    process = await machine.shell(f"sh -c 'sleep {HOUR} & sleep {HOUR} & wait'; true")
    await sleeping(process, 2)
    await process.end(grace=10)
    assert living(process.pid) == []
    assert await process.wait() == -signal.SIGTERM


async def test_what_a_dead_leader_leaves_behind_is_ended_with_it(machine: Machine) -> None:
    process = await machine.shell(f"sleep {HOUR} & echo up; exit 7")
    assert await process.wait() == 7
    await process.gone()
    assert living(process.pid) == []


async def test_a_leader_s_end_is_known_before_the_rest_of_its_group_has_gone(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await machine.shell(f"sleep {HOUR} & echo up; exit 7")
    lingering, looks = True, 0  # as what is killed does while others keep its core busy
    looked = asyncio.Event()

    def members(_: int) -> bool:
        nonlocal looks
        looks += 1
        if looks > 2:
            looked.set()
        return lingering

    monkeypatch.setattr(processes, "_members", members)
    assert await asyncio.wait_for(process.wait(), 5) == 7
    going = asyncio.create_task(process.gone())
    looks = 0
    await looked.wait()
    assert not going.done()
    lingering = False
    await asyncio.wait_for(going, 5)


async def test_a_process_that_ignores_the_polite_signal_is_killed_after_its_grace(
    machine: Machine,
) -> None:
    process = await machine.shell(f"trap '' TERM; sleep {HOUR} & wait")
    await sleeping(process, 1)
    await process.end(grace=0.3)
    assert await process.wait() == -signal.SIGKILL


async def test_a_process_that_needs_a_moment_to_end_is_given_it(machine: Machine) -> None:
    process = await machine.shell(f"trap 'sleep 0.2; echo bye; exit 4' TERM; sleep {HOUR} & wait")
    await sleeping(process, 1)
    await process.end(grace=20)
    assert await process.wait() == 4
    assert process.tail() == ("bye",)


async def test_ending_what_is_gone_already_waits_for_nothing(machine: Machine) -> None:
    process = await machine.shell("exit 0")
    await process.wait()
    await process.end(grace=float(HOUR))


async def test_a_running_process_is_adopted_and_watched_to_its_end(machine: Machine) -> None:
    process = await machine.shell(f"sleep {HOUR} & echo up; wait", **MARK)
    await machine.said("up")
    await sleeping(process, 1)
    adopted = machine.adopt(process)
    assert adopted.alive
    assert adopted.tail() == ("up",)
    watching = asyncio.create_task(adopted.wait())
    os.kill(process.pid, signal.SIGKILL)
    assert await asyncio.wait_for(watching, 20) is None
    assert not adopted.alive
    assert adopted.adopted
    assert not process.adopted
    await adopted.gone()
    assert living(process.pid) == []


async def test_a_process_that_only_has_the_same_pid_is_not_adopted(machine: Machine) -> None:
    process = await machine.sleeper(**MARK)
    booted, _, ticks = process.birth.partition(":")
    for birth in (f"{booted}:{int(ticks) - 1}", f"{booted}:{int(ticks) + 1}", f"other:{ticks}"):
        with pytest.raises(NotAdopted, match="it ended"):
            machine.adopt(process, birth)


@pytest.mark.parametrize("field", ["node", "folder", "replica", "version", "port", "cluster"])
async def test_an_engine_with_another_mark_is_not_adopted(machine: Machine, field: str) -> None:
    process = await machine.sleeper(**MARK)
    with pytest.raises(NotAdopted, match=f"another {field}"):
        machine.adopt(process, mark=replace(ENGINE, **{field: "other"}))


async def test_a_process_without_a_mark_that_can_be_read_is_not_adopted(machine: Machine) -> None:
    for variables in ({}, {"NEBULA_NODE": NODE, "NEBULA_NODE_FOLDER": FOLDER}):
        process = await machine.sleeper(**variables)
        for birth in (process.birth, ""):
            with pytest.raises(NotAdopted, match="no mark that can be read"):
                machine.adopt(process, birth)


async def test_of_an_older_log_a_process_is_adopted_by_its_mark(machine: Machine) -> None:
    assert machine.adopt(await machine.sleeper(**MARK), birth="").alive


async def test_an_engine_of_an_older_version_is_adopted_by_what_its_mark_has(
    machine: Machine,
) -> None:
    later = ("NEBULA_ENGINE_PORT", "NEBULA_CLUSTER")
    older = {key: value for key, value in MARK.items() if key not in later}
    assert machine.adopt(await machine.sleeper(**older)).alive


@pytest.mark.parametrize("step", [-3600.0, -1.0, 1.0, 3600.0])
async def test_a_step_of_the_clock_ends_no_adopted_process(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    process = await machine.sleeper(**MARK)
    adopted = machine.adopt(process)
    watching = asyncio.create_task(adopted.wait())
    # What a step moves: the clock, and with it the time of boot that /proc/stat tells. That is in
    # whole seconds, which may be others at another look.
    now, booted = time.time, psutil._pslinux.boot_time()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted)
    before = psutil.Process(process.pid).create_time()
    monkeypatch.setattr(time, "time", lambda: now() + step)
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted + step)
    assert psutil.Process(process.pid).create_time() == pytest.approx(before + step, abs=0.01)
    assert adopted.alive
    assert machine.adopt(process).alive
    done, _ = await asyncio.wait((watching,), timeout=3 * processes.POLL)
    assert not done
    assert living(process.pid) != []
    await adopted.end(grace=5)
    assert await asyncio.wait_for(watching, 20) is None
    assert living(process.pid) == []


async def test_a_group_that_another_process_leads_by_now_is_left_alone(machine: Machine) -> None:
    stranger = await machine.sleeper()
    dead = EngineProcess(stranger.pid, "a-boot:1", stranger.log_file)
    await dead.wait()
    await dead.end(grace=0)
    await dead.gone()
    assert living(stranger.pid) != []


async def test_orphans_are_ended_unless_the_machine_has_booted_since(machine: Machine) -> None:
    process = await machine.shell(f"sleep {HOUR} & exec sleep 0.2")
    await asyncio.wait_for(process._child.wait(), 20)  # type: ignore[union-attr]
    assert living(process.pid) == ["sleep"]
    await machine.end_orphans(process, f"another-boot:{process.birth.partition(':')[2]}")
    await machine.end_orphans(process, "")
    assert living(process.pid) == ["sleep"]
    await machine.end_orphans(process)
    assert living(process.pid) == []


async def test_an_engine_that_can_t_be_adopted_is_ended_by_what_it_writes_to(
    machine: Machine,
) -> None:
    process = await machine.sleeper()  # as with a title in place of its mark
    await processes.end_orphans(process.pid, process.birth, ENGINE, machine.folder / "other.log")
    await machine.end_orphans(process, f"{process.birth.partition(':')[0]}:1")
    assert living(process.pid) == ["sleep"]
    await machine.end_orphans(process)
    assert living(process.pid) == []


async def test_orphans_that_write_elsewhere_are_ended_only_with_the_mark_of_the_engine(
    machine: Machine,
) -> None:
    orphan = f"sleep {HOUR} >/dev/null 2>&1 & wait"
    marks = {
        "stranger": {},
        "other": replace(ENGINE, replica="chat-1").variables,
        "own": ENGINE.variables,
    }
    groups = {name: await machine.shell(orphan, **mark) for name, mark in marks.items()}
    for process in groups.values():
        await sleeping(process, 1)
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.wait_for(process._child.wait(), 20)  # type: ignore[union-attr]
        await machine.end_orphans(process)
    left = {name: living(process.pid) for name, process in groups.items()}
    assert left == {"stranger": ["sleep"], "other": ["sleep"], "own": []}


async def test_an_adopted_process_quotes_none_that_wrote_to_its_file_before(
    machine: Machine,
) -> None:
    first = await machine.shell("echo 'RuntimeError: of the first'; exit 1")
    await first.wait()
    second = await machine.shell(f"echo second; exec sleep {HOUR}", **MARK)
    await machine.said("second")
    adopted = machine.adopt(second)
    assert adopted.tail() == ("second",)
    assert adopted.log_start == second.log_start


async def test_a_process_that_has_ended_is_not_adopted(machine: Machine) -> None:
    process = await machine.shell("exit 0")
    await process.wait()
    with pytest.raises(NotAdopted, match="it ended"):
        machine.adopt(process)


async def test_a_second_engine_appends_to_the_log_and_tells_only_its_own_lines(
    machine: Machine,
) -> None:
    first = await machine.shell("echo first")
    await first.wait()
    second = await machine.shell("echo second")
    await second.wait()
    assert second.tail() == ("second",)
    said = tail(machine.log_file, 10)
    assert [line for line in said if not line.startswith(log_marks.MARK)] == ["first", "second"]


async def test_an_engine_s_last_words_are_its_own_after_its_log_was_turned_over(
    machine: Machine,
) -> None:
    first = await machine.shell("seq 100000 100999")  # 7,000 bytes
    await first.wait()
    go_on = machine.folder / "go"
    os.mkfifo(go_on)
    second = await machine.shell(f"echo begin; read -r line < {go_on}; echo end; exit 3")
    await machine.said("begin")
    written = second.log_size()
    assert await child_output.turn_over(machine.log_file, 100)
    assert machine.log_file.stat().st_size == 0
    assert second.log_size() == written
    assert second.tail() == ("begin",)
    await asyncio.to_thread(go_on.write_text, "go\n")
    assert await second.wait() == 3
    assert second.tail() == ("begin", "end")
    third = await machine.shell("seq 100000 100999; echo third")
    await third.wait()
    assert third.tail(2000)[0] == "100000"
    assert second.tail(3)[-1] == "third"


async def test_engines_are_found_by_the_node_and_the_folder_they_were_started_with(
    machine: Machine,
) -> None:
    folder = str(machine.folder)
    mine = {"NEBULA_NODE": "alpha", "NEBULA_NODE_FOLDER": folder}
    first = await machine.shell(f"sleep {HOUR} & sleep {HOUR} & wait", **mine)
    second = await machine.sleeper(**mine)
    await machine.sleeper(**{**mine, "NEBULA_NODE": "beta"})
    await machine.sleeper(**{**mine, "NEBULA_NODE_FOLDER": folder + "/other"})
    await sleeping(first, 2)
    assert marked_groups("alpha", folder) == {first.pid, second.pid}


async def test_an_engine_whose_leader_is_dead_is_found_by_what_is_left_of_it(
    machine: Machine,
) -> None:
    mine = {"NEBULA_NODE": "alpha", "NEBULA_NODE_FOLDER": str(machine.folder)}
    process = await machine.shell(f"sleep {HOUR} & wait", **mine)
    await sleeping(process, 1)
    os.kill(process.pid, signal.SIGKILL)
    assert marked_groups("alpha", str(machine.folder)) == {process.pid}


async def test_the_node_itself_is_never_among_its_engines(machine: Machine) -> None:
    child = await machine.start(
        sys.executable,
        "-c",
        "from nebula.actors.node.processes import marked_groups; print(marked_groups('a', 'f'))",
        NEBULA_NODE="a",
        NEBULA_NODE_FOLDER="f",
    )
    assert await child.wait() == 0
    assert child.tail() == ("set()",)


def test_a_free_port_can_be_bound_and_is_none_of_those_taken() -> None:
    taken: set[int] = set()
    for _ in range(50):
        port = free_port(taken)
        assert port not in taken
        taken.add(port)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
