"""`nebula top` as an application: its keys, its slider, and how it follows a log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from textual.widgets import Input

from nebula.actors.in_flight_asking import InFlight
from nebula.cli.top import windows
from nebula.cli.top.shown import Shown
from nebula.cli.top.source import FileSource, Source
from nebula.cli.top.timeline import Timeline
from nebula.cli.top.widgets import ItemList, Page
from nebula.events.evolve import evolve
from nebula.events.record import Record
from nebula.events.requests_in_flight import RequestInFlight
from nebula.events.state import EMPTY, State
from nebula.history.moments import Moment
from nebula.http.console.file_log import FileLog
from nebula.store.connection import Unavailable
from nebula.store.usage_log import Usage
from tests.unit import corpus
from tests.unit.terminal_screen import Screen, opened_top

pytestmark = pytest.mark.anyio

LOG = Path(__file__).parents[1] / "corpus" / "lost-node.jsonl"
LAST = 23


def of_file() -> FileSource:
    return FileSource(FileLog(LOG), str(LOG))


class Growing(Source):
    """A cluster's log of which a test says how far it has come."""

    def __init__(self) -> None:
        inner = of_file()
        super().__init__(inner.past)
        self._all = corpus.records("lost-node")
        self._state = EMPTY
        self._more = asyncio.Event()
        self.asked = 0
        self.cut = ""
        self.grow(10)

    def grow(self, until: int) -> None:
        for record in self._all[self._state.seq : until]:
            self._state = evolve(self._state, record)
        self._more.set()

    @property
    def newest(self) -> State:
        return self._state

    @property
    def trouble(self) -> str:
        return self.cut

    async def grown(self) -> None:
        self._more.clear()
        await self._more.wait()

    async def records(self, after: int, until: int) -> list[Record]:
        if self.cut:
            raise Unavailable(self.cut)
        return self._all[after:until]

    async def requests(self) -> InFlight:
        self.asked += 1
        begun = RequestInFlight("r1", "g1", "chat", "/v1/chat/completions", "running", 90.0)
        return InFlight((begun,), 0, ("g1",))

    async def usage(self, since: int, until: int) -> Usage:
        return Usage((), 0, 0, 0)

    async def used(self, kind: str, identity: str) -> Mapping[str, int]:
        return {}


def opened(
    source: Source | None = None, state: State | None = None, size: tuple[int, int] = (80, 24)
) -> AbstractAsyncContextManager[Screen]:
    return opened_top(source or of_file(), state, size)


async def test_home_is_shown_first_and_each_window_has_a_key() -> None:
    async with opened() as screen:
        lines = await screen.sees("needs you: n2 is lost", "mend: nebula node --name n2")
        assert lines[0].startswith("nebula top  a log")
        assert "event 23 of 23" in lines[0]
        assert "[1 Home]" in lines[2]
        for key, words in (
            ("2", ("[2 Models]", "poet", "ready")),
            ("3", ("[3 Nodes]", "gpu0", "▒")),
            ("4", ("[4 Requests]", "what was in flight then is not in the log")),
            ("5", ("[5 Events]", "registered with")),
            ("6", ("[6 Usage]", "nothing was used")),
            ("7", ("[7 Keys]", "no keys yet")),
            ("8", ("[8 Batches]", "no batches yet")),
            ("tab", ("[1 Home]",)),
            ("shift+tab", ("[8 Batches]",)),
        ):
            await screen.press(key)
            await screen.sees(*words)


async def test_an_incident_is_followed_by_the_slider_alone() -> None:
    async with opened() as screen:
        await screen.press("2", *["left"] * 5)
        lines = await screen.sees("PAST", "event 18 of 23", "unschedulable")
        assert lines[1].rstrip("─").endswith("●")
        assert not lines[1].endswith("●")
        await screen.press("down", "enter")
        await screen.sees("model poet", "PLACES FOR ONE MORE REPLICA", "is lost")
        await screen.press("escape", "5")
        await screen.sees("18 ", "1 replica can't be")
        assert all("   23 " not in line for line in screen.lines)
        await screen.press("left_square_bracket")
        await screen.sees("event 8 of 23")
        await screen.press("l")
        await screen.sees("END", "event 23 of 23")


async def test_what_is_opened_changes_with_the_moment() -> None:
    async with opened() as screen:
        await screen.press("2", "down", "enter")
        await screen.sees("poet is ready")
        await screen.press(*["left"] * 5)
        await screen.sees("poet is unschedulable")


