"""Which requests an error of NATS ends, and which role may do what it refuses."""

import asyncio

import pytest

from nebula.schema.parties import ROLES, RoleName
from nebula.schema.roles import Role, rights, role_to_publish
from nebula.store.credentials import Way
from nebula.store.forbidden import Forbidden, OpenRequests
from tests.unit.subject_patterns import covers

pytestmark = pytest.mark.anyio

INBOX = "_INBOX_viewer.Ab."
LOGIN = "user 'viewer' of viewer.json"


def refusal(what: str, subject: str) -> str:
    """Return NATS's words as nats-py gives them."""
    return f"'permissions violation for {what} to \"{subject.lower()}\"'"


async def test_a_refusal_ends_the_requests_on_its_subject_and_no_other() -> None:
    requests, loop = OpenRequests(), asyncio.get_running_loop()
    first, second, other = (loop.create_future() for _ in range(3))
    requests.begin(first, "nebula.logs.N1")
    requests.begin(second, "nebula.logs.N1")
    requests.begin(other, "nebula.logs.N2")
    assert requests.refuse(refusal("publish", "nebula.logs.N1"), INBOX, LOGIN)
    for ended in (first, second):
        with pytest.raises(Forbidden) as caught:
            await ended
        assert str(caught.value) == f"NATS does not let {LOGIN} publish on nebula.logs.N1"
    assert not other.done()


async def test_a_refusal_of_nothing_that_waits_is_left_to_others() -> None:
    requests = OpenRequests()
    answered = asyncio.get_running_loop().create_future()
    requests.begin(answered, "nebula.logs.n1")
    answered.set_result("here")
    await asyncio.sleep(0)
    assert not requests.refuse(refusal("publish", "nebula.logs.n1"), INBOX, LOGIN)
    assert not requests.refuse(refusal("subscription", "nebula.status.>"), INBOX, LOGIN)
    assert not requests.refuse("'maximum connections exceeded'", INBOX, LOGIN)


async def test_without_an_inbox_every_request_ends_now_and_later() -> None:
    requests, loop = OpenRequests(), asyncio.get_running_loop()
    waiting, later = loop.create_future(), loop.create_future()
    requests.begin(waiting, "nebula.logs.n1")
    assert requests.refuse(refusal("subscription", INBOX + "*"), INBOX, LOGIN)
    requests.begin(later, "nebula.logs.n2")
    for ended in (waiting, later):
        with pytest.raises(Forbidden, match=r"subscribe to _INBOX_viewer\.Ab\.>"):
            await ended


@pytest.mark.parametrize(
    ("subject", "role"),
    [
        ("nebula.events.model.chat.ModelScaleRequested", "operator"),
        ("nebula.events.model.chat.EngineReady.of.n1", "provision"),
        ("nebula.logs.n1", "operator"),
        ("$JS.API.CONSUMER.CREATE.NEBULA_INFERENCE.a.b", "operator"),
        ("$JS.API.STREAM.INFO.NEBULA_EVENTS", "viewer"),
        ("nebula.inference.cancel.gw.r", "gateway"),
        ("nebula.status.router.r", "router"),
        ("nebula.logs", "admin"),
        ("$SYS.REQ.SERVER.PING", "admin"),
    ],
)
def test_the_role_that_may_publish_on_a_subject(subject: str, role: RoleName) -> None:
    assert role_to_publish(subject) == role


@pytest.mark.parametrize("name", [each for each in ROLES if each != "admin"])
def test_a_role_that_is_named_may_publish(name: RoleName) -> None:
    for pattern in rights(Role(name)).publish:
        subject = pattern.replace("*", "any").replace(">", "any.more")
        named = role_to_publish(subject)
        assert named != "admin"
        assert covers(rights(Role(named)).publish, subject)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (Way(("nats://a%20b:secret@h:1",), file="x.json"), "user 'a b' of x.json"),
        (Way(("nats://a:secret@h:1", "nats://i:1")), "user 'a' of nats://h:1,nats://i:1"),
        (Way(("nats://h:1",)), "a login without a user of nats://h:1"),
    ],
)
def test_a_login_in_words_has_no_password(way: Way, words: str) -> None:
    assert way.login == words
