"""What is stored of a response folds to one whole answer, whichever worker wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from nebula.events.stored_responses import (
    Asked,
    Began,
    Broke,
    Deleted,
    Ended,
    Entry,
    Event,
    Head,
    Progress,
    read,
)
from nebula.openai import responses
from nebula.openai.repeated_run import RepeatedRun
from nebula.openai.response_events import TERMINAL, numbered
from nebula.openai.stored_response import StoredResponse, fold

EVENT = TypeAdapter[Any](ResponseStreamEvent)
HEAD = Head(id="resp_1", owner="", created=7, background=True)
QUEUED = responses.queued(b'{"model": "chat", "input": "hi"}', HEAD)
ASKED = Asked(head=HEAD, body=Raw(b"{}"), response=Raw(msgspec.json.encode(QUEUED)))


def stream(run: int, text: str, cuts: list[int]) -> list[Event]:
    """What an engine says: its ids are its own, and it cuts the text where it likes."""
    item = {"id": f"msg_{run}", "type": "message", "role": "assistant", "status": "in_progress"}
    place = {"output_index": 0, "content_index": 0, "item_id": item["id"]}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    at = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(at) if a < b]
    whole = {**item, "status": "completed", "content": [{**part, "text": text}]}
    said: list[Event] = [
        {"type": "response.created", "response": {"id": "resp_1"}},
        {"type": "response.in_progress", "response": {"id": "resp_1"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **place, "part": part},
        *(
            {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
            for piece in pieces
        ),
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": {**part, "text": text}},
        {"type": "response.output_item.done", "output_index": 0, "item": whole},
        {
            "type": "response.completed",
            "response": {**QUEUED, "status": "completed", "output": [whole]},
        },
    ]
    return numbered(said, 0)


class Store:
    """A stream that takes a message only from a writer that knows the last one."""

    def __init__(self) -> None:
        self.entries: list[Entry] = [ASKED]

    def append(self, entry: Entry, after: int) -> int | None:
        if after != len(self.entries):
            return None
        self.entries.append(read(msgspec.json.encode(entry)) or Deleted())
        return len(self.entries)

    def folded(self) -> StoredResponse:
        found = fold(self.entries)
        assert found is not None
        return found


def worker(store: Store, writer: str, said: list[Event], every: int) -> Iterator[None]:
    """Let a worker run, one step at a time; it may be left at any of them."""
    found, known = store.folded(), len(store.entries)
    if found.ended:
        return
    attempt = found.attempt + 1
    run: RepeatedRun | None = None
    for number, event in enumerate(said):
        yield
        if run is None:
            after = store.append(Began(attempt=attempt, writer=writer), known)
            if after is None:
                return
            known, found = after, store.folded()
            run = RepeatedRun(HEAD.id, found.events, found.section)
        if event["type"] in TERMINAL:
            run.finish(event["response"], event["type"])
            store.append(
                Ended(
                    head=HEAD,
                    response=Raw(msgspec.json.encode(run.events[-1]["response"])),
                    attempt=attempt,
                    writer=writer,
                    first=len(run.events) - len(run.added),
                    events=run.added,
                ),
                known,
            )
            return
        run.take(event)
        if number % every == 0 and run.added:
            yield
            progress = Progress(
                attempt=attempt,
                writer=writer,
                first=len(run.events) - len(run.added),
                section=run.section,
                events=run.added,
            )
            after = store.append(progress, known)
            if after is None:
                return
            known = after
            run.stored()


def shown(events: list[Event]) -> dict[str, str]:
    """The text of each item, put together from what the stream added."""
    texts: dict[str, str] = {}
    for event in events:
        if event["type"] == "response.output_text.delta":
            texts[event["item_id"]] = texts.get(event["item_id"], "") + event["delta"]
    return texts


def check_whole(store: Store, texts: set[str]) -> None:
    found = store.folded()
    events = found.events
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events if event["type"] in TERMINAL] == [events[-1]["type"]]
    (item,) = found.response["output"]
    text = item["content"][0]["text"]
    assert text in texts
    assert shown(events)[item["id"]] == text
    added = [event["item"]["id"] for event in events if event["type"].endswith("item.added")]
    done = {event["item"]["id"]: event["item"] for event in events if "item.done" in event["type"]}
    assert len(set(added)) == len(added)
    assert set(added) == set(done)
    for identity, said in shown(events).items():
        cut = done[identity]["status"] == "incomplete"
        assert any(whole.startswith(said) if cut else whole == said for whole in texts)
    for event in events:
        EVENT.validate_python(event)
    Response.model_validate(found.response)


CUTS = st.lists(st.integers(0, 40), max_size=6)
TEXTS = st.sampled_from(["one two three four", "one two three", "one two four", "another"])


@given(
    st.lists(st.tuples(TEXTS, CUTS, st.integers(1, 5)), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), max_size=60),
    st.tuples(TEXTS, CUTS),
)
def test_any_interleaving_of_workers_gives_one_whole_text_and_numbers_without_a_gap(
    runs: list[tuple[str, list[int], int]], order: list[int], last: tuple[str, list[int]]
) -> None:
    store = Store()
    workers: dict[int, Iterator[None]] = {}
    for turn in order:
        number = turn % len(runs)
        text, cuts, every = runs[number]
        if number not in workers:
            said = stream(number, text, cuts)
            workers[number] = worker(store, str(number), said, every)
        next(workers[number], None)
    for _ in worker(store, "last", stream(9, *last), 1):
        pass
    check_whole(store, {text for text, _, _ in runs} | {last[0]})


@given(TEXTS, st.lists(CUTS, min_size=1, max_size=5), st.lists(st.integers(0, 12), max_size=4))
def test_runs_that_say_the_same_leave_the_stream_that_one_run_would(
    text: str, cuts: list[list[int]], deaths: list[int]
) -> None:
    store = Store()
    for number, (cut, death) in enumerate(zip(cuts, deaths, strict=False)):
        running = worker(store, f"w{number}", stream(number, text, cut), 1)
        for _ in range(death):
            next(running, None)
    for _ in worker(store, "last", stream(99, text, cuts[0]), 1):
        pass
    check_whole(store, {text})
    events = store.folded().events
    assert list(shown(events).values()) == [text]
    assert sum(event["type"] == "response.output_item.done" for event in events) == 1


def test_a_run_that_says_something_else_is_not_mixed_with_an_earlier_run() -> None:
    store = Store()
    first = worker(store, "first", stream(1, "one two three", [10]), 1)
    while "one two th" not in shown(store.folded().events).values():
        next(first)
    for _ in worker(store, "second", stream(2, "one two four", [3, 8]), 1):
        pass
    check_whole(store, {"one two three", "one two four"})
    assert list(shown(store.folded().events).values()) == ["one two th", "one two four"]
    ends = [e for e in store.folded().events if e["type"] == "response.output_item.done"]
    assert [end["item"]["status"] for end in ends] == ["incomplete", "completed"]
    assert [end["output_index"] for end in ends] == [0, 1]
    assert ends[0]["item"]["content"][0]["text"] == "one two th"


def test_a_run_that_ends_earlier_is_not_taken_for_the_longer_one() -> None:
    store = Store()
    first = worker(store, "first", stream(1, "one two three", []), 1)
    while not shown(store.folded().events):
        next(first)
    for _ in worker(store, "second", stream(2, "one two", []), 1):
        pass
    check_whole(store, {"one two three", "one two"})
    assert list(shown(store.folded().events).values()) == ["one two three", "one two"]


def test_the_first_end_counts_whatever_comes_after_it() -> None:
    ended = Ended(head=HEAD, response=Raw(b'{"status":"cancelled"}'))
    other = Ended(head=HEAD, response=Raw(b'{"status":"completed"}'), attempt=9, writer="w")
    late = Progress(attempt=9, writer="w", first=2, section=2, events=[{"type": "late"}])
    found = fold([ASKED, ended, late, other])
    assert found is not None
    assert (found.response["status"], len(found.events)) == ("cancelled", 2)
    assert found.ended is not None
    assert found.ended.status == "cancelled"


def test_what_an_older_attempt_writes_late_is_not_taken() -> None:
    events = [{"type": "response.output_text.delta", "delta": "x"}]
    late = Progress(attempt=1, writer="old", first=3, section=3, events=events)
    found = fold([ASKED, Began(attempt=1, writer="old"), Began(attempt=2, writer="new"), late])
    assert found is not None
    assert (len(found.events), found.writer) == (3, "new")


def test_events_are_not_taken_twice_and_not_after_a_gap() -> None:
    def progress(first: int, *texts: str) -> Progress:
        said = [{"type": "t", "delta": text} for text in texts]
        return Progress(attempt=1, writer="w", first=first, section=3, events=said)

    began = Began(attempt=1, writer="w")
    found = fold([ASKED, began, progress(3, "a", "b"), progress(4, "b", "c"), progress(9, "z")])
    assert found is not None
    assert [event.get("delta") for event in found.events[3:]] == ["a", "b", "c"]


def test_a_deleted_response_does_not_exist_whatever_comes_after_it() -> None:
    assert fold([ASKED, Deleted(), Began(attempt=1, writer="w")]) is None
    assert fold([]) is None
    assert fold([Began(attempt=1, writer="w")]) is None


def test_engines_that_did_not_finish_are_counted() -> None:
    found = fold(
        [ASKED, Broke(attempt=1, writer="a", why="x"), Broke(attempt=2, writer="b", why="y")]
    )
    assert found is not None
    assert (found.broke, found.response["status"]) == (("x", "y"), "queued")
