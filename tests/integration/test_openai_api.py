"""OpenAI's API over real processes: plain HTTP, and the official client."""

import asyncio
import time
from functools import partial
from urllib.parse import quote

import nats
import openai
import pytest

from nebula.events import subjects
from tests.adapters import trained
from tests.integration.asking import CHAT, chat, error, events, said, text_of
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio

NAMED = {"slashes": "Qwen/Qwen2.5-0.5B-Instruct", "script": "모델/größe 7b ✓"}


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    """A chat model that takes adapters, an embedding model, and two with uncommon names."""

    async def load() -> None:
        await cluster.ready()
        adapters = [{"name": "pirate", "source": trained(cluster.folder / "pirate")}]
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
    assert all(len(card["permission"]) == 1 for card in cards.values())
    assert shown.model_dump()["parent"] == "chat"
    assert abs(shown.created - time.time()) < 300


async def test_the_list_of_models_tells_what_engines_say_of_their_context(
    cluster: Cluster,
) -> None:
    client = await nats.connect(cluster.url())
    async with cluster.http() as http:
        told = await client.subscribe(subjects.REPLICA_STATUS)
        # Two heartbeats of it: when the second is there, the gateway has taken the first.
        for _ in range(2):
            while b'"chat-0"' not in (await told.next_msg(PATIENCE)).data:
                pass
        cards = {card["id"]: card for card in (await http.get("/v1/models")).json()["data"]}
        shown = (await http.get("/v1/models/pirate")).json()
    await client.close()
    async with await cluster.engine_http("chat-0") as direct:
        own = (await direct.get("/v1/models")).json()["data"][0]
    assert cards["chat"]["max_model_len"] == own["max_model_len"] > 0
    assert cards["pirate"]["max_model_len"] == shown["max_model_len"] == own["max_model_len"]
    assert set(own) <= set(cards["chat"])


async def test_an_unknown_model_s_card_says_which_names_there_are(cluster: Cluster) -> None:
    async with cluster.http() as http:
        shown = error(await http.get("/v1/models/nope"), 404)
    assert "'nope' does not exist. There are: " in shown["message"]
    assert "'chat'" in shown["message"]


@pytest.mark.parametrize("stream", ["true", 1, "1", "Yes"])
async def test_a_stream_is_asked_for_in_every_way_that_vllm_takes(
    cluster: Cluster, stream: object
) -> None:
    async with cluster.http() as http:
        body = chat("chat", "one", max_tokens=1) | {"stream": stream}
        answer = await http.post(CHAT, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (CHAT, chat("chat", "x") | {"stream": "perhaps"}, "valid boolean"),
        (CHAT, {"model": "chat"}, "messages is required"),
        ("/v1/completions", {"model": "chat"}, "prompt or prompt_embeds is required"),
        ("/v1/completions", {"model": "chat", "prompt_embeds": "x"}, "--enable-prompt-embeds"),
        ("/v1/embeddings", {"model": "embed", "input": None}, "input or messages is required"),
        ("/v1/embeddings", {"model": None, "input": "x"}, "you must name a model"),
    ],
)
async def test_what_the_engine_would_refuse_is_refused_by_it_in_its_own_words(
    cluster: Cluster, path: str, body: dict[str, object], words: str
) -> None:
    async with cluster.http() as http:
        assert words in error(await http.post(path, json=body), 400)["message"]


async def test_a_chat_is_embedded_as_vllm_embeds_it(cluster: Cluster) -> None:
    async with cluster.http() as http:
        messages = [{"role": "user", "content": "a cat"}]
        asked = {"model": "embed", "messages": messages}
        of_chat = (await http.post("/v1/embeddings", json=asked)).json()
        of_text = (
            await http.post("/v1/embeddings", json={"model": "embed", "input": "a cat"})
        ).json()
    assert of_chat["data"][0]["embedding"] == of_text["data"][0]["embedding"]


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
        encoded = await http.get(f"/v1/models/{quote(name, safe='')}")
    assert encoded.json() == shown.json()
    assert said(answer) == "grüße 🦜"
    assert answer.json()["model"] == name
    assert shown.json()["id"] == name


async def test_streaming_is_real_words_are_there_while_the_engine_still_makes_the_next(
    cluster: Cluster,
) -> None:
    await cluster.tell_engine("chat-0", token=2)
    try:
        body = chat("chat", "slow", stream=True)
        async with cluster.http() as http, http.stream("POST", CHAT, json=body) as answer:
            heard = events(answer)
            first = await anext(heard)
            assert (await cluster.engine_says("chat-0"))["running"] == 1
            await cluster.tell_engine("chat-0", token=0)
            rest = [event async for event in heard]
    finally:
        await cluster.tell_engine("chat-0", token=0)
    assert text_of([first, *rest]).startswith("slow slow")


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
