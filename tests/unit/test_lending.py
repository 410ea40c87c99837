"""A router that lends: what a gateway gets, when it gets nothing, and what is left for others."""

from __future__ import annotations

import msgspec
import pytest

from nebula.actors.router.dispatch import Dispatch
from nebula.actors.router.granting import FORGOTTEN
from nebula.actors.router.lending import RECALL_HOLDS
from nebula.actors.router.slack import Others
from nebula.events import envelope, subjects
from nebula.events.heartbeats import ReplicaHeartbeat
from nebula.events.inference import Request
from nebula.events.leases import TERM, Lease, LeasesAsked, LeasesGranted, Wanted
from tests.unit.story import Story, cluster, load


class Router:
    """A router `r1` with one replica of `chat` that may have eight requests."""

    def __init__(self) -> None:
        self.story: Story = cluster(alpha=[80]).given("chat", load(1, "8GiB", max_in_flight=8))
        self.story.settles()
        self.story.runs("chat-0")
        self.now = 100.0
        self.others = Others()
        self.said: list[tuple[str, bytes]] = []
        self.dispatch = Dispatch(
            "r1",
            lambda subject, _, body: self.said.append((subject, body)),
            lambda: self.story.state,
            lambda: self.now,
            lambda: self.story.state.time,
            others=lambda _: self.others,
        )

    def asked(
        self,
        serial: int,
        most: int = 3,
        *,
        least: int = 1,
        running: int = 0,
        sent: int = 0,
        by: str = "gw",
    ) -> Lease | None:
        """Take a gateway's report; return what it is lent of the replica."""
        in_flight = {"chat-0": running} if running else {}
        report = LeasesAsked(serial, {"chat": Wanted(least, most, in_flight, sent)})
        subject = subjects.leases_asked(by, "r1").encode()
        self.said.clear()
        self.dispatch.on_leases_asked(subject, b"", msgspec.json.encode(report))
        granted = [body for to, body in self.said if to == subjects.leases_granted(by, "r1")]
        if not granted:
            return None
        leases = msgspec.json.decode(granted[0], type=LeasesGranted).models["chat"]
        return leases[0] if leases else None

    def sends(self, identity: str, *, slack: bool = False) -> bool:
        """Send a request through the router; return whether a replica got it."""
        request = Request(identity, "gw", "chat", "/v1/completions", b"{}", slack=slack)
        self.said.clear()
        subject = subjects.requests("chat").encode()
        self.dispatch.on_request(subject, envelope.request_block(request), b"{}")
        return any(to.startswith("nebula.inference.replicas.") for to, _ in self.said)

    def beats(self, *, running: int, slack: int = 0) -> None:
        engine = self.story.state.replicas["chat-0"].engine
        assert engine is not None
        status = ReplicaHeartbeat(
            replica="chat-0", pid=engine.pid, running=running, version=1, slack=slack
        )
        subject = subjects.replica_status("chat", "chat-0").encode()
        self.dispatch.on_status(subject, b"", msgspec.json.encode(status))


@pytest.fixture
def router() -> Router:
    return Router()


def test_a_gateway_is_lent_requests_of_a_replica_for_its_plan(router: Router) -> None:
    assert router.asked(1) == Lease("chat-0", 1, 6)


def test_what_is_lent_is_not_given_to_others(router: Router) -> None:
    router.asked(1)
    assert [router.sends(f"q{number}") for number in range(4)] == [True, True, False, False]


def test_a_client_that_begins_to_wait_calls_leases_back_and_goes_when_they_are(
    router: Router,
) -> None:
    router.asked(1)
    for number in range(3):
        router.sends(f"q{number}")
    assert subjects.leases_recalled("chat", "r1") in [to for to, _ in router.said]
    assert router.asked(2, most=0, least=2) is None
    assert any(to.startswith("nebula.inference.replicas.") for to, _ in router.said)


def test_nothing_is_lent_while_clients_wait_here_or_elsewhere(router: Router) -> None:
    router.others = Others(1, waiting=True)
    assert router.asked(1) is None
    router.others = Others(1)
    router.dispatch.on_leases_recalled(subjects.leases_recalled("chat", "r2").encode(), b"", b"")
    assert router.asked(2) is None
    router.now += TERM
    router.beats(running=0)
    assert router.asked(3) is not None


def test_a_replica_with_slack_or_in_doubt_is_not_lent(router: Router) -> None:
    router.beats(running=1, slack=1)
    assert router.asked(1) is None
    router.beats(running=0)
    assert router.asked(2) is not None
    router.now += 9  # its heartbeats are missing
    assert router.asked(3) is None


def test_requests_that_gateways_sent_count_as_the_models(router: Router) -> None:
    router.asked(1, running=2)
    assert router.dispatch.loads()["chat"].in_flight == 2


def test_a_lease_tells_what_the_replica_has_of_others(router: Router) -> None:
    router.beats(running=3)
    lease = router.asked(1, running=2)
    assert lease is not None
    assert lease.others == 1


def test_what_was_lent_is_free_again_when_its_gateway_is_silent(router: Router) -> None:
    router.asked(1)
    router.now += max(TERM, FORGOTTEN)
    router.beats(running=0)
    router.dispatch.react()
    assert len(router.dispatch.lending) == 0
    assert all(router.sends(f"q{number}") for number in range(8))


def test_a_report_that_makes_no_sense_or_was_overtaken_is_passed_over(router: Router) -> None:
    assert router.asked(2) is not None
    assert router.asked(1) is None
    router.dispatch.on_leases_asked(subjects.leases_asked("gw", "r1").encode(), b"", b"{")
    assert router.said == []


@pytest.mark.parametrize(
    "wanted",
    [
        '{"least": 1, "most": -1}',
        '{"least": 1, "most": 9999999999}',
        '{"least": 1, "most": 3, "in_flight": {"chat-0": -8}}',
        '{"least": 1, "most": 3, "in_flight": {"chat-0": 9999999999}}',
        '{"least": 1, "most": 3, "sent": -1}',
    ],
)
def test_a_report_with_numbers_that_no_gateway_has_changes_nothing(
    router: Router, wanted: str
) -> None:
    subject = subjects.leases_asked("bad", "r1").encode()
    body = f'{{"serial": 1, "models": {{"chat": {wanted}}}}}'.encode()
    router.dispatch.on_leases_asked(subject, b"", body)
    assert router.said == []
    assert router.asked(1) == Lease("chat-0", 1, 6)


def test_what_gateways_sent_directly_has_waited_for_no_time(router: Router) -> None:
    router.asked(1, sent=3)
    router.sends("q0")
    waits = router.dispatch.counts.waits.get(("chat",))
    assert sum(waits.counts) == 4
    router.asked(1, sent=3)
    assert sum(waits.counts) == 4, "a report that was overtaken tells nothing new"


def test_lines_that_begin_one_after_the_other_call_leases_back_once(router: Router) -> None:
    recalls = []

    def line_begins() -> None:
        router.beats(running=8)
        router.sends("waits")
        recalls.append([to for to, _ in router.said].count(subjects.leases_recalled("chat", "r1")))
        router.beats(running=0)

    line_begins()
    line_begins()
    assert router.asked(1) is None, "nothing is lent meanwhile"
    router.now += RECALL_HOLDS
    line_begins()
    assert recalls == [1, 0, 1]
