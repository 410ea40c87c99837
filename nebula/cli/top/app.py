"""The terminal application of `nebula top`: keys, and when what is drawn again."""

import asyncio
import contextlib
import time
from typing import ClassVar

from msgspec.structs import replace
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from nebula.actors.projection import NewerCluster
from nebula.cli.elsewhere import shown_message
from nebula.cli.top import frame
from nebula.cli.top.accounts import GROUPINGS, SPANS, Account
from nebula.cli.top.listing import Line, Span, fit
from nebula.cli.top.shown import EVENTS, HOME, REQUESTS, USAGE, Shown
from nebula.cli.top.source import Source
from nebula.cli.top.timeline import Timeline
from nebula.cli.top.widgets import Bar, ItemList, Page, Slider
from nebula.events.state import State
from nebula.events.usage_limits import limits_of
from nebula.history import moments
from nebula.history.moments import BadMoment, Moment
from nebula.history.replay import BadLog
from nebula.store.archive import BadArchive
from nebula.store.connection import Unavailable
from nebula.store.tail import LogReplaced

LEAST_PAUSE = 0.2
"""Seconds between two drawings of a log that grows, at least."""

CALM = 4
"""A drawing that took long is followed by a pause so many times as long."""

ASK_EVERY = 2.0
"""Seconds between two questions about requests in flight, while they are shown."""

USAGE_EVERY = 15.0
"""Seconds between two questions about what was used until now, while it is shown."""

_TROUBLES = (BadMoment, BadArchive, BadLog, Unavailable, OSError)


