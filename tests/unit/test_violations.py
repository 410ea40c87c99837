"""Which of a server's refusals end an actor at its start, and what it then says."""

import pytest

from nebula.store.violations import is_violation, prevents

FILE = "file:/etc/nebula/one.json"


@pytest.mark.parametrize(
    "refused",
    [
        'publish to "nebula.events.node.n1.noderegistered"',
        'publish to "$js.api.stream.info.nebula_events"',
        'publish to "$js.api.consumer.create.nebula_events.a.b"',
        'subscription to "nebula.inference.requests.*" using queue "routers"',
        'subscription to "nebula.logs.n1"',
        'subscription to "nebula.status.node.n1"',
        'subscription to "_inbox.abc.*"',
        'subscription to "_inbox_router.abc.*"',
    ],
)
def test_a_refusal_of_what_a_role_needs_is_told_with_what_helps(refused: str) -> None:
    words = f"permissions violation for {refused}"
    assert is_violation(words)
    said = prevents(words, "router", FILE)
    assert refused.split('"')[1] in said
    assert "the role router needs" in said
    assert "`nebula auth router`" in said
    assert "`nebula auth push`" in said
    assert FILE in said
    assert "`nebula auth node NAME`" in prevents(words, "node", FILE)


@pytest.mark.parametrize(
    "words",
    [
        'permissions violation for publish to "nebula.status.node.n1"',
        'permissions violation for publish to "$js.api.stream.info.nebula_events_old"',
        'permissions violation for publish to "$js.api.stream.info.obj_nebula_snapshots"',
        'permissions violation for publish to "nebula.inference.requests.chat"',
        'permissions violation for subscription to "nebula.status.store.*"',
        'permissions violation for subscription to "$js.event.advisory.>"',
        "authorization violation",
        "",
    ],
)
def test_what_an_actor_can_do_without_ends_none(words: str) -> None:
    assert prevents(words, "router", FILE) == ""


def test_a_node_with_the_credentials_of_another_is_told_so() -> None:
    words = 'permissions violation for subscription to "nebula.status.node.n2"'
    said = prevents(words, "node", FILE)
    assert "subscribe to nebula.status.node.n2" in said
    assert "one file for each node" in said
    assert "one file" not in prevents(words, "router", FILE)
