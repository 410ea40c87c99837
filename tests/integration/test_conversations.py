"""Conversations, with OpenAI's own client: their items, and the responses that extend them."""

import asyncio
from typing import Any

import openai
import pytest
from openai.types.conversations import ConversationItem

from tests.integration.cluster import Cluster
from tests.integration.responding import client_of, over

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Cluster:
    """A cluster with a chat model."""

    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", memory="64MiB")

    asyncio.run(load())
    return cluster


async def items(client: openai.AsyncOpenAI, conversation: str) -> list[ConversationItem]:
    page = await client.conversations.items.list(conversation, order="asc", limit=3)
    return [item async for item in page]


def texts(said: list[ConversationItem]) -> list[str]:
    return [part.text for item in said for part in item.content]  # type: ignore[union-attr]


async def test_a_conversation_has_metadata_and_items(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create(
        metadata={"topic": "demo"},
        items=[{"type": "message", "role": "user", "content": "Hello!"}],
    )
    assert (made.object, made.metadata) == ("conversation", {"topic": "demo"})
    assert await client.conversations.retrieve(made.id) == made
    changed = await client.conversations.update(made.id, metadata={"topic": "project-x"})
    assert changed.metadata == {"topic": "project-x"}
    added = await client.conversations.items.create(
        made.id,
        items=[
            {"role": "user", "content": [{"type": "input_text", "text": text}]}
            for text in ("one", "two", "three")
        ],
    )
    assert texts(added.data) == ["one", "two", "three"]
    found = await items(client, made.id)
    assert texts(found) == ["Hello!", "one", "two", "three"]
    assert found[1:] == added.data
    assert (
        await client.conversations.items.retrieve(found[1].id or "", conversation_id=made.id)
        == (found[1])
    )
    after = await client.conversations.items.delete(found[1].id or "", conversation_id=made.id)
    assert after == changed
    assert texts(await items(client, made.id)) == ["Hello!", "two", "three"]
    gone = await client.conversations.delete(made.id)
    assert (gone.deleted, gone.object) == (True, "conversation.deleted")
    with pytest.raises(openai.NotFoundError, match="not found"):
        await client.conversations.retrieve(made.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        await client.responses.create(model="chat", input="x", conversation=made.id)


async def test_each_turn_is_added_whether_streamed_or_in_the_background(
    served: Cluster,
    client: openai.AsyncOpenAI,
) -> None:
    conversation = (await client.conversations.create()).id
    first = await client.responses.create(
        model="chat", input="one two three", conversation=conversation
    )
    assert first.conversation is not None
    assert first.conversation.id == conversation
    stream = await client.responses.create(
        model="chat", input="four five", conversation={"id": conversation}, stream=True
    )
    second = [event async for event in stream][-1].response  # type: ignore[union-attr]
    asked = await client.responses.create(
        model="chat", input="six", conversation=conversation, background=True
    )
    third = await over(client, asked.id)
    assert third.conversation == first.conversation

    async def three() -> bool:
        return len(await items(client, conversation)) == 6

    await served.poll(three, "the third turn is in the conversation")
    said = ["one two three", first, "four five", second, "six", third]
    wanted = [each if isinstance(each, str) else each.output_text for each in said]
    assert texts(await items(client, conversation)) == wanted
    assert third.usage is not None
    assert third.usage.input_tokens == sum(len(text.split()) for text in wanted[:5])
    ids = [item.id for item in await items(client, conversation)]
    assert len(set(ids)) == 6
    # A response of a conversation can be continued as it was then.
    branch = await client.responses.create(
        model="chat", input="seven", previous_response_id=first.id
    )
    assert branch.usage is not None
    assert branch.usage.input_tokens == sum(len(text.split()) for text in wanted[:2]) + 1


async def test_turns_at_the_same_time_are_all_added_and_none_is_cut(
    client: openai.AsyncOpenAI,
) -> None:
    conversation = (await client.conversations.create()).id
    said = [f"a{number} b{number}" for number in range(8)]
    made = await asyncio.gather(
        *(
            client.responses.create(model="chat", input=text, conversation=conversation)
            for text in said
        )
    )
    found = texts(await items(client, conversation))
    turns = list(zip(found[::2], found[1::2], strict=True))
    assert sorted(turns) == sorted(
        (text, each.output_text) for text, each in zip(said, made, strict=True)
    )


async def test_a_conversation_of_another_does_not_exist(
    served: Cluster, client: openai.AsyncOpenAI
) -> None:
    conversation = (await client.conversations.create()).id
    async with client_of(served.port, "other") as stranger:
        for asking in (
            stranger.conversations.retrieve(conversation),
            stranger.conversations.delete(conversation),
            stranger.conversations.items.create(conversation, items=[]),
            stranger.responses.create(model="chat", input="x", conversation=conversation),
        ):
            with pytest.raises(openai.NotFoundError, match="not found"):
                await asking
    assert (await client.conversations.retrieve(conversation)).id == conversation


async def test_what_can_t_be_is_refused_with_the_field_at_fault(
    client: openai.AsyncOpenAI,
) -> None:
    message = {"role": "user", "content": "x"}
    for fields, param in (
        ({"items": [message] * 21}, "items"),
        ({"items": [{"content": "x"}]}, "items[0].role"),
        ({"items": [message, {"type": "nonsense"}]}, "items[1].type"),
        ({"items": [{"type": "item_reference", "id": "x"}]}, "items[0].type"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {str(number): "v" for number in range(17)}}, "metadata"),
        ({"metadata": {"k": 1}}, "metadata[...]"),
        ({"name": "x"}, "name"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.conversations.create(extra_body=fields)
        assert refused.value.param == param


async def test_a_response_that_is_not_stored_is_added_to_its_conversation_all_the_same(
    client: openai.AsyncOpenAI,
) -> None:
    conversation = (await client.conversations.create()).id
    made = await client.responses.create(
        model="chat", input="one two", conversation=conversation, store=False
    )
    assert (made.model_extra or {})["store"] is False
    assert texts(await items(client, conversation)) == ["one two", made.output_text]
    with pytest.raises(openai.NotFoundError, match="not found"):
        await client.responses.retrieve(made.id)


async def test_what_is_too_large_is_blamed_and_not_the_conversation(
    client: openai.AsyncOpenAI,
) -> None:
    conversation = (await client.conversations.create()).id
    large = "x" * 9 * 1024 * 1024
    with pytest.raises(openai.APIStatusError, match="the input has") as refused:
        await client.responses.create(model="chat", input=large, conversation=conversation)
    assert (refused.value.status_code, refused.value.param) == (413, "input")
    message: Any = {"role": "user", "content": large}
    with pytest.raises(openai.APIStatusError, match="what is added is larger") as refused:
        await client.conversations.items.create(conversation, items=[message])
    assert (refused.value.status_code, refused.value.param) == (413, "items")
    half: Any = {"role": "user", "content": large[: 4 * 1024 * 1024]}
    await client.conversations.items.create(conversation, items=[half])
    with pytest.raises(openai.APIStatusError, match="Begin another conversation") as refused:
        await client.responses.create(
            model="chat", input=half["content"], conversation=conversation
        )
    assert (refused.value.status_code, refused.value.param) == (413, "conversation")


@pytest.mark.parametrize("identity", ["conv_.", ".a", "conv_a..b", "conv_*", "conv_>", "conv_a b"])
async def test_what_can_not_be_an_id_is_not_found(
    client: openai.AsyncOpenAI, identity: str
) -> None:
    with pytest.raises(openai.NotFoundError, match="not found"):
        await client.conversations.retrieve(identity)
    with pytest.raises(openai.NotFoundError, match="not found") as refused:
        await client.responses.create(model="chat", input="one", conversation=identity)
    assert refused.value.param == "conversation"
