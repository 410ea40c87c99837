"""What a gateway counts of a request that has ended, and a router of what it sends and refuses."""

import pytest

from nebula.actors.gateway import request_counts
from nebula.actors.gateway.answer import Answer
from nebula.actors.gateway.in_flight import InFlightRequest
from nebula.actors.gateway.request_counts import CLIENT_LEFT, RequestCounts
from nebula.actors.router.request_counts import RouterCounts
from nebula.events.failures import Failure
from nebula.events.inference import Request
from nebula.events.state import NameBinding
from nebula.events.usage import UsageRecord
from nebula.metrics.metric import OTHER
from tests.unit.story import cluster, load

PATH = "/v1/chat/completions"
KEY = ("chat", "", PATH, "lab")


def flight(model: str = "chat", *, streams: bool = True, attached: bool = True) -> InFlightRequest:
    request = Request("r", "gw", model, PATH, b"{}")
    answer = Answer(request)
    answer.streaming = streams
    return InFlightRequest(
        request=request,
        binding=NameBinding(model),
        answer=answer,
        idle=1.0,
        began=10.0,
        first_at=10.5,
        heard_at=12.5,
        attached=attached,
    )


USED = UsageRecord("r", 1, "key:ci", "chat", PATH, prompt=7, cached=3, completion=11)


def test_a_stream_that_has_ended_well_counts_with_its_times_and_tokens() -> None:
    counts = RequestCounts()
    counts.ended(flight(), (200, ""), USED, "lab")
    row = counts.rows.known[KEY]
    assert row.statuses == {200: 1}
    assert (row.prompt, row.cached, row.completion) == (7, 3, 11)
    served = counts.served.known[KEY[:3]]
    assert (served.duration.sum, served.first_token.sum) == (2.5, 0.5)
    assert served.output_token.sum == pytest.approx(2.0 / 10)


def test_an_answer_that_comes_as_a_whole_has_no_first_token() -> None:
    counts = RequestCounts()
    counts.ended(flight(streams=False), (200, ""), USED, "lab")
    served = counts.served.known[KEY[:3]]
    assert sum(served.duration.counts) == 1
    assert not any(served.first_token.counts + served.output_token.counts)


@pytest.mark.parametrize(
    ("told", "attached", "status"),
    [
        ((200, ""), False, CLIENT_LEFT),
        ((0, ""), False, CLIENT_LEFT),
        ((400, ""), True, 400),
        ((0, Failure.CANT_CONTINUE), True, 503),
        ((429, Failure.REFUSED), True, 429),
    ],
)
def test_what_has_not_ended_well_counts_with_its_status_and_without_times(
    told: tuple[int, str], attached: bool, status: int
) -> None:
    counts = RequestCounts()
    counts.ended(flight(attached=attached), told, None, "lab")
    assert counts.rows.known[KEY].statuses == {status: 1}
    assert not counts.served.known
    assert {key: each.value for key, each in counts.failed.known.items()} == (
        {("chat", told[1]): 1} if told[1] else {}
    )


def test_beyond_the_bound_everything_counts_as_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_counts, "ROWS", 2)
    counts = RequestCounts()
    for number in range(5):
        counts.ended(flight(f"m{number}"), (200, ""), USED, "lab")
    assert counts.rows.known[OTHER, OTHER, PATH, OTHER].statuses == {200: 3}
    assert sum(counts.served.known[OTHER, OTHER, PATH].duration.counts) == 3
    assert len(counts.rows.known) == 3


def test_models_that_are_no_more_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_counts, "ROWS", 2)
    counts = RequestCounts()
    story = cluster(n1=[80])
    story.given("chat", load())
    for model in ("gone", "chat"):
        counts.ended(flight(model), (200, ""), USED, "lab")
    counts.make_room(story.state)
    assert counts.rows.known.keys() == {KEY}


def test_a_router_counts_waits_and_refusals_by_model() -> None:
    counts = RouterCounts()
    counts.sent("chat", 0.2)
    counts.refused("chat", "queue-full", slack=False)
    assert counts.waits.known["chat",].sum == 0.2
    assert counts.refusals.known["chat", "queue-full"].value == 1
