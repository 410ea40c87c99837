"""Realtime sessions through a gateway: both ways, to the end, whichever part of it dies."""

import asyncio
import base64
import contextlib
import json
import os
import signal
from typing import Any

import openai
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from nebula.actors.gateway.uplinks import WINDOW
from nebula.events.frames import MESSAGE_SIZE
from tests.integration.cluster import PATIENCE, Cluster
from tests.integration.test_speech import words
from tests.integration.wire import Wire, request

pytestmark = pytest.mark.anyio

HEARS = {"simulate-tasks": ["transcription", "realtime"]}
PATH = "/v1/realtime"
UPDATE = {"type": "session.update", "model": "ears"}
COMMIT = {"type": "input_audio_buffer.commit"}
FINAL = {"type": "input_audio_buffer.commit", "final": True}


def append(sound: bytes) -> dict[str, str]:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(sound).decode()}


def session(cluster: Cluster, model: str = "ears", **more: Any) -> connect:
    uri = f"ws://127.0.0.1:{cluster.port}{PATH}?model={model}"
    return connect(uri, proxy=None, open_timeout=PATIENCE, **more)


async def says(socket: ClientConnection, *events: dict[str, Any]) -> None:
    for event in events:
        await socket.send(json.dumps(event))


async def hears(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        event: dict[str, Any] = json.loads(await socket.recv())
    return event


async def end_of(socket: ClientConnection) -> tuple[dict[str, Any], int, str]:
    """Read to the end; return the last event, the close code and its reason."""
    last: dict[str, Any] = {}
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionClosed):
            async for said in socket:
                last = json.loads(said)
    return last, socket.close_code or 0, socket.close_reason or ""


async def refusal(cluster: Cluster, **how: Any) -> tuple[int, str | None]:
    """Return the status and the code of the error by which a session is refused."""
    with pytest.raises(InvalidStatus) as refused:
        async with session(cluster, **how):
            pass
    error = json.loads(refused.value.response.body or b"{}")["error"]
    assert error["message"]
    return refused.value.response.status_code, error["code"]


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Cluster:
    """A cluster with a model that listens, and one that does not."""

    async def load() -> None:
        await cluster.ready()
        await cluster.load("ears", task="transcription", memory="64MiB", options=HEARS)
        await cluster.load("chat", memory="64MiB")
        async with cluster.http() as http:
            targets = {"targets": [{"model": "ears"}]}
            assert (await http.put("/admin/aliases/hearing", json=targets)).status_code == 202

            async def known() -> bool:
                return (await http.get("/v1/models/hearing")).status_code == 200

            await cluster.poll(known, "the gateway knows the alias")

    asyncio.run(load())
    return cluster


async def idle(cluster: Cluster, replica: str = "ears-0") -> None:
    """Wait until an engine has no session."""

    async def none() -> bool:
        return not (await cluster.engine_says(replica))["running"]

    await cluster.poll(none, "no session is left in the engine")


@pytest.mark.parametrize("name", ["ears", "hearing"])
async def test_sound_goes_in_and_words_come_out_as_they_are_heard(
    served: Cluster, name: str
) -> None:
    sounds = [b"one", b"\x00\xff" * 50_000, b"three"]
    async with session(served, name) as socket:
        assert (await hears(socket))["type"] == "session.created"
        await says(socket, {**UPDATE, "model": name}, COMMIT)
        for sound in sounds:
            await says(socket, append(sound))
            delta = await hears(socket)
            assert (delta["type"], delta["delta"].strip()) == ("transcription.delta", words(sound))
        await says(socket, FINAL)
        done = await hears(socket)
        assert done["type"] == "transcription.done"
        assert done["text"].strip() == " ".join(map(words, sounds))
    await idle(served)


async def test_a_client_of_vllm_names_no_model_before_its_first_event(served: Cluster) -> None:
    async with connect(f"ws://127.0.0.1:{served.port}{PATH}", proxy=None) as socket:
        await hears(socket)
        await says(socket, UPDATE, COMMIT, append(b"one"))
        assert (await hears(socket))["delta"].strip() == words(b"one")
    await idle(served)


async def test_openai_s_own_client_opens_a_session(served: Cluster) -> None:
    base = f"http://127.0.0.1:{served.port}/v1"
    ws = base.replace("http", "ws")
    async with (
        openai.AsyncOpenAI(base_url=base, websocket_base_url=ws, api_key="none") as client,
        client.realtime.connect(model="ears") as connection,
    ):
        event = json.loads(await connection.recv_bytes())
    assert event["type"] == "session.created"
    await idle(served)


