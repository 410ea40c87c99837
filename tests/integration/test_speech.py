"""Files of sound through a gateway: whole and unchanged, streamed, renamed, refused, killed."""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from nebula.openai import forms
from nebula.store.server import MAX_PAYLOAD
from tests.adapters import trained
from tests.integration.asking import error
from tests.integration.cluster import Cluster
from tests.integration.wire import Wire

pytestmark = pytest.mark.anyio

TRANSCRIBE, TRANSLATE = "/v1/audio/transcriptions", "/v1/audio/translations"
HEARS = {"simulate-tasks": "transcription", "simulate-tokens": 7}
SOUND = bytes(range(256)) * 40


def words(sound: bytes, done: str = "transcribed") -> str:
    """What a simulated engine hears in a sound: its length and its digest, so that none differs."""
    digest = hashlib.sha256(sound).hexdigest()
    return " ".join(
        [done, str(len(sound)), "bytes", *(digest[at : at + 4] for at in (0, 4, 8, 12))]
    )


def upload(sound: bytes = SOUND, **fields: str) -> dict[str, Any]:
    return {"data": {"model": "ears", **fields}, "files": {"file": ("sound.wav", sound)}}


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Cluster:
    """A cluster with a model that hears, an adapter of it, and one that chats."""

    async def load() -> None:
        await cluster.ready()
        adapters = [{"name": "trained", "source": trained(cluster.folder / "trained")}]
        await cluster.load(
            "ears", task="transcription", memory="64MiB", options=HEARS, adapters=adapters
        )
        await cluster.load("chat", memory="64MiB")
        async with cluster.http() as http:
            targets = {"targets": [{"model": "ears"}]}
            assert (await http.put("/admin/aliases/hearing", json=targets)).status_code == 202
            await cluster.poll(
                lambda: _are_known(http, "hearing", "trained"), "the names are known"
            )

    asyncio.run(load())
    return cluster


async def _are_known(http: httpx.AsyncClient, *names: str) -> bool:
    return all([(await http.get(f"/v1/models/{name}")).status_code == 200 for name in names])


