"""OpenAI's API over real processes: plain HTTP, and the official client."""

import asyncio
import itertools
import time
from functools import partial
from urllib.parse import quote

import openai
import pytest

from tests.integration.asking import CHAT, chat, events, said, text_of
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio

NAMED = {"slashes": "Qwen/Qwen2.5-0.5B-Instruct", "script": "모델/größe 7b ✓"}


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    """A chat model that takes adapters, an embedding model, and two with uncommon names."""

    async def load() -> None:
        await cluster.ready()
        (cluster.folder / "pirate").mkdir()
        adapters = [{"name": "pirate", "source": str(cluster.folder / "pirate")}]
        await cluster.load("chat", adapters=adapters, stands="")
        await cluster.load("embed", task="embedding", stands="")
        for identity, name in NAMED.items():
            await cluster.load(identity, name=name, stands="")
        for identity in ("chat", "embed", *NAMED):
            await cluster.stands(identity)
        await cluster.until(lambda state: bool(state.replicas["chat-0"].adapters), "the adapter")

    asyncio.run(load())


def official(cluster: Cluster) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{cluster.port}/v1", api_key="-", max_retries=0, timeout=PATIENCE
    )


async def test_a_chat_is_answered_by_the_model_it_names(cluster: Cluster) -> None:
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("chat", "one two", max_tokens=4))
    assert said(answer) == "one two one two"
    body = answer.json()
    assert body["model"] == "chat"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 4
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["x-request-id"] in body["id"]


async def test_a_streamed_chat_says_the_same_word_by_word(cluster: Cluster) -> None:
    body = chat("chat", "one two", max_tokens=4, stream=True)
    body["stream_options"] = {"include_usage": True}
    async with cluster.http() as http, http.stream("POST", CHAT, json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        heard = [event async for event in events(answer)]
    *chunks, usage = heard
    assert text_of(chunks) == "one two one two"
    assert len(chunks) == 5  # the role, and four words
    assert usage["usage"]["completion_tokens"] == 4


async def test_completions_and_embeddings_are_answered(cluster: Cluster) -> None:
    async with cluster.http() as http:
        body = {"model": "chat", "prompt": "once upon", "max_tokens": 3}
        completed = (await http.post("/v1/completions", json=body)).json()
        body = {"model": "embed", "input": ["a cat", "a dog", "a cat"]}
        embedded = (await http.post("/v1/embeddings", json=body)).json()
    assert completed["object"] == "text_completion"
    assert completed["choices"][0]["text"] == "once upon once"
    cat, dog, again = (item["embedding"] for item in embedded["data"])
    assert len(cat) == 384
    assert cat == again != dog


async def test_the_official_client_chats_completes_and_embeds(cluster: Cluster) -> None:
    async with official(cluster) as client:
        whole = await client.chat.completions.create(**chat("chat", "ahoy", max_tokens=2))
        stream = await client.chat.completions.create(**chat("chat", "ahoy", stream=True))
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        completed = await client.completions.create(model="chat", prompt="x", max_tokens=1)
        embedded = await client.embeddings.create(model="embed", input="a cat")
    assert whole.choices[0].message.content == "ahoy ahoy"
    assert "".join(pieces) == " ".join(["ahoy"] * 16)
    assert completed.choices[0].text == "x"
    assert len(embedded.data[0].embedding) == 384


async def test_the_list_of_models_names_an_adapter_s_base_as_its_parent(cluster: Cluster) -> None:
    async with official(cluster) as client:
        cards = {card.id: card.model_dump() async for card in client.models.list()}
        shown = await client.models.retrieve("pirate")
    assert set(cards) == {"chat", "pirate", "embed", *NAMED.values()}
    assert cards["pirate"]["parent"] == "chat"
    assert cards["chat"]["parent"] is None
    assert all(card["owned_by"] == "nebula" for card in cards.values())
    assert shown.model_dump()["parent"] == "chat"
    assert abs(shown.created - time.time()) < 300


async def test_an_adapter_is_asked_by_its_own_name(cluster: Cluster) -> None:
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("pirate", "ahoy", max_tokens=2))
        assert said(answer) == "[pirate] ahoy"
        assert said(await http.post(CHAT, json=chat("chat", "ahoy", max_tokens=2))) == "ahoy ahoy"


