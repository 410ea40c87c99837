"""What others write on NATS makes sense or is passed over; reading it never raises."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.engine.bridge import EngineBridge
from nebula.actors.engine.load import read_context, read_load, read_name
from nebula.actors.gateway.heartbeats import Heartbeats
from nebula.actors.node.log_reading import read_request
from nebula.actors.router.dispatch import Dispatch
from nebula.actors.router.observer import Observer
from nebula.events import bundles, envelope, piece_envelope, record
from nebula.events.heartbeats import ReplicaHeartbeat, RouterHeartbeat
from nebula.events.reading import decoded, last_token, number
from nebula.events.vocabulary import TYPES
from nebula.store.reach import read_store_status
from tests.unit.story import cluster, load

DEEP = b'{"a":' * 2000 + b"1" + b"}" * 2000
LISTS = b"[" * 2_000 + b"]" * 2_000
LONG = b"9" * 5000
FIELDS = (
    *("replica", "router", "requests", "queues", "silent", "active", "failed", "pid", "waiting"),
    *("version", "source", "name", "node", "store", "size", "since", "max_model_len", "data"),
)
JUNK = (b"", b"\xff\xfe\x00", b"null", b"[]", b"{", b'"\\ud800"', b"NaN", DEEP, LISTS, LONG)


def _objects() -> st.SearchStrategy[bytes]:
    """Objects with fields that Nebula's messages have, and junk in one of them."""
    junk = st.sampled_from((*JUNK, b"1e999", b"-1", b'"x"', b"{}", b"[[]]", b'{"a":[1]}'))
    pairs = st.lists(st.tuples(st.sampled_from(FIELDS), junk), max_size=4)
    return pairs.map(
        lambda given: b"{" + b",".join(b'"%b":%b' % (key.encode(), of) for key, of in given) + b"}"
    )


BODIES = st.one_of(st.sampled_from(JUNK), st.binary(max_size=40), _objects())
TOKENS = st.one_of(st.sampled_from((b"chat", b"chat-0", b"\xff\xfe", LONG)), st.binary(max_size=8))
SUBJECTS = TOKENS.map(lambda token: b"nebula.inference.requests." + token)
LINES = st.sampled_from((b"-9", b"nan", b"1e400", LONG, b"x", b"{", DEEP, LISTS, b"\xff", b",,,"))
NAMES = st.sampled_from(
    [
        *(v.encode() for k, v in vars(envelope).items() if k.isupper() and isinstance(v, str)),
        *(b"Nebula-Version", b"Nebula-Cause", b"Nebula-Basis", b"Nebula-Actor"),
    ]
)
BLOCKS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from((b"", b"NATS/1.0\r\nNebula-Chunk: " + LONG + b"\r\n\r\n")),
    st.lists(st.tuples(NAMES, LINES), max_size=6).map(
        lambda lines: b"NATS/1.0\r\n" + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n"
    ),
)


def _handlers() -> dict[str, Callable[[bytes, bytes, bytes], None]]:
    story = cluster(alpha=[80]).given("chat", load())
    story.settles()
    dispatch = Dispatch(
        "r1", lambda *_: None, lambda: story.state, lambda: 1.0, lambda: story.state.time
    )
    observer, heartbeats = Observer("r1", lambda: 1.0), Heartbeats(lambda: 1.0)
    return {
        "router: request": dispatch.on_request,
        "router: cancel": dispatch.on_cancel,
        "router: finished": dispatch.on_finished,
        "router: replica": dispatch.on_status,
        "router: node": observer.on_node,
        "router: router": observer.on_router,
        "gateway: replica": heartbeats.on_replica,
        "gateway: router": heartbeats.on_router,
        "store's word": lambda _, __, body: _drop(read_store_status(body)),
        "a piece": lambda _, header, body: _drop(piece_envelope.read_answer(header, body)),
        "a plain piece": lambda _, header, __: _drop(piece_envelope.read_plain(header)),
        "a bundle": lambda _, header, body: _drop(list(bundles.read(header, body))),
        "a plan": lambda _, header, __: _drop(envelope.read_plan(header)),
        "a choice": lambda _, header, __: _drop(envelope.read_routed(record.parse_headers(header))),
        "an engine's request": lambda _, header, body: _drop(
            envelope.receive_request("chat", header, body)
        ),
        "an engine's words": lambda _, __, body: _drop(
            (read_context(body), read_name(body), read_load(body))
        ),
        "a question for a log": lambda _, __, body: _drop(read_request(body)),
    }


def _drop(_: object) -> None:
    """What was read is of no matter here."""


HANDLERS = _handlers()


@pytest.mark.parametrize("handler", HANDLERS)
@given(subject=SUBJECTS, header=BLOCKS, body=BODIES)
def test_no_handler_raises_whatever_comes(
    handler: str, subject: bytes, header: bytes, body: bytes
) -> None:
    HANDLERS[handler](subject, header, body)


@given(subject=SUBJECTS, body=BODIES)
def test_an_engine_takes_any_cancellation(subject: bytes, body: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MODEL", "REPLICA", "VERSION", "NATS_URL"):
            patch.setenv(f"NEBULA_{name}", "1")
        EngineBridge(lambda *_: None)._on_cancel(subject, b"", body)  # type: ignore[arg-type]


@given(
    kind=st.sampled_from(sorted(TYPES)),
    version=st.sampled_from(("1", "2", "x", "-1", LONG.decode())),
    body=BODIES,
    headers=BLOCKS,
)
def test_an_entry_of_the_log_is_read_or_malformed(
    kind: str, version: str, body: bytes, headers: bytes
) -> None:
    entry = record.Entry(1, 1, f"nebula.events.model.chat.{kind}", headers, body)
    assert record.read_entry(entry).seq == 1


@given(body=BODIES)
def test_what_makes_no_sense_reads_as_nothing(body: bytes) -> None:
    for kind in (ReplicaHeartbeat, RouterHeartbeat):
        found = decoded(body, kind)
        assert found is None or isinstance(found, kind)
    assert decoded(msgspec.json.encode(RouterHeartbeat("r1")), RouterHeartbeat) == RouterHeartbeat(
        "r1"
    )


@given(text=st.one_of(BODIES, st.integers(0, 10**25).map(lambda whole: b"%d" % whole)))
def test_a_number_is_read_where_digits_write_one(text: bytes) -> None:
    found = number(text)
    assert found is None or (text.isdigit() and found == int(text))
    assert number(b"12") == 12


@given(subject=st.binary(max_size=30))
def test_any_subject_has_a_last_token(subject: bytes) -> None:
    assert "." not in last_token(subject)


def test_one_place_says_what_unreadable_bytes_raise() -> None:
    source = Path(record.__file__).parents[1]
    tells = re.compile(r"except \(?[\w., ]*(msgspec\.DecodeError|RecursionError)")
    found = [
        str(path.relative_to(source))
        for path in sorted(source.rglob("*.py"))
        if "engines" not in path.parts and tells.search(path.read_text("utf-8"))
    ]
    assert found == [], "use nebula.events.reading"
