"""What `nebula top` shows of a state: rows for whatever width there is, made one at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from nebula.cli.top import details, frame, happenings, listing, windows
from nebula.cli.top.listing import Chosen, Column, Line, Listing
from nebula.cli.top.timeline import Timeline, place, pointed, track
from nebula.events.evolve import evolve
from nebula.events.intents import NodeDrainRequested
from nebula.events.record import Record
from nebula.events.requests_in_flight import RequestInFlight
from nebula.events.state import EMPTY, State
from nebula.events.vocabulary import NodeLost
from nebula.history import attention
from nebula.http.console.rows import DeviceRow, Held
from tests.unit import corpus
from tests.unit.story import Story, cluster, load

LOG = "many-devices"


def text(line: Line) -> str:
    return "".join(each.text for each in line)


def shown(found: Listing, width: int = 120) -> list[str]:
    return [
        text(line).rstrip() for number in range(found.count) for line in found.lines(number, width)
    ]


def home(state: State, most: int = 100) -> Listing:
    return windows.home(attention.survey(state, most))


def unplaced(*names: str) -> Story:
    story = cluster(n1=[8])
    for name in names:
        story.given(name, load(memory="80GiB"))
    story.settles()
    return story


# The windows


def test_home_tells_of_each_concern_since_when_what_explains_it_and_what_mends_it() -> None:
    story = unplaced("chat")
    what, when, mends = shown(home(story.state))
    assert what.startswith("needs you: chat is unschedulable, 0 of 1 replicas serve")
    assert when == f"  since event {story.model('chat').changed} · why: nebula why chat"
    assert mends.startswith("  mend: nebula load ")
    assert home(story.state).about(0) == Chosen("model", "chat")


def test_home_says_that_all_is_well_and_how_many_concerns_are_not_listed() -> None:
    story = cluster(n1=[80]).given("chat", load(memory="8GiB"))
    story.settles()
    story.runs("chat-0")
    well = home(story.state)
    assert (well.count, well.nothing) == (0, "All is well: nothing needs attention.")
    many = home(unplaced("a", "b", "c").state, 1)
    assert shown(many)[3] == "and 2 more"
    assert many.about(1) is None


def test_models_are_found_by_a_part_of_their_id_or_by_their_state() -> None:
    story = cluster(n1=[80]).given("chat", load(memory="8GiB")).given("far", load(memory="800GiB"))
    story.settles()
    story.runs("chat-0")
    every = shown(windows.models(story.state, "", None))
    assert [line.split()[:3] for line in every] == [
        ["chat", "ready", "1/1"],
        ["far", "unschedulable", "0/1"],
    ]
    assert windows.models(story.state, "CHA", None).about(0) == Chosen("model", "chat")
    assert [each.split()[0] for each in shown(windows.models(story.state, "unsch", None))] == [
        "far"
    ]
    assert windows.models(story.state, "nope", None).nothing == (
        "no model has 'nope' in its id, name or state"
    )


def test_nodes_have_a_line_for_each_device_and_are_named_once() -> None:
    story = cluster(n1=[80, 80], n2=[8]).given("chat", load(memory="40GiB"))
    story.settles()
    story.given("n2", NodeLost()).given("n1", NodeDrainRequested())
    found = windows.nodes(story.state, "")
    lines = shown(found)
    assert [line.split()[0] for line in lines] == ["n1", "gpu1", "n2"]
    assert "draining" in lines[0]
    assert "lost" in lines[2]
    assert [found.about(number) for number in range(3)] == [
        Chosen("node", "n1"),
        Chosen("node", "n1"),
        Chosen("node", "n2"),
    ]
    assert windows.nodes(story.state, "lost").count == 1


def test_a_bar_shows_weights_what_else_is_promised_and_what_is_free() -> None:
    device = DeviceRow(0, "gpu", "H100", 100, 100, (Held("a-0", "ready", 50, 20),))
    assert windows.bar(device, 10) == "██▒▒▒░░░░░"
    little = DeviceRow(0, "gpu", "H100", 100, 100, (Held("a-0", "ready", 1, 0),))
    assert windows.bar(little, 10) == "▒░░░░░░░░░", "what is promised is visible"
    over = DeviceRow(0, "gpu", "H100", 100, 100, (Held("a-0", "ready", 300, 300),))
    assert windows.bar(over, 10) == "█" * 10
    assert windows.bar(device, 0) == ""


def in_flight(identity: str, **fields: object) -> RequestInFlight:
    begun = {"gateway": "g", "model": "chat", "path": "/v1/chat/completions", "state": "running"}
    return RequestInFlight(**{"id": identity, "started": 90.0, **begun, **fields})  # type: ignore[arg-type]


def test_requests_tell_their_age_where_they_are_and_that_they_were_continued() -> None:
    found = [
        in_flight("r1", replica="chat-0", stream=True, tokens=7, continued=1),
        in_flight("r2", state="waiting", router="router-1", position=3),
    ]
    one, two = shown(happenings.requests(found, "", 100.0, "none"), 160)
    assert one.split() == [
        *("r1", "chat", "10s", "running", "chat-0", "7"),
        *("stream,", "continued", "1x"),
    ]
    assert two.split() == ["r2", "chat", "10s", "waiting", "router-1", "3"]
    assert happenings.requests(found, "waiting", 100.0, "none").count == 1
    assert happenings.requests((), "", 100.0, "none").nothing == "none"


def records() -> list[Record]:
    return corpus.records(LOG)


def test_events_are_listed_from_the_newest_and_found_by_what_they_say() -> None:
    every = records()
    found = happenings.events(every, "")
    assert found.count == len(every)
    assert shown(found)[0].split()[0] == str(every[-1].seq)
    placed = happenings.events(every, "model/far")
    assert {text(placed.lines(n, 120)[0]).split()[2] for n in range(placed.count)} == {"far"}


# For whatever width


@pytest.mark.parametrize("width", [1, 7, 20, 38, 60, 78, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    state = reduce(evolve, records(), EMPTY)
    requests = [in_flight("a-long-id-of-a-request", replica="chat-0")]
    for found in (
        home(state),
        windows.models(state, "", None),
        windows.nodes(state, ""),
        happenings.requests(requests, "", 0.0, "none"),
        happenings.events(records(), ""),
    ):
        lines = [line for number in range(found.count) for line in found.lines(number, width)]
        longest = max(cell_len(text(line)) for line in (*lines, found.head(width)))
        assert longest <= max(width, 2 * 7), "where there is next to no room a column has one cell"


@given(
    st.lists(
        st.builds(
            Column,
            st.just("X"),
            st.integers(1, 30),
            st.integers(0, 3),
            st.integers(0, 4),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 300),
)
def test_columns_fill_the_width_and_the_highest_ranks_go_first(
    columns: Sequence[Column], width: int
) -> None:
    found = listing.widths(columns, width)
    kept = [each for each in found if each]
    if sum(kept) > len(kept):
        assert sum(kept) + listing.GAP * (len(kept) - 1) <= width
    left_out = [column.rank for column, each in zip(columns, found, strict=True) if not each]
    stayed = [column.rank for column, each in zip(columns, found, strict=True) if each]
    assert 0 not in left_out
    assert not left_out or min(left_out) >= max((rank for rank in stayed), default=0)


@given(st.text(max_size=60), st.integers(1, 40))
def test_a_fitted_text_has_exactly_the_width(said: str, width: int) -> None:
    fitted = listing.fit(said, width)
    assert cell_len(fitted) == width
    assert "\n" not in fitted
    assert "\x1b" not in fitted


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_the_frame_fits_and_always_names_the_open_window_help_and_the_end(width: int) -> None:
    line = Timeline(4_711, 123_456, False)
    now = time.time_ns()
    assert cell_len(text(frame.title("the log of a cluster", line, now, True, "", width))) <= max(
        width, 25
    )
    tabs = text(frame.tabs(2, "", windows.LEGEND, width))
    assert "[3 Nodes]" in tabs
    keys = text(frame.keys(width))
    assert "? help" in keys
    assert "q quit" in keys
    if width >= 40:
        assert cell_len(tabs) <= width
        assert cell_len(keys) <= width


@pytest.mark.parametrize(
    ("line", "grows", "trouble", "word"),
    [
        (Timeline(5, 5), True, "", "LIVE"),
        (Timeline(5, 5), False, "", "END"),
        (Timeline(4, 5, False), True, "", "PAST"),
        (Timeline(5, 5), True, "NATS can't be reached", "CUT OFF"),
    ],
)
def test_the_title_says_whether_it_is_the_present(
    line: Timeline, grows: bool, trouble: str, word: str
) -> None:
    assert word in text(frame.title("here", line, 10**18, grows, trouble, 80))


def test_the_title_of_a_log_in_which_nothing_has_happened_says_so() -> None:
    assert "nothing has happened yet" in text(frame.title("here", Timeline(0, 0), 0, True, "", 80))


# The slider


def test_the_slider_goes_back_and_forth_and_is_live_again_at_the_end() -> None:
    line = Timeline(100, 100)
    back = line.moved(-1)
    assert (back.seq, back.live) == (99, False)
    assert back.moved(1) == line
    assert line.moved(-1000).seq == 1
    assert back.newest() == line
    assert Timeline(0, 0).moved(-1).seq == 0


def test_the_past_stays_as_the_log_grows_and_the_present_goes_on() -> None:
    assert Timeline(100, 100).grown(120) == Timeline(120, 120)
    assert Timeline(50, 100, False).grown(120) == Timeline(50, 120, False)


@given(st.integers(1, 10**7), st.integers(2, 300), st.data())
def test_a_click_on_the_slider_leads_to_where_the_knob_is_then(
    last: int, width: int, data: st.DataObject
) -> None:
    column = data.draw(st.integers(0, width - 1))
    line = Timeline(last, last)
    found = line.at(pointed(line, column, width))
    drawn = track(found, width)
    assert len(drawn) == width
    assert drawn.count("●") == 1
    if last >= width:
        assert abs(place(found, width) - column) <= 1


# All of one thing


def test_a_model_is_shown_with_what_to_do_and_why_each_place_would_not_be_taken() -> None:
    story = unplaced("chat")
    told = list(details.model(story.state, "chat", None))
    assert told[0].startswith("chat is unschedulable")
    assert told[1].startswith("Add a node")
    assert "NO REPLICAS" in told
    [place_line] = told[told.index("PLACES FOR ONE MORE REPLICA") + 1 :]
    assert place_line.startswith("n1/gpu0  needs 80.0 GiB, has ")
    assert next(iter(details.model(story.state, "gone", None))) == "gone does not exist"


def test_a_node_is_shown_with_its_devices_and_what_they_hold() -> None:
    story = cluster(n1=[80]).given("chat", load(memory="40GiB"))
    story.settles()
    told = list(details.node(story.state, "n1", None))
    assert any(line.startswith("gpu0  H100  40.0 GiB of ") for line in told)
    assert any(line.startswith("  chat-0  ") for line in told)
    assert list(details.node(story.state, "n9", None)) == ["there is no node 'n9' at this moment"]


def test_an_event_and_a_request_are_shown_with_the_command_that_explains_them() -> None:
    record = records()[-1]
    told = list(details.event(record))
    assert f"`nebula why {record.seq}` tells what led to it" in told
    assert any('"aggregate"' in line for line in told)
    asked = list(details.request(in_flight("r1", replica="chat-0"), 100.0))
    assert asked[0] == "r1 is running at chat-0, 10 s old"
    assert "`nebula requests cancel r1` ends it" in asked


def test_a_concern_is_shown_with_all_of_its_words() -> None:
    state = unplaced("chat").state
    [only] = attention.survey(state, 10).concerns
    told = list(details.concern(only))
    assert told[:2] == [only.text, only.todo]
    assert f"mend      `{only.command}`" in told