async def test_a_moment_may_be_typed_and_one_that_is_not_valid_is_refused() -> None:
    async with opened() as screen:
        await screen.press("g", "5", "enter")
        await screen.sees("event 5 of 23")
        await screen.press("g", *"nonsense", "enter")
        await screen.sees("'nonsense' is not a moment", "event 5 of 23")
        await screen.press("g", *"99", "enter")
        await screen.sees("there is no sequence 99", "event 5 of 23")
        await screen.press("g", *"1s", "enter")
        await screen.sees("event 23 of 23")
        await screen.press("g", *"2020-01-01", "enter")
        await screen.sees("is before the first event")


async def test_it_begins_with_a_given_moment() -> None:
    source = of_file()
    async with opened(source, await source.at(Moment(seq=5))) as screen:
        await screen.sees("PAST", "event 5 of 23")
        await screen.press("right")
        await screen.sees("event 6 of 23")


async def test_a_click_on_the_slider_goes_there() -> None:
    async with opened() as screen:
        await screen.pilot.click("#slider", offset=(0, 0))
        await screen.sees("event 1 of 23")


async def test_only_what_has_a_text_in_it_is_listed_until_escape() -> None:
    async with opened() as screen:
        await screen.press("2", "slash", *"po", "enter")
        await screen.sees("find: po", "poet")
        assert not any(line.strip().startswith("chat") for line in screen.lines)
        await screen.press("escape")
        await screen.sees("chat")
        await screen.press("slash", "escape")
        assert not screen.app.query_one("#prompt", Input).display
        await screen.press("down")
        assert screen.app.query_one(ItemList).cursor == 1


async def test_it_follows_a_log_that_grows_and_the_past_stays_while_it_does() -> None:
    source = Growing()
    async with opened(source) as screen:
        await screen.sees("LIVE", "event 10 of 10")
        source.grow(17)
        await screen.sees("event 17 of 17", "needs you")
        await screen.press("left")
        await screen.sees("PAST", "event 16 of 17")
        source.grow(LAST)
        await screen.sees("event 16 of 23")
        await screen.press("l")
        await screen.sees("LIVE", "event 23 of 23")


async def test_events_come_as_the_log_grows() -> None:
    source = Growing()
    async with opened(source) as screen:
        await screen.press("5")
        await screen.sees("10 ")
        source.grow(LAST)
        lines = await screen.sees("▌ 23 ")
        assert "22 " in lines[5]


async def test_requests_in_flight_are_asked_for_only_while_they_are_shown() -> None:
    source = Growing()
    async with opened(source) as screen:
        assert source.asked == 0
        await screen.press("4")
        await screen.sees("r1", "running")
        await screen.press("enter")
        await screen.sees("nebula requests cancel r1")
        await screen.press("escape", "left")
        await screen.sees("l shows the present")


async def test_a_lost_connection_is_told_and_what_is_known_stays() -> None:
    source = Growing()
    async with opened(source) as screen:
        source.cut = "NATS can't be reached"
        await screen.press("5")
        await screen.sees("CUT OFF", "NATS can't be reached")
        source.cut = ""
        source.grow(12)
        await screen.sees("LIVE", "event 12 of 12", "asked to load")


async def test_only_the_visible_of_many_models_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: set[int] = set()
    real = windows.models

    def counted(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]

        def lines(number: int, width: int) -> object:
            made.add(number)
            return found.lines(number % found.count, width)

        return type(found)(10_000, lines, lambda n: None, "", found.head)  # type: ignore[arg-type]

    monkeypatch.setattr(windows, "models", counted)
    async with opened() as screen:
        await screen.press("2", "end")
        await screen.pilot.pause()
        assert 9_999 in made
        assert len(made) < 60


async def test_what_needs_attention_is_looked_for_until_another_moment_is_wanted() -> None:
    state = of_file().newest
    over = Shown(state, Timeline(LAST, LAST), grows=False)
    assert over.listing().nothing == "looking …"
    assert not await over.look(0, lambda: False)
    assert over.surveyed is None
    assert await over.look(0, lambda: True)
    assert over.listing().count == 1
    assert not await over.look(0, lambda: True), "nothing is new"


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (20, 6), (200, 60)])
async def test_it_fits_any_terminal(size: tuple[int, int]) -> None:
    async with opened(size=size) as screen:
        for key in (*"12345678", "question_mark"):
            await screen.press(key)
            await screen.pilot.pause()
            assert len(screen.lines) == size[1]
        assert isinstance(screen.app.screen, Page)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
async def test_q_and_ctrl_c_end_it_even_over_a_page_and_in_the_prompt(key: str) -> None:
    async with opened() as screen:
        await screen.press("question_mark")
        await screen.sees("WINDOWS")
        await screen.press(key)
    assert screen.app.return_value == ""
    async with opened() as screen:
        await screen.press("slash", "ctrl+c")
    assert screen.app.return_value == ""


async def test_a_second_that_passes_while_the_app_ends_draws_nothing() -> None:
    async with opened() as screen:
        await screen.app.screen_stack[0].remove_children()
        screen.app._draw_frame()