async def test_many_messages_keep_their_order_and_wait_where_they_are_not_read(
    served: Cluster,
) -> None:
    sounds = [b"%d:" % number + bytes(20_000) for number in range(100)]
    assert sum(map(len, sounds)) > 5 * WINDOW
    async with session(served) as socket:
        await hears(socket)
        await says(socket, UPDATE, COMMIT, *map(append, sounds))
        for sound in sounds:
            assert (await hears(socket))["delta"].strip() == words(sound)
    await idle(served)


async def test_a_message_of_several_of_nats_s_size_is_whole(served: Cluster) -> None:
    sound = os.urandom(1024) * (9 * 1024)
    async with session(served) as socket:
        await hears(socket)
        await says(socket, UPDATE, COMMIT, append(sound))
        assert (await hears(socket))["delta"].strip() == words(sound)
    await idle(served)


async def test_a_message_that_is_too_large_ends_its_session(served: Cluster) -> None:
    socket = await session(served)
    await hears(socket)
    with contextlib.suppress(ConnectionClosed):
        await socket.send("x" * (MESSAGE_SIZE + 1))
    assert (await end_of(socket))[1] == 1009
    await idle(served)


async def test_another_model_s_name_amid_a_session_is_refused_with_an_event(
    served: Cluster,
) -> None:
    async with session(served) as socket:
        await hears(socket)
        await says(socket, {**UPDATE, "model": "chat"})
        said = await hears(socket)
        assert (said["type"], said["error"]["code"]) == ("error", "model_mismatch")
        await says(socket, {"type": "what"})
        assert (await hears(socket))["code"] == "unknown_event"


@pytest.mark.parametrize("speaks", [True, False], ids=["speaking", "silent"])
@pytest.mark.parametrize(
    ("method", "path", "change", "code"),
    [
        ("DELETE", "", None, "key_revoked"),
        ("PATCH", "", {"models": ["chat"]}, "model_not_allowed"),
        ("PATCH", "", {"expires": "2020-01-01T00:00:00Z"}, "key_expired"),
        ("POST", "/rotate", {}, "invalid_api_key"),
    ],
    ids=["revoked", "without-the-model", "expired", "replaced"],
)
async def test_a_session_ends_with_its_key(
    served: Cluster, speaks: bool, method: str, path: str, change: dict[str, Any] | None, code: str
) -> None:
    async with served.http() as http:
        issued = (await http.post("/admin/keys", json={"scopes": ["infer"]})).json()
        fields = {"authorization": f"Bearer {issued['secret']}"}
        async with session(served, additional_headers=fields) as socket:
            await hears(socket)
            await says(socket, UPDATE, COMMIT, append(b"one"))
            assert (await hears(socket))["delta"].strip() == words(b"one")
            place = f"/admin/keys/{issued['id']}{path}"
            answer = await http.request(method, place, json=change)
            assert answer.is_success, answer.text
            if speaks:
                with contextlib.suppress(ConnectionClosed):
                    await says(socket, append(b"two"))
            last, closed, reason = await end_of(socket)
    assert (last["error"]["code"], closed) == (code, 1008)
    assert last["error"]["message"].startswith(reason.removesuffix("…"))
    await idle(served)


async def test_the_tokens_of_a_session_are_taken_from_its_key_s_budget(served: Cluster) -> None:
    rights = {"scopes": ["infer"], "limits": {"tokens_per_month": 8}}
    async with served.http() as http:
        issued = (await http.post("/admin/keys", json=rights)).json()
    fields = {"authorization": f"Bearer {issued['secret']}"}
    async with session(served, additional_headers=fields) as socket:
        await hears(socket)
        await says(socket, UPDATE, COMMIT, append(b"one"))
        await hears(socket)
        await says(socket, FINAL)
        assert (await hears(socket))["usage"]["total_tokens"] == 8
    await idle(served)

    async def spent() -> bool:
        try:
            async with session(served, additional_headers=fields):
                return False
        except InvalidStatus as refused:
            error = json.loads(refused.response.body or b"{}")["error"]
            return bool(error["code"] == "insufficient_quota")

    await served.poll(spent, "the budget is spent")
    await idle(served)


async def test_what_is_refused_is_refused_before_the_session_is_open(served: Cluster) -> None:
    for how, status, code in (
        ({"model": "nothing"}, 404, "model_not_found"),
        ({"model": ""}, 404, "model_not_found"),
        ({"model": "ears&model=chat"}, 400, None),
        ({"model": "chat"}, 400, "wrong_task"),
        ({"origin": "http://elsewhere.example"}, 403, "foreign_origin"),
    ):
        assert await refusal(served, **how) == (status, code), how