@pytest.fixture
async def http(served: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with served.http() as client:
        yield client


@pytest.fixture
async def client(served: Cluster) -> AsyncIterator[openai.AsyncOpenAI]:
    base = f"http://127.0.0.1:{served.port}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:
        yield client


async def test_openai_s_client_has_a_file_transcribed_and_translated(
    client: openai.AsyncOpenAI,
) -> None:
    file = ("sound.wav", SOUND)
    heard = await client.audio.transcriptions.create(model="ears", file=file)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        translated = await client.audio.translations.create(model="ears", file=file)
    assert (heard.text, translated.text) == (words(SOUND), words(SOUND, "translated"))


async def test_a_stream_of_it_says_the_same(client: openai.AsyncOpenAI) -> None:
    file = ("sound.wav", SOUND)
    stream = await client.audio.transcriptions.create(model="ears", file=file, stream=True)
    said = [event.model_dump() async for event in stream]
    assert "".join(event["choices"][0]["delta"]["content"] for event in said) == words(SOUND)


async def test_a_file_of_several_messages_size_is_unchanged(http: httpx.AsyncClient) -> None:
    sound = os.urandom(1024) * (2 * MAX_PAYLOAD // 1024 + 1)
    answer = await http.post(TRANSCRIBE, **upload(sound))
    assert answer.json()["text"] == words(sound), answer.text


@pytest.mark.parametrize("name", ["hearing", "trained"])
async def test_an_alias_and_an_adapter_stand_for_their_model(
    name: str, http: httpx.AsyncClient
) -> None:
    large = SOUND * (MAX_PAYLOAD // len(SOUND) + 1)
    for sound in (SOUND, large):
        answer = await http.post(TRANSCRIBE, **upload(sound, model=name))
        assert answer.json()["text"] == words(sound), answer.text
    streamed = await http.post(TRANSCRIBE, **upload(model=name, stream="true"))
    assert ('"model":"trained"' in streamed.text) == (name == "trained")
    assert "trained@" not in streamed.text


async def test_each_format_that_the_engine_has_comes_through(http: httpx.AsyncClient) -> None:
    told = {}
    for form in ("json", "text", "verbose_json", "srt"):
        answer = await http.post(TRANSCRIBE, **upload(response_format=form))
        told[form] = (answer.status_code, answer.headers["content-type"])
    assert told == {
        "json": (200, "application/json"),
        "text": (200, "application/json"),
        "verbose_json": (200, "application/json"),
        "srt": (400, "application/json"),
    }


async def test_a_body_that_is_not_a_form_with_a_model_and_a_file_is_refused(
    http: httpx.AsyncClient,
) -> None:
    json = await http.post(TRANSCRIBE, json={"model": "ears"})
    assert "must be multipart/form-data" in error(json, 415)["message"]
    bare = {"content-type": "multipart/form-data"}
    unbound = await http.post(TRANSCRIBE, content=b"--x--", headers=bare)
    assert "boundary" in error(unbound, 400)["message"]
    bound = {"content-type": "multipart/form-data; boundary=x"}
    half = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nears'
    broken = await http.post(TRANSCRIBE, content=half, headers=bound)
    assert "ends before its last boundary" in error(broken, 400)["message"]
    nameless = await http.post(TRANSCRIBE, files={"file": b"x"})
    assert error(nameless, 400)["param"] == "model"
    fileless = await http.post(TRANSCRIBE, files={"x": b"x"}, data={"model": "ears"})
    assert error(fileless, 400)["param"] == "file"
    doubled = await http.post(TRANSCRIBE, files={"file": b"x"}, data={"model": ["ears", "chat"]})
    assert error(doubled, 400)["param"] == "model"
    long = await http.post(TRANSCRIBE, **upload(prompt="x" * (forms.FIELD_SIZE + 1)))
    assert error(long, 413)["param"] == "prompt"
    many = await http.post(TRANSCRIBE, files={"file": b"x"}, data={"x": ["y"] * 10_000})
    assert "more than 100 parts" in error(many, 400)["message"]
    unknown = await http.post(TRANSCRIBE, **upload(model="nothing"))
    assert error(unknown, 404)["code"] == "model_not_found"
    deaf = await http.post(TRANSCRIBE, **upload(model="chat"))
    assert error(deaf, 400)["code"] == "wrong_task"
    empty = await http.post(TRANSCRIBE, **upload(b""))
    assert empty.status_code == 400
    assert empty.json()["error"]["message"] == "Invalid or unsupported audio file."


async def test_a_client_that_leaves_amid_its_upload_disturbs_no_one(
    served: Cluster, http: httpx.AsyncClient
) -> None:
    head = f"POST {TRANSCRIBE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    with Wire(served.port) as wire:
        wire.send(head.encode())
    answer = await http.post(TRANSCRIBE, **upload())
    assert answer.json()["text"] == words(SOUND)


async def test_a_client_s_next_try_gets_the_same_answer_though_its_boundary_is_another(
    http: httpx.AsyncClient,
) -> None:
    key = {"Idempotency-Key": "k"}
    first = await http.post(TRANSCRIBE, **upload(), headers=key)
    again = await http.post(TRANSCRIBE, **upload(), headers=key)
    assert first.status_code == 200
    assert (again.text, again.headers["x-request-id"]) == (
        first.text,
        first.headers["x-request-id"],
    )
    other = await http.post(TRANSCRIBE, **upload(b"another"), headers=key)
    assert error(other, 422)["code"] == "idempotency_key_reused"


@pytest.fixture
async def mortal(own_cluster: Cluster) -> Cluster:
    """A cluster of one test's own, with a model that hears on two engines."""
    own_cluster.up()
    await own_cluster.ready()
    await own_cluster.load("ears", task="transcription", replicas=2, memory="64MiB", options=HEARS)
    return own_cluster


async def _kill_the_busy_one(cluster: Cluster) -> bool:
    for replica in ("ears-0", "ears-1"):
        if (await cluster.engine_says(replica))["running"]:
            os.kill((await cluster.engine(replica)).pid, signal.SIGKILL)
            return True
    return False


async def test_a_stream_whose_engine_dies_ends_with_an_error_event(mortal: Cluster) -> None:
    for replica in ("ears-0", "ears-1"):
        await mortal.tell_engine(replica, token=0.3)
    said: list[str] = []
    async with (
        mortal.http() as http,
        http.stream("POST", TRANSCRIBE, **upload(stream="true")) as answer,
    ):
        async for line in answer.aiter_lines():
            if not line.startswith("data: "):
                continue
            said.append(line)
            if len(said) == 2:
                assert await _kill_the_busy_one(mortal)
    assert said[-1].startswith('data: {"error":{"message":"')
    assert "[DONE]" not in said[-1]


async def test_a_file_of_which_nothing_was_said_yet_goes_to_another_engine(
    mortal: Cluster,
) -> None:
    sound = os.urandom(1024) * (MAX_PAYLOAD // 1024 + 1)
    for replica in ("ears-0", "ears-1"):
        await mortal.tell_engine(replica, first_token=1.0)
    async with mortal.http() as http:
        asked = asyncio.create_task(http.post(TRANSCRIBE, **upload(sound)))
        await mortal.poll(lambda: _kill_the_busy_one(mortal), "an engine works on it")
        answer = await asked
    assert answer.json()["text"] == words(sound), answer.text


@pytest.mark.parametrize("path", [TRANSCRIBE, TRANSLATE])
async def test_a_form_is_held_to_the_longest_answer_of_its_key(served: Cluster, path: str) -> None:
    rights = {"scopes": ["infer"], "limits": {"max_tokens": 3}}
    async with served.http() as http:
        issued = (await http.post("/admin/keys", json=rights)).json()
        fields = {"authorization": f"Bearer {issued['secret']}"}
        longer = upload(max_completion_tokens="4")
        refused = await http.post(path, **longer, headers=fields)
        assert (refused.status_code, refused.json()["error"]["param"]) == (
            400,
            "max_completion_tokens",
        )
        cut = await http.post(path, **upload(), headers=fields)
        whole = await http.post(path, **upload())
    assert len(cut.json()["text"].split()) == 3 < len(whole.json()["text"].split())
