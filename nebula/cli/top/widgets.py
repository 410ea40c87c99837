"""What `nebula top` draws with: a line, the slider, a list that draws what is visible, a page."""

from collections.abc import Callable, Iterable
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.geometry import Size
from textual.message import Message
from textual.screen import Screen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from nebula.cli.top.listing import Chosen, Line, Listing, Span, Tone
from nebula.cli.top.timeline import Timeline, pointed, track

STYLES: dict[Tone, Style] = {
    "": Style(),
    "bad": Style(color="red", bold=True),
    "warning": Style(color="yellow"),
    "working": Style(color="cyan"),
    "good": Style(color="green"),
    "dim": Style(dim=True),
    "bold": Style(bold=True),
}

MARGIN = 2
"""Characters before each line of a list: a bar beside the selected item."""

_EMPTY = Listing(0, lambda _, __: (), lambda _: None, "")


def segments(line: Iterable[Span]) -> list[Segment]:
    """Return a line as Textual draws it."""
    return [Segment(each.text, STYLES[each.tone]) for each in line]


class Bar(Widget):
    """One line, made anew for whatever width there is."""

    DEFAULT_CSS = "Bar { height: 1; }"

    def __init__(self, make: Callable[[int], Line], name: str) -> None:
        super().__init__(id=name)
        self.make = make

    def render_line(self, y: int) -> Strip:  # noqa: ARG002
        """Return the line."""
        width = self.size.width
        return Strip(segments(self.make(width))).adjust_cell_length(width, self.rich_style)


class Slider(Widget):
    """The time slider; a click on it goes to a moment."""

    DEFAULT_CSS = "Slider { height: 1; }"

    class Moved(Message):
        """The slider was clicked at the place of a sequence."""

        def __init__(self, seq: int) -> None:
            super().__init__()
            self.seq = seq

    line = Timeline(0, 0)

    def show(self, line: Timeline) -> None:
        """Show a timeline."""
        if line != self.line:
            self.line = line
            self.refresh()

    def render_line(self, y: int) -> Strip:  # noqa: ARG002
        """Return the line."""
        width = self.size.width
        style = Style(color="blue" if self.line.live else "yellow")
        return Strip([Segment(track(self.line, width), style)], width)

    def on_click(self, event: events.Click) -> None:
        """Go to where it was clicked."""
        self.post_message(self.Moved(pointed(self.line, event.x, self.size.width)))


