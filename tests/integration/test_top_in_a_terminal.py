"""`nebula top` in a real pseudo-terminal, over a cluster that runs, and without a terminal."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

LOG = Path(__file__).parents[1] / "corpus" / "lost-node.jsonl"
COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|4[0-7]|9[0-7]|38|48)[0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\x1b\][^\x07]*\x07")
LEFT = "\x1b[D"


class Terminal:
    """A pseudo-terminal of 80x24 with `nebula top` in it; all that it wrote."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self.master = master
        self.wrote = ""
        self._more = asyncio.Event()
        self._closed = False
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self.master, 65536)
        except OSError:  # its other end is closed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self.master)
            self._closed = True
        self.wrote += data.decode(errors="replace")
        self._more.set()

    @property
    def text(self) -> str:
        return CONTROL.sub("", self.wrote)

    async def sees(self, *words: str) -> None:
        """Wait until all words were written since the last call."""
        try:
            async with asyncio.timeout(60):
                while not all(word in self.text for word in words):
                    assert not self._closed, self.text
                    await self._more.wait()
                    self._more.clear()
        except TimeoutError:
            raise AssertionError(f"{words} did not come:\n{self.text}") from None
        self.wrote = ""

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    async def ended(self) -> int:
        async with asyncio.timeout(60):
            return await self.process.wait()


@asynccontextmanager
async def terminal(*arguments: str, **variables: str) -> AsyncIterator[Terminal]:
    """Run `nebula top` in a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(slave)
    environ = {**os.environ, "TERM": "xterm-256color", **variables}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nebula.cli.main", "top", *arguments),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environ,
        start_new_session=True,
    )
    found = Terminal(process, master)
    try:
        yield found
        assert termios.tcgetattr(slave) == before, "the terminal is as it was"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(slave)
        os.close(master)


async def test_a_running_cluster_is_watched_and_looked_back_at(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("chat")
    async with terminal(NEBULA_NATS_URL=cluster.nats_url) as seen:
        await seen.sees("LIVE", "[1 Home]", "models:")
        seen.press("2")
        await seen.sees("[2 Models]", "chat")
        await cluster.load("far", stands="unschedulable", memory="9000GiB")
        await seen.sees("far", "unschedulable")
        seen.press("1")
        await seen.sees("needs you", "far is unschedulable", "mend: nebula ")
        seen.press("4")
        await seen.sees("no request is in flight")
        seen.press("5")
        await seen.sees("asked to load")
        seen.press(LEFT)
        await seen.sees("PAST")
        assert (await cluster.nebula("unload", "far")).code == 0
        seen.press("q")
        assert await seen.ended() == 0


async def test_a_log_is_shown_without_a_cluster_from_a_moment_and_ctrl_c_ends_it() -> None:
    async with terminal("--log", str(LOG), "--at", "18") as seen:
        await seen.sees("PAST", "event 18 of 23", "poet is unschedulable")
        seen.press("\x03")
        assert await seen.ended() == 0


async def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was() -> None:
    async with terminal("--log", str(LOG)) as seen:
        await seen.sees("needs you")
        seen.process.terminate()
        assert await seen.ended() == 0


async def test_nats_may_go_and_come_back_while_it_is_open(own_cluster: Cluster) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    await own_cluster.load("chat")
    async with terminal(NEBULA_NATS_URL=own_cluster.nats_url) as seen:
        await seen.sees("LIVE", "All is well")
        own_cluster.stop("nats")
        await seen.sees("CUT OFF")
        own_cluster.again("nats")
        await seen.sees("LIVE")
        await own_cluster.ready()
        await own_cluster.load("far", stands="unschedulable", memory="9000GiB")
        await seen.sees("far is unschedulable")
        seen.press("q")
        assert await seen.ended() == 0


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_colours_are_left_out_where_they_are_not_wanted(
    variables: dict[str, str], coloured: bool
) -> None:
    async with terminal("--log", str(LOG), **variables) as seen:
        async with asyncio.timeout(60):
            while "needs you" not in seen.text:
                await seen._more.wait()
                seen._more.clear()
        assert bool(COLOUR.search(seen.wrote)) is coloured
        seen.press("q")
        assert await seen.ended() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--log", str(LOG)), 1, "it needs a terminal; `nebula state --at SEQ --log"),
        (("--log", str(LOG), "--at", "nonsense"), 2, "'nonsense' is not a moment"),
    ],
)
async def test_without_a_terminal_it_says_so(
    arguments: tuple[str, ...], code: int, words: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nebula.cli.main", "top", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, told = await process.communicate()
    assert (process.returncode, out) == (code, b"")
    assert words in told.decode()


async def test_a_moment_that_the_log_does_not_have_is_refused_in_one_line() -> None:
    async with terminal("--log", str(LOG), "--at", "99") as seen:
        await seen.sees("there is no sequence 99")
        assert await seen.ended() == 1