def test_a_handshake_that_is_not_valid_is_refused(served: Cluster) -> None:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    offer = ("Connection: Upgrade", "Upgrade: websocket")
    line = f"GET {PATH}?model=ears HTTP/1.1"
    for fields, status in (
        ((), 426),
        ((*offer,), 400),
        ((*offer, key), 400),
        ((*offer, key, "Sec-WebSocket-Version: 8"), 400),
        ((*offer, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"), 400),
    ):
        with Wire(served.port) as wire:
            answer = wire.ask(request(line, *fields))
            assert answer.status == status, answer
            assert answer.error["message"]


def test_a_frame_that_breaks_the_protocol_closes_the_session(served: Cluster) -> None:
    fields = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    with Wire(served.port) as wire:
        # Frames of clients are masked (RFC 6455, 5.1): this one, sent before the answer, is not.
        wire.send(request(f"GET {PATH}?model=ears HTTP/1.1", *fields) + b"\x81\x02hi")
        rest = wire.rest()
    head, _, frames = rest.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101")
    assert b"\x88" in frames
    assert (1002).to_bytes(2) in frames


async def test_a_client_that_vanishes_leaves_no_session_behind(served: Cluster) -> None:
    async with session(served) as socket:
        await hears(socket)
        assert (await served.engine_says("ears-0"))["running"] == 1
        socket.transport.abort()
    await idle(served)


@pytest.fixture
async def mortal(own_cluster: Cluster) -> Cluster:
    """A cluster of one test's own, each process by itself, with a model that listens."""
    own_cluster.start("nats")
    own_cluster.start("router")
    own_cluster.start("node")
    own_cluster.start("gateway", "--grace", "1")
    await own_cluster.ready()
    await own_cluster.load("ears", task="transcription", memory="64MiB", options=HEARS)
    return own_cluster


async def test_the_end_of_an_engine_ends_its_session_with_an_error_event(mortal: Cluster) -> None:
    async with session(mortal) as socket:
        await hears(socket)
        os.kill((await mortal.engine("ears-0")).pid, signal.SIGKILL)
        last, code, reason = await end_of(socket)
    assert (last["type"], last["error"]["type"]) == ("error", "server_error")
    assert code == 1012
    assert reason
    async with session(mortal) as socket:  # waits for the engine that is started in its place
        assert (await hears(socket))["type"] == "session.created"


async def test_an_engine_that_is_stopped_says_so(mortal: Cluster) -> None:
    async with session(mortal) as socket:
        await hears(socket)
        os.kill((await mortal.engine("ears-0")).pid, signal.SIGTERM)
        last, code, _ = await end_of(socket)
    assert "stopped" in last["error"]["message"]
    assert code == 1012


async def test_a_gateway_that_stops_says_so_and_the_engine_lets_go(mortal: Cluster) -> None:
    async with session(mortal) as socket:
        await hears(socket)
        stopping = asyncio.create_task(asyncio.to_thread(mortal.stop, "gateway"))
        last, code, _ = await end_of(socket)
        assert await stopping == 0
    assert (last["error"]["message"], code) == ("the gateway is stopping", 1001)
    await idle(mortal)


async def test_a_gateway_that_is_killed_leaves_no_session_in_the_engine(mortal: Cluster) -> None:
    async with session(mortal) as socket:
        await hears(socket)
        mortal.kill("gateway")
        await idle(mortal)


async def test_a_router_that_dies_is_not_noticed(mortal: Cluster) -> None:
    async with session(mortal) as socket:
        await hears(socket)
        mortal.kill("router")
        await says(socket, UPDATE, COMMIT, append(b"one"))
        assert (await hears(socket))["delta"].strip() == words(b"one")


async def test_without_nats_a_session_ends_and_the_client_is_told_to_come_back(
    mortal: Cluster,
) -> None:
    async with session(mortal) as socket:
        await hears(socket)
        mortal.kill("nats")
        last, code, _ = await end_of(socket)
    assert "NATS" in last["error"]["message"]
    assert code == 1013
    await idle_without_log(mortal)


async def idle_without_log(cluster: Cluster) -> None:
    cluster.start("nats")
    await cluster.ready()
    await idle(cluster)


async def test_a_session_in_which_no_one_says_anything_ends(own_cluster: Cluster) -> None:
    own_cluster.start("nats")
    own_cluster.start("router")
    own_cluster.start("node")
    own_cluster.start("gateway", "--idle-timeout", "2")
    await own_cluster.ready()
    await own_cluster.load("ears", task="transcription", memory="64MiB", options=HEARS)
    async with session(own_cluster) as socket:
        await hears(socket)
        last, code, reason = await end_of(socket)
    assert (last["error"]["code"], code) == ("session_idle", 1008)
    assert "2 s" in reason
    await idle(own_cluster)