class ItemList(ScrollView, can_focus=True, inherit_bindings=False):
    """A list of which only the visible items are made and drawn."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "step(-1)", "Up"),
        Binding("down,j", "step(1)", "Down"),
        Binding("pageup", "page(-1)", "Page up"),
        Binding("pagedown", "page(1)", "Page down"),
        Binding("home", "end(-1)", "First"),
        Binding("end", "end(1)", "Last"),
        Binding("enter", "open", "Open"),
    ]

    DEFAULT_CSS = "ItemList { height: 1fr; overflow-x: hidden; scrollbar-size-vertical: 1; }"

    class Opened(Message):
        """An item is to be shown."""

        def __init__(self, chosen: Chosen, number: int) -> None:
            super().__init__()
            self.chosen = chosen
            self.number = number

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self.listing = _EMPTY
        self.cursor = 0
        self._made: dict[tuple[int, int], list[Line]] = {}

    def show(self, listing: Listing, *, anew: bool = False) -> None:
        """Show a list; the cursor stays on what it was on, unless the list is another one.

        At the first line it stays there, so that the newest event is followed.
        """
        chosen = None if anew or not self.cursor else self._chosen()
        height = self.listing.height
        self.listing, self._made = listing, {}
        self.cursor = 0 if anew else max(0, min(self.cursor, listing.count - 1))
        if chosen is not None and self._chosen() != chosen:
            near = range(max(0, self.cursor - 200), min(listing.count, self.cursor + 200))
            self.cursor = next((n for n in near if listing.about(n) == chosen), self.cursor)
        self._resize()
        if anew or height != listing.height:
            self.scroll_to(y=0, animate=False)
        self._reveal()
        self.refresh()

    def _chosen(self) -> Chosen | None:
        return self.listing.about(self.cursor) if self.cursor < self.listing.count else None

    def _resize(self) -> None:
        listing = self.listing
        self.virtual_size = Size(1, listing.count * listing.height)

    def on_resize(self) -> None:
        """Make all lines anew for another width."""
        self._made = {}
        self._resize()

    def render_line(self, y: int) -> Strip:
        """Return one visible line."""
        width = self.size.width
        height = self.listing.height
        number, part = divmod(y + round(self.scroll_offset.y), height)
        blank = Strip.blank(width, self.rich_style)
        if not self.listing.count and y == 0:
            return Strip(segments((Span(f"  {self.listing.nothing}"),))).adjust_cell_length(width)
        if number >= self.listing.count:
            return blank
        lines = self._made.get((number, width))
        if lines is None:
            lines = self._made[number, width] = list(
                self.listing.lines(number, max(0, width - MARGIN))
            )
        if part >= len(lines):
            return blank
        on = number == self.cursor
        line = (Span("▌ " if on else "  ", "bold"), *lines[part])
        strip = Strip(segments(line)).adjust_cell_length(width)
        return strip.apply_style(Style(bold=True)) if on else strip

    def _reveal(self) -> None:
        """Scroll until the cursor is visible."""
        height = self.listing.height
        top, bottom = self.cursor * height, (self.cursor + 1) * height
        begin, visible = round(self.scroll_offset.y), self.size.height
        if top < begin:
            self.scroll_to(y=top, animate=False)
        elif visible and bottom > begin + visible:
            self.scroll_to(y=bottom - visible, animate=False)

    def _move(self, number: int) -> None:
        self.cursor = max(0, min(number, self.listing.count - 1))
        self._reveal()
        self.refresh()

    def action_step(self, by: int) -> None:
        """Select the next item, or the previous one."""
        self._move(self.cursor + by)

    def action_page(self, by: int) -> None:
        """Select the item a page further."""
        self._move(self.cursor + by * max(1, self.size.height // self.listing.height - 1))

    def action_end(self, by: int) -> None:
        """Select the first or the last item."""
        self._move(0 if by < 0 else self.listing.count - 1)

    def action_open(self) -> None:
        """Open the selected item."""
        chosen = self._chosen()
        if chosen is not None:
            self.post_message(self.Opened(chosen, self.cursor))

    def on_click(self, event: events.Click) -> None:
        """Select what was clicked; open it with a double click."""
        number = (event.y + round(self.scroll_offset.y)) // self.listing.height
        if number < self.listing.count:
            self._move(number)
            if event.chain == 2:
                self.action_open()


class Page(Screen[None]):
    """A text over the windows, which can be scrolled."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,backspace", "close", "Close")]

    DEFAULT_CSS = """
    Page { align: center middle; }
    Page VerticalScroll { width: 100%; height: 100%; border: round ansi_blue; padding: 0 1; }
    Page Static { width: 100%; height: auto; }
    """

    def __init__(self, name: str, make: Callable[[], Iterable[str]]) -> None:
        super().__init__()
        self._title = name
        self._make = make

    def compose(self) -> ComposeResult:
        """Lay it out."""
        scroll = VerticalScroll(Static(self._text(), id="page"))
        scroll.border_title = self._title.replace("[", r"\[")
        scroll.border_subtitle = "Esc closes"
        yield scroll

    def on_mount(self) -> None:
        """Let the arrow keys scroll; what it tells may have changed since it was laid out."""
        self.query_one(VerticalScroll).focus()
        self.again()

    def again(self) -> None:
        """Make the text anew, as what it tells has changed."""
        for each in self.query("#page").results(Static):  # none before it is laid out
            each.update(self._text())

    def action_close(self) -> None:
        """Close it."""
        self.dismiss()

    def _text(self) -> Text:
        """Return the text; its first line and its headings, which are in capitals, are bold."""
        text = Text()
        for number, line in enumerate(self._make()):
            text.append(f"{line}\n", "bold" if not number or line.isupper() else "")
        return text
