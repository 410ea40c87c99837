"""A message counts only as a message of the sender in its subject, whatever its body tells."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from nebula.actors import attribution
from nebula.actors.attribution import SUBJECT_OF, attributed, is_inbox, is_inbox_of_engine
from nebula.actors.gateway.admission import Admission
from nebula.actors.gateway.heartbeats import Heartbeats
from nebula.actors.gateway.in_flight import Surroundings
from nebula.actors.gateway.lease_reporting import LeaseReporting
from nebula.actors.router.dispatch import Dispatch
from nebula.actors.router.observer import Observer
from nebula.events.cache_news import CacheNews
from nebula.events.captured import CapturedRequest
from nebula.events.demand import DemandRecord
from nebula.events.heartbeats import (
    NodeHeartbeat,
    ReplicaHeartbeat,
    RouterHeartbeat,
    StoreHeartbeat,
)
from nebula.events.inference import BodyWanted, Finished, StillWanted
from nebula.events.leases import LeasesAsked, LeasesGranted
from nebula.events.metrics_messages import MetricsAsked
from nebula.events.requests_in_flight import CancelQuestion, InFlightQuestion
from nebula.events.usage import UsageRecords
from nebula.schema.channels import OTHERS
from nebula.schema.roles import role
from nebula.store.batch_queue import QueuedLine
from tests.unit.story import cluster, load

OWN: dict[type[Struct], tuple[str, Struct]] = {
    ReplicaHeartbeat: (
        "nebula.status.replica.chat.chat-0",
        ReplicaHeartbeat(replica="chat-0", pid=7, running=0, version=1, context=2048),
    ),
    RouterHeartbeat: ("nebula.status.router.r2", RouterHeartbeat("r2", addressed=True)),
    NodeHeartbeat: ("nebula.status.node.alpha", NodeHeartbeat("alpha", 7, 1, 0)),
    Finished: ("nebula.inference.finished.chat", Finished("chat-0", ("q1",))),
    CacheNews: (
        "nebula.cache.chat.chat-0",
        CacheNews(replica="chat-0", pid=7, serial=1, held=("d1",)),
    ),
}
"""A message of each sender, on its own subject."""

OTHER: dict[type[Struct], str] = {
    ReplicaHeartbeat: "nebula.status.replica.poet.poet-0",
    RouterHeartbeat: "nebula.status.router.r3",
    NodeHeartbeat: "nebula.status.node.beta",
    Finished: "nebula.inference.finished.poet",
    CacheNews: "nebula.cache.poet.poet-0",
}
"""The subject of another sender of the same kind."""

WITHOUT: set[type[Struct]] = {
    CancelQuestion,
    CapturedRequest,
    DemandRecord,
    InFlightQuestion,
    LeasesAsked,
    LeasesGranted,
    StoreHeartbeat,
    StillWanted,
    BodyWanted,
    QueuedLine,
    UsageRecords,
    MetricsAsked,
}
"""Bodies that tell nothing that their subjects name; `logs` has one that the node's own subject
brings, and which names an engine of this node."""


@pytest.fixture(autouse=True)
def forgetful() -> None:
    attribution._warn.cache_clear()


@pytest.mark.parametrize("channel", OTHERS, ids=lambda channel: channel.name)
def test_every_body_that_names_its_sender_is_held_to_its_subject(channel: Any) -> None:
    if isinstance(channel.body, str):
        return
    if channel.body in SUBJECT_OF:
        subject, said = OWN[channel.body]
        assert SUBJECT_OF[channel.body](said) == subject
        pattern, tokens = channel.address.split("."), subject.split(".")
        assert len(pattern) == len(tokens)
        assert all(a == b or a.startswith("{") for a, b in zip(pattern, tokens, strict=True))
        return
    assert channel.body in WITHOUT or channel.name == "logs", "say in SUBJECT_OF whose it is"
    named = {each.strip("{}") for each in channel.address.split(".") if each.startswith("{")}
    assert not named & set(channel.body.__struct_fields__)


@pytest.mark.parametrize("kind", SUBJECT_OF, ids=lambda kind: kind.__name__)
def test_a_message_on_its_senders_subject_is_read_and_on_another_it_is_not(
    kind: type[Struct], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    subject, said = OWN[kind]
    body = msgspec.json.encode(said)
    assert attributed(subject.encode(), body, kind) == said
    assert caplog.records == []
    for other in (OTHER[kind], f"{subject}.x", subject.rpartition(".")[0], "x", ""):
        assert attributed(other.encode(), body, kind) is None
    assert attributed(b"\xff\xfe", body, kind) is None
    assert attributed(subject.encode(), b"{", kind) is None


@pytest.mark.parametrize("kind", SUBJECT_OF, ids=lambda kind: kind.__name__)
def test_a_body_of_another_sender_is_logged_once_for_each_subject(
    kind: type[Struct], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    body = msgspec.json.encode(OWN[kind][1])
    for _ in range(3):
        attributed(OTHER[kind].encode(), body, kind)
    [line] = caplog.records
    assert line.levelno == logging.WARNING
    assert OTHER[kind] in line.getMessage()


@pytest.mark.parametrize("prefix", ["_INBOX", "_INBOX_engine", "_INBOX_gateway"])
def test_an_answer_may_go_to_any_inbox(prefix: str) -> None:
    assert is_inbox(f"{prefix}.id.token")
    assert is_inbox_of_engine(f"{prefix}.id.token", "chat")


@pytest.mark.parametrize(
    "subject",
    ["", "nebula.events.model.chat.ModelUnloadRequested", "$JS.API.STREAM.DELETE.X", "x._INBOX.id"],
)
def test_an_answer_goes_nowhere_else(subject: str) -> None:
    assert not is_inbox(subject)
    assert not is_inbox_of_engine(subject, "chat")


def test_an_engine_with_a_user_of_its_own_has_inboxes_for_its_own_model_and_replica() -> None:
    own = role("engine", model="chat", replica="chat-0").inbox + ".id.token"
    assert is_inbox_of_engine(own, "chat")
    assert is_inbox_of_engine(own, "chat", "chat-0")
    assert not is_inbox_of_engine(own, "chat", "chat-1")
    assert not is_inbox_of_engine(own, "poet")
    shared = role("engine").inbox + ".id.token"
    assert is_inbox_of_engine(shared, "chat", "chat-0"), "all engines of one user are one"


def handlers() -> dict[str, tuple[type[Struct], Callable[[], tuple[Any, Callable[[], object]]]]]:
    """Return for each handler what it reads, and what makes one with a view of what it knows."""
    story = cluster(alpha=[80], beta=[80])
    story.given("chat", load()).settles()
    story.runs("chat-0")

    def gateway(name: str) -> tuple[Any, Callable[[], object]]:
        heard = Heartbeats(lambda: 1.0)
        return getattr(heard, name), lambda: (
            heard.replica_beat("chat-0", 7),
            heard.routers_alive(),
        )

    def dispatch(name: str) -> tuple[Any, Callable[[], object]]:
        clock = [1.0]
        router = Dispatch(
            "r1", lambda *_: None, lambda: story.state, lambda: clock[0], lambda: story.state.time
        )
        clock[0] = 2.0
        return getattr(router, name), lambda: repr(
            msgspec.to_builtins(vars(router._loads), enc_hook=repr, str_keys=True)
        )

    def leases() -> tuple[Any, Callable[[], object]]:
        around = Surroundings(story.state, Heartbeats(lambda: 1.0), Admission())
        reporting = LeaseReporting("g1", around, lambda: 1.0, lambda *_: None)
        reporting.leases.asks = True
        return reporting.on_cache, lambda: len(reporting.leases._prefixes)

    def observer(name: str) -> tuple[Any, Callable[[], object]]:
        clock = [1.0]
        seen = Observer("r1", lambda: clock[0])
        clock[0] = 2.0
        return getattr(seen, name), lambda: (
            *(dict(seen._routers), dict(seen._hearing._ear), dict(seen._hearing._told)),
        )

    return {
        "gateway: replica": (ReplicaHeartbeat, lambda: gateway("on_replica")),
        "gateway: router": (RouterHeartbeat, lambda: gateway("on_router")),
        "router: replica": (ReplicaHeartbeat, lambda: dispatch("on_status")),
        "router: finished": (Finished, lambda: dispatch("on_finished")),
        "router: cache": (CacheNews, lambda: dispatch("on_cache")),
        "gateway: cache": (CacheNews, leases),
        "router: node": (NodeHeartbeat, lambda: observer("on_node")),
        "router: router": (RouterHeartbeat, lambda: observer("on_router")),
    }


@pytest.mark.parametrize("name", handlers())
def test_a_handler_takes_the_word_of_the_sender_and_of_no_other(name: str) -> None:
    kind, make = handlers()[name]
    subject, said = OWN[kind]
    body = msgspec.json.encode(said)
    handle, knows = make()
    before = knows()
    handle(OTHER[kind].encode(), b"", body)
    assert knows() == before
    handle(subject.encode(), b"", body)
    assert knows() != before
