"""Why NATS can't be reached: the words for it, never a password, and when waiting helps."""

import asyncio
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import Error as NatsError

from nebula.cli import cluster
from nebula.store.connection import Unavailable
from nebula.store.lasting import Silent
from nebula.store.reaching import (
    LONGEST_PAUSES,
    Cause,
    Trouble,
    absent,
    final,
    pause,
    shown,
    told,
    topic,
    trouble,
)

pytestmark = pytest.mark.anyio

SERVER = "h:4222"
characters = st.sampled_from("abcXYZ019:@,/?#%$ \n")
secrets = st.text(characters, min_size=1).map(lambda text: f"5ecret{text}5ecret")


@given(st.lists(st.tuples(st.sampled_from(["nats", "tls"]), secrets | st.none()), min_size=1))
def test_no_user_info_of_any_server_is_ever_shown(servers: list[tuple[str, str | None]]) -> None:
    urls = [
        f"{scheme}://{'u:' + secret + '@' if secret is not None else ''}h{number}:4222"
        for number, (scheme, secret) in enumerate(servers)
    ]
    text = shown(",".join(urls))
    assert "5ecret" not in text
    assert "@" not in text
    assert f"h{len(servers) - 1}:4222" in text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nats://h:4222", "nats://h:4222"),
        ("nats://u:p@h:1,nats://u:p@i:2", "nats://h:1,nats://i:2"),
        ("nats://token@h", "nats://h"),
        ("u:p@h:4222", "h:4222"),
        ("nats://u:p,q@h", "nats://h"),
        ("nats://u:p,0://q@h", "nats://h"),
        ("nats://u:p\nq@h", "nats://h"),
        ("nats://h:1, tls://u:p@i", "nats://h:1, tls://i"),
        ("file:/run/nats", "file:/run/nats"),
    ],
)
def test_the_rest_of_a_url_is(url: str, text: str) -> None:
    assert shown(url) == text


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), ssl.SSLError(1, "tlsv13 alert certificate required")]
)
def test_a_server_that_ends_a_connection_without_the_certificate_it_wants_is_told_as_such(
    error: Exception,
) -> None:
    found = trouble("h:4222", error, credentials=True, certificate=False)
    assert found.cause is Cause.NO_CERTIFICATE
    assert found.cause.final
    for other in (untrusted(), ConnectionRefusedError()):
        found = trouble("h:4222", other, credentials=True, certificate=False)
        assert found.cause is not Cause.NO_CERTIFICATE


TROUBLES = [
    (ConnectionRefusedError(111, "Connect call failed"), Cause.NOTHING_LISTENS),
    (OSError("Multiple exceptions: [Errno 111] a, [Errno 111] b"), Cause.NOTHING_LISTENS),
    (socket.gaierror(-2, "Name or service not known"), Cause.UNKNOWN_NAME),
    (OSError(113, "No route to host"), Cause.NO_WAY),
    (TimeoutError(), Cause.NO_ANSWER),
    (Silent(), Cause.SILENT),
    (ConnectionResetError(104, "Connection reset by peer"), Cause.ENDED),
    (untrusted(), Cause.CERTIFICATE),
    (ssl.SSLError(1, "wrong version number"), Cause.TLS),
    (NatsError("nats: 'Secure Connection - TLS Required'"), Cause.TLS),
    (NatsError("nats: 'Authorization Violation'"), Cause.CREDENTIALS),
    (NatsError("nats: 'User Authentication Expired'"), Cause.CREDENTIALS),
    (NatsError("nats: 'Account Authentication Expired'"), Cause.CREDENTIALS),
    (NatsError("nats: 'Maximum Connections Exceeded'"), Cause.ENDED),
    (NatsError("nats: info message, json parse error"), Cause.NOT_NATS),
    (
        NatsError("nats: empty response from server when expecting INFO message"),
        Cause.NOT_NATS,
    ),
    (NatsError("nats: invalid hostname in connect url"), Cause.BAD_URL),
]


@pytest.mark.parametrize(("error", "cause"), TROUBLES, ids=lambda each: repr(each)[:60])
def test_each_error_has_its_cause_and_only_absence_is_called_no_answer(
    error: Exception, cause: Cause
) -> None:
    found = trouble(SERVER, error, credentials=True)
    assert found.cause is cause
    text = told("nats://u:5ecret@h:4222", [found])
    assert cause.value in text
    assert "5ecret" not in text
    assert text.startswith("no NATS server answers") == cause.absent
    assert not (cause.absent and cause.final)


def test_where_no_credentials_were_given_that_is_what_is_said() -> None:
    error = NatsError("nats: 'Authorization Violation'")
    assert trouble(SERVER, error, credentials=False).cause is Cause.NO_CREDENTIALS


def test_servers_with_different_troubles_are_each_named() -> None:
    troubles = [Trouble("a:1", Cause.NOTHING_LISTENS), Trouble("b:2", Cause.CREDENTIALS, "No")]
    assert told("nats://a:1,nats://b:2", troubles) == (
        "can't connect to NATS: a:1: nothing listens there; "
        "b:2: it refuses the user or password (No)"
    )
    assert not final(troubles), "the one that is not there may let it in"
    assert final(troubles[1:])
    assert not final([])


def test_pauses_grow_to_a_bound_that_is_lower_where_no_server_is() -> None:
    absent = [Trouble(SERVER, Cause.NOTHING_LISTENS)]
    refusing = [Trouble(SERVER, Cause.CREDENTIALS)]
    for troubles, longest in ((absent, LONGEST_PAUSES[0]), (refusing, LONGEST_PAUSES[1])):
        pauses = [pause(rounds, troubles) for rounds in range(1, 2000)]
        assert pauses == sorted(pauses)
        assert pauses[0] == 0.25
        assert pauses[-1] == longest


def test_complaints_about_subjects_of_one_kind_are_alike() -> None:
    text = 'permissions violation for publish to "nebula.inference.responses.gw-1.{}"'
    assert topic(text.format("a")) == topic(text.format("b"))
    other = 'permissions violation for publish to "nebula.inference.requests.m"'
    assert topic(text) != topic(other)
    inbox = 'permissions violation for subscription to "_inbox.{}.*"'
    assert topic(inbox.format("abc")) == topic(inbox.format("xyz"))


@given(st.lists(st.sampled_from(Cause), max_size=3))
def test_an_absent_server_is_known_at_once_only_if_none_may_still_answer(
    causes: list[Cause],
) -> None:
    at_once = {Cause.NOTHING_LISTENS, Cause.UNKNOWN_NAME, Cause.NO_FILE}
    troubles = [Trouble(SERVER, cause) for cause in causes]
    assert absent(troubles) == (bool(causes) and set(causes) <= at_once)


async def test_a_command_does_not_wait_for_a_server_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would wait for an hour."""
    monkeypatch.setattr(cluster, "CONNECT_PATIENCE", 3600.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        async with asyncio.timeout(60):
            with pytest.raises(Unavailable, match="nothing listens there"):
                await cluster.connected(f"nats://127.0.0.1:{port}", "a command")
