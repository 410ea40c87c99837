"""The lines around the list of `nebula top`: the shown moment, the windows, the keys. Pure."""

from rich.cells import cell_len

from nebula.cli.top.listing import Line, Span, Tone, fit
from nebula.cli.top.timeline import Timeline
from nebula.history import moments

WINDOWS = ("Home", "Models", "Nodes", "Requests", "Events", "Usage", "Keys", "Batches")

KEYS = (
    ("←→", "event"),
    ("[ ]", "further"),
    ("g", "go to"),
    ("l", "live"),
    ("/", "find"),
    ("Enter", "open"),
    ("?", "help"),
    ("q", "quit"),
)

_TONES: dict[str, Tone] = {"LIVE": "good", "END": "bold", "PAST": "warning", "CUT OFF": "bad"}

HELP = """\
WINDOWS
  1 to 8, Tab      home, models, nodes, requests, events, usage, keys, batches
  ↑ ↓ PgUp PgDn    move in a list; Home, End: its first and its last line
  Enter            open the selected line; Esc closes it
  /                show only what has a text in it; Esc shows all again
  y                copy the command that mends the selected line
  b s              usage: told apart by something else; of a longer time

TIME
  ← →              one event back or forth
  [ ]              a fiftieth of the log back or forth, as Shift ← →
  g                go to an event (4711), a time (03:00), or how long ago (15m)
  l                live again
  a click          on the slider goes there

q, Ctrl-C          quit

All windows show the moment on the slider.
Requests in flight, and what is used of limits, are known only while it is live."""


def title(called: str, line: Timeline, time: int, grows: bool, trouble: str, width: int) -> Line:
    """Return the first line: what is shown, and of which moment.

    `time`: of the shown event, in ns. `grows`: whether it is a cluster's log, and not a file.
    """
    mode = ("LIVE" if grows else "END") if line.live else "PAST"
    if trouble and line.live:
        mode = "CUT OFF"
    if not line.last:
        right = f"{mode}  nothing has happened yet"
    else:
        right = f"{mode}  event {line.seq:,} of {line.last:,}  {moments.clock(time)[:-4]}"
        if cell_len(right) + 12 > width:
            right = f"{mode} {line.seq}/{line.last} {moments.clock(time)[11:19]}"
    left = width - cell_len(right) - 1
    if left < 10:
        return (Span(fit(right, width), "bold"),)
    return Span(fit(f"nebula top  {called}", left) + " ", "bold"), Span(right, _TONES[mode])


def tabs(window: int, find: str, legend: str, width: int) -> Line:
    """Return the names of the windows, and what is looked for or a legend.

    Where it is narrow, only the open window is named, and then without a legend.
    """
    found = Span(f"  find: {find} (Esc: all)", "warning") if find else Span("")
    for named, beside in ((True, legend), (True, ""), (False, legend), (False, "")):
        spans = [_tab(number, number == window, named) for number in range(len(WINDOWS))]
        spans += [found, Span(f"  {beside}" if beside else "", "dim")]
        if sum(cell_len(each.text) for each in spans) <= width:
            break
    return tuple(spans)


def _tab(number: int, is_open: bool, named: bool) -> Span:
    text = f"{number + 1} {WINDOWS[number]}"
    if is_open:
        return Span(f"[{text}]", "bold")
    return Span(f" {text} " if named else f" {number + 1} ", "dim")


def keys(width: int) -> Line:
    """Return the keys that fit; those for help and for the end always do."""
    first, last = list(KEYS[:-2]), KEYS[-2:]
    while first and sum(len(key) + len(word) + 3 for key, word in (*first, *last)) > width:
        first.pop()
    line: list[Span] = []
    for key, word in (*first, *last):
        line += [Span(key, "bold"), Span(f" {word}  ")]
    return tuple(line)