class Top(App[str]):
    """The windows over a log. It returns why it ended; "" if it was asked to."""

    TITLE = "nebula top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: ansi_default; }
    #prompt { height: 1; border: none; padding: 0; display: none; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number + 1), f"window({number})") for number in range(len(frame.WINDOWS))),
        Binding("tab", "turn(1)", priority=True),
        Binding("shift+tab", "turn(-1)", priority=True),
        Binding("left", "move(-1)"),
        Binding("right", "move(1)"),
        Binding("left_square_bracket,shift+left", "jump(-1)"),
        Binding("right_square_bracket,shift+right", "jump(1)"),
        Binding("g", "prompt('go')"),
        Binding("slash", "prompt('find')"),
        Binding("l", "live"),
        Binding("y", "copy"),
        Binding("b", "by"),
        Binding("s", "span"),
        Binding("escape", "clear"),
        Binding("question_mark,f1", "help"),
        Binding("q", "leave"),
        Binding("ctrl+c", "leave", priority=True),
    ]

    def __init__(self, source: Source, called: str, state: State | None = None) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self.source = source
        self.called = called
        newest = source.newest
        line = Timeline(newest.seq, newest.seq)
        self.shown = Shown(newest, line, grows=source.live)
        if state is not None and state.seq < newest.seq:
            self.shown.state, self.shown.line = state, line.at(state.seq)
        self.notice = ""
        self._unread = ""
        self._asked_for = ""
        self._wake = asyncio.Event()
        self._asking = asyncio.Event()
        self._accounted = 0.0

    def compose(self) -> ComposeResult:
        """Lay out the windows."""
        yield Bar(self._title, "title")
        yield Slider(id="slider")
        yield Bar(self.shown.tabs, "tabs")
        yield Bar(self._head, "head")
        yield ItemList("list")
        yield Input(id="prompt", compact=True)
        yield Bar(self._foot, "foot")

    async def on_mount(self) -> None:
        """Draw for the first time, and begin to follow the log."""
        self._list.focus()
        self._draw(anew=True)
        for work in (self._follow, self._seek, self._ask):
            self.run_worker(work())
        self._wake.set()
        self.set_interval(1.0, self._draw_frame)  # the connection may be lost, or come back

    # What is shown

    @property
    def _list(self) -> ItemList:
        return self.screen_stack[0].query_one("#list", ItemList)

    def _title(self, width: int) -> Line:
        source = self.source
        return frame.title(
            self.called, self.shown.line, self.shown.state.time, source.live, source.trouble, width
        )

    def _head(self, width: int) -> Line:
        return self.shown.head(self._list.listing, width)

    def _foot(self, width: int) -> Line:
        told = self.notice or self._unread or self.source.trouble
        if told:
            return (Span(fit(shown_message(told), width), "warning"),)
        return frame.keys(width)

    def _draw(self, *, anew: bool = False) -> None:
        """Draw everything that depends on the moment or the window."""
        self._list.show(self.shown.listing(), anew=anew)
        self._draw_frame()
        page = self.screen
        if isinstance(page, Page):
            page.again()

    def _draw_frame(self) -> None:
        base = self.screen_stack[0]
        for slider in base.query(Slider):  # while the app ends, nothing is there to be drawn
            slider.show(self.shown.line)
        for each in base.query(Bar):
            each.refresh()

    # What goes on

    async def _follow(self) -> None:
        """Draw again as the log grows, no more often than there is time for."""
        source = self.source
        while True:
            if source.newest.seq == self.shown.line.last:
                try:
                    await source.grown()
                except (LogReplaced, NewerCluster) as error:
                    self.exit(str(error))
                    return
            self.shown.line = self.shown.line.grown(source.newest.seq)
            began = time.monotonic()
            if self.shown.line.live:
                self.shown.state = source.newest
                self._draw()
            else:
                self._draw_frame()
            self._wake.set()
            await asyncio.sleep(max(LEAST_PAUSE, CALM * (time.monotonic() - began)))

    async def _seek(self) -> None:
        """Bring the state to the moment on the slider, and the events to that of the state."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if self.shown.line.live:
                    wanted = self.source.newest
                else:
                    wanted = await self.source.at(Moment(seq=self.shown.line.seq))
                changed = wanted is not self.shown.state
                self.shown.state = wanted
                if self.shown.window == EVENTS:
                    changed = await self._read() or changed
                if self.shown.window == HOME:
                    changed = await self._look() or changed
                if self.shown.window == USAGE and not self.shown.accounted:
                    self._asking.set()
                self._unread = ""
            except _TROUBLES as error:
                self._unread, changed = str(error), True
                if not self.shown.line.live:
                    self.shown.line = replace(self.shown.line, seq=self.shown.state.seq)
            if changed:
                self._draw()

    async def _look(self) -> bool:
        """Find what needs attention at the moment; give up once another moment is asked for."""
        shown = self.shown
        if shown.line.live:
            return await shown.look(CALM, lambda: True)
        seq = shown.state.seq
        return await shown.look(0, lambda: shown.line.seq == seq and shown.window == HOME)

    async def _read(self) -> bool:
        """Read the events before the moment; return whether there were any to read."""
        shown = self.shown
        after, kept = shown.missing()
        if after >= shown.state.seq:
            return False
        shown.records = kept + await self.source.records(after, shown.state.seq)
        return True

    async def _ask(self) -> None:
        """Ask for what is not in the state while it is shown: requests in flight, and usage."""
        while True:
            self._asking.clear()
            if self.shown.window == REQUESTS and self.shown.present:
                await self._ask_requests()
            if self.shown.window == USAGE:
                await self._ask_usage()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_EVERY):
                    await self._asking.wait()

    async def _ask_requests(self) -> None:
        try:
            self.shown.requests = await self.source.requests()
            self.shown.no_requests = "no request is in flight"
        except Unavailable as error:
            self.shown.requests, self.shown.no_requests = None, shown_message(str(error))
        if self.shown.window == REQUESTS:
            self._draw()

    async def _ask_usage(self) -> None:
        """Ask for what was used, unless it is known: that of now changes."""
        shown, now = self.shown, time.monotonic()
        if shown.accounted and not (shown.present and now - self._accounted >= USAGE_EVERY):
            return
        hours = shown.hours
        try:
            found = await self.source.usage(*hours)
            shown.account = Account(*hours, found.sums, found.lost, found.dropped)
            self._accounted, shown.no_account = now, "asking …"
        except _TROUBLES as error:
            shown.no_account = shown_message(str(error))
        if shown.window == USAGE:
            self._draw()

    async def _ask_limits(self, key: str) -> None:
        """Ask for what is used of the limits of a key and of its tenant, and draw them."""
        found = self.shown.state.keys.get(key)
        places = [("key", key)]
        if found is not None and found.tenant:
            places.append(("tenant", found.tenant))
        for kind, identity in places:
            with contextlib.suppress(Unavailable):
                self.shown.used[limits_of(kind, identity)] = await self.source.used(kind, identity)
        self._draw()

    # Keys

    def _go(self, line: Timeline) -> None:
        self.notice = self._unread = ""
        self.shown.line = line
        self._draw_frame()
        self._wake.set()

    def action_move(self, by: int) -> None:
        """Go some events back or forth."""
        self._go(self.shown.line.moved(by))

    def action_jump(self, by: int) -> None:
        """Go a wide step back or forth."""
        self._go(self.shown.line.moved(by * self.shown.line.wide))

    def action_live(self) -> None:
        """Show the present again."""
        self._go(self.shown.line.newest())

    def on_slider_moved(self, message: Slider.Moved) -> None:
        """Go to where the slider was clicked."""
        self._go(self.shown.line.at(message.seq))

    def action_window(self, number: int) -> None:
        """Show another window."""
        if isinstance(self.screen, Page):
            self.screen.dismiss()
        if number == self.shown.window:
            return
        self.shown.window, self.shown.find, self.notice = number, "", ""
        self._draw(anew=True)
        self._wake.set()
        self._asking.set()

    def action_turn(self, by: int) -> None:
        """Show the next window, or the previous one."""
        self.action_window((self.shown.window + by) % len(frame.WINDOWS))

    def action_clear(self) -> None:
        """Close the prompt, or show all again."""
        prompt = self.screen_stack[0].query_one("#prompt", Input)
        if prompt.display:
            prompt.display = False
            self._list.focus()
        elif self.shown.find or self.notice:
            self.shown.find = self.notice = ""
            self._draw(anew=True)

    def action_prompt(self, what: str) -> None:
        """Ask for a text to find, or for a moment."""
        if isinstance(self.screen, Page):
            return
        self._asked_for = what
        prompt = self.screen_stack[0].query_one("#prompt", Input)
        prompt.placeholder = (
            "find: a part of an id, a name or a state"
            if what == "find"
            else "go to: 4711, 03:00, 2026-11-23T03:00 or 15m"
        )
        prompt.value = self.shown.find if what == "find" else ""
        prompt.display = True
        prompt.focus()

    async def on_input_submitted(self, message: Input.Submitted) -> None:
        """Do what was asked for."""
        text = message.value.strip()
        message.input.display = False
        self._list.focus()
        if self._asked_for == "find":
            self.shown.find = text
            self._draw(anew=True)
        elif text:
            await self._go_to(text)

    async def _go_to(self, text: str) -> None:
        try:
            wanted = moments.parse(text, time.time_ns())
            if wanted.time is not None and wanted.time >= self.source.newest.time:
                self._go(self.shown.line.newest())
                return
            state = await self.source.at(wanted)
        except _TROUBLES as error:
            self.notice = str(error)
            self._draw_frame()
            return
        self._go(self.shown.line.at(state.seq))

    def action_copy(self) -> None:
        """Copy the command that mends the selected line."""
        number, found = self._list.cursor, self.shown.survey.concerns
        if self.shown.window == HOME and number < len(found) and found[number].command:
            self.copy_to_clipboard(found[number].command)
            self.notice = f"copied: {found[number].command}"
            self._draw_frame()

    def action_by(self) -> None:
        """Tell usage apart by something else."""
        if self.shown.window == USAGE:
            self.shown.by = (self.shown.by + 1) % len(GROUPINGS)
            self._draw(anew=True)

    def action_span(self) -> None:
        """Show the usage of a longer time, or of the shortest again."""
        if self.shown.window == USAGE:
            self.shown.span = (self.shown.span + 1) % len(SPANS)
            self._draw(anew=True)
            self._asking.set()

    def action_help(self) -> None:
        """Show what the keys do."""
        self.push_screen(Page("Help", frame.HELP.splitlines))

    def action_leave(self) -> None:
        """End."""
        self.exit("")

    def on_item_list_opened(self, message: ItemList.Opened) -> None:
        """Show all of one thing."""
        kind, identity = message.chosen
        made = self.shown.page(kind, identity, message.number)
        if made is not None:
            self.push_screen(Page(f"{kind} {identity}".replace("\n", ", "), made))
        if kind == "key" and self.shown.present:
            self.run_worker(self._ask_limits(identity))

    def on_resize(self) -> None:
        """Draw anew for another width."""
        self._draw_frame()