@pytest.mark.parametrize("name", NAMED.values())
async def test_a_name_may_hold_slashes_spaces_and_any_script(cluster: Cluster, name: str) -> None:
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat(name, "grüße 🦜", max_tokens=2))
        shown = await http.get(f"/v1/models/{quote(name)}")
    assert said(answer) == "grüße 🦜"
    assert answer.json()["model"] == name
    assert shown.json()["id"] == name


async def test_streaming_is_real_the_first_word_is_there_long_before_the_last(
    cluster: Cluster,
) -> None:
    await cluster.tell_engine("chat-0", token=0.05)
    try:
        body = chat("chat", "slow", stream=True)
        async with cluster.http() as http, http.stream("POST", CHAT, json=body) as answer:
            times = [time.monotonic() async for _ in events(answer)]
    finally:
        await cluster.tell_engine("chat-0", token=0)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times[-1] - times[0] > 15 * 0.05 * 0.9
    assert max(gaps) < 0.5, "they came in bunches"


async def test_a_hundred_streams_and_a_hundred_embeddings_at_once_are_never_mixed_up(
    cluster: Cluster,
) -> None:
    async with official(cluster) as client:

        async def talk(number: int) -> tuple[str, str]:
            body = chat("chat", f"word{number}", max_tokens=8, stream=True)
            stream = await client.chat.completions.create(**body)
            chunks = [chunk async for chunk in stream]
            (identity,) = {chunk.id for chunk in chunks}
            return identity, "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

        async def embed(number: int) -> list[float]:
            answer = await client.embeddings.create(model="embed", input=f"word{number}")
            return answer.data[0].embedding

        for replica in ("chat-0", "embed-0"):
            await cluster.tell_engine(replica, stall=True)
        talking = [asyncio.create_task(talk(number)) for number in range(100)]
        embedding = [asyncio.create_task(embed(number)) for number in range(100)]
        for replica in ("chat-0", "embed-0"):
            await cluster.poll(partial(running, cluster, replica, 100), "all are there at once")
            await cluster.tell_engine(replica, stall=False)
        talks, vectors = await asyncio.gather(*talking), await asyncio.gather(*embedding)
        texts = [f"word{number}" for number in range(100)]
        alone = await client.embeddings.create(model="embed", input=texts)

    assert [text for _, text in talks] == [" ".join([f"word{n}"] * 8) for n in range(100)]
    assert len({identity for identity, _ in talks}) == 100
    assert vectors == [item.embedding for item in alone.data]
    assert len({tuple(vector) for vector in vectors}) == 100


async def test_a_client_that_leaves_a_stream_ends_the_generation(cluster: Cluster) -> None:
    await cluster.load("long", options={"simulate-token": 0.1, "simulate-tokens": 1000})
    body = chat("long", stream=True)
    async with cluster.http() as http, http.stream("POST", CHAT, json=body) as answer:
        stream = events(answer)  # held on to: httpx ends a stream with its iterator
        await anext(stream)
        assert (await cluster.engine_says("long-0"))["running"] == 1
    await cluster.poll(partial(aborted, cluster, "long-0"), "it is aborted", 5)


async def test_a_client_that_does_not_wait_for_its_answer_ends_the_generation(
    cluster: Cluster,
) -> None:
    await cluster.load("patient", options={"simulate-first-token": 60})
    async with cluster.http() as http:
        asking = asyncio.create_task(http.post(CHAT, json=chat("patient")))
        await cluster.poll(partial(running, cluster, "patient-0", 1), "it is at work", 5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await cluster.poll(partial(aborted, cluster, "patient-0"), "it is aborted", 5)


async def running(cluster: Cluster, replica: str, wanted: int) -> bool:
    return (await cluster.engine_says(replica))["running"] == wanted


async def aborted(cluster: Cluster, replica: str) -> bool:
    counts = await cluster.engine_says(replica)
    return counts["running"] == 0 and counts["aborted"] == 1
