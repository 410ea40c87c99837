"""Responses that are stored, with OpenAI's own client: shown, continued, deleted, listed."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.integration.cluster import Cluster
from tests.integration.responding import client_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stranger(served: Cluster) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(served.port, "other") as client:
        yield client


async def test_a_response_is_shown_as_it_was_given(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(model="chat", input="one two three")
    assert made.output_text
    assert made.id.startswith("resp_")
    again = await client.responses.retrieve(made.id)
    assert again == made
    assert again.model_extra == {**(made.model_extra or {}), "store": True}


async def test_a_streamed_response_is_stored_before_its_end_is_told(
    client: openai.AsyncOpenAI,
) -> None:
    stream = await client.responses.create(model="chat", input="one two", stream=True)
    events = [event async for event in stream]
    last = events[-1]
    assert last.type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert await client.responses.retrieve(last.response.id) == last.response


async def test_a_response_follows_a_previous_one(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model="chat", input="one two three", instructions="x y")
    second = await client.responses.create(
        model="chat", input="four five", previous_response_id=first.id
    )
    third = await client.responses.create(
        model="chat",
        input=[{"role": "user", "content": "six"}],
        previous_response_id=second.id,
    )
    assert second.previous_response_id == first.id
    assert second.instructions is None
    assert first.usage
    assert second.usage
    assert third.usage
    said = len(first.output_text.split())
    assert first.usage.input_tokens == 5
    assert second.usage.input_tokens == 3 + said + 2
    said += len(second.output_text.split())
    assert third.usage.input_tokens == 3 + 2 + said + 1


async def test_input_items_are_listed_in_pages(client: openai.AsyncOpenAI) -> None:
    said = [{"role": "user", "content": text} for text in ("a", "b", "c")]
    made = await client.responses.create(model="chat", input=said)  # type: ignore[arg-type]
    page = await client.responses.input_items.list(made.id, limit=2)
    texts = [item.content[0].text async for item in page]  # type: ignore[union-attr, index]
    assert texts == ["c", "b", "a"]
    assert page.has_more
    oldest = await client.responses.input_items.list(made.id, order="asc", limit=1)
    assert oldest.data[0].status == "completed"  # type: ignore[union-attr]
    after = await client.responses.input_items.list(made.id, order="asc", after=oldest.data[0].id)
    assert [item.content[0].text for item in after.data] == ["b", "c"]  # type: ignore[union-attr, index]


async def test_a_response_that_is_not_stored_or_deleted_or_another_s_is_not_found(
    client: openai.AsyncOpenAI, stranger: openai.AsyncOpenAI
) -> None:
    unstored = await client.responses.create(model="chat", input="x", store=False)
    made = await client.responses.create(model="chat", input="x")
    with pytest.raises(openai.NotFoundError, match="not found"):
        await client.responses.retrieve(unstored.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        await stranger.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        await stranger.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError, match=f"Previous response with id '{made.id}'"):
        await stranger.responses.create(model="chat", input="x", previous_response_id=made.id)
    assert (await client.responses.retrieve(made.id)).id == made.id
    await client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        await client.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        await client.responses.delete(made.id)


async def test_what_can_t_be_is_refused_with_the_field_at_fault(
    client: openai.AsyncOpenAI,
) -> None:
    async def refused(**fields: object) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(model="chat", input="x", extra_body=fields)
        return caught.value

    both = await refused(previous_response_id="resp_1", conversation="conv_1")
    assert (both.status_code, both.param) == (400, "previous_response_id")
    unstored = await refused(background=True, store=False)
    assert (unstored.status_code, unstored.param) == (400, "background")
    wrong = await refused(store="maybe")
    assert (wrong.status_code, wrong.param) == (400, "store")
    unknown = await refused(previous_response_id="../x")
    assert (unknown.status_code, unknown.code) == (404, "previous_response_not_found")


async def test_a_response_that_is_not_stored_says_so_in_all_its_forms(
    client: openai.AsyncOpenAI,
) -> None:
    plain = await client.responses.create(model="chat", input="one two", store=False)
    stream = await client.responses.create(model="chat", input="one two", store=False, stream=True)
    shown = [event.response async for event in stream if hasattr(event, "response")]
    assert len(shown) == 3
    for each in (plain, *shown):
        assert (each.model_extra or {})["store"] is False
        assert (each.background, each.previous_response_id, each.metadata) == (False, None, {})
    assert len({each.id for each in shown}) == 1


async def test_a_stream_that_its_client_leaves_is_kept_as_cancelled_with_what_was_made(
    served: Cluster, client: openai.AsyncOpenAI
) -> None:
    await served.tell_engine("chat-0", token=0.2)
    stream = await client.responses.create(model="chat", input="one two three", stream=True)
    seen = ""
    async for event in stream:
        if event.type == "response.created":
            identity = event.response.id
        if event.type == "response.output_text.delta":
            seen += event.delta
            if len(seen.split()) == 2:
                break
    await stream.close()

    async def kept() -> bool:
        try:
            await client.responses.retrieve(identity)
        except openai.NotFoundError:
            return False
        return True

    await served.poll(kept, "the response is stored")
    await served.tell_engine("chat-0", token=0.0)
    assert not (await served.engine_says("chat-0"))["running"]
    left = await client.responses.retrieve(identity)
    assert left.status == "cancelled"
    assert left.output_text.startswith(seen)
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        await client.responses.create(model="chat", input="x", previous_response_id=identity)


async def test_a_response_whose_first_turn_is_gone_names_it_and_what_to_do(
    client: openai.AsyncOpenAI,
) -> None:
    first = await client.responses.create(model="chat", input="one")
    second = await client.responses.create(model="chat", input="two", previous_response_id=first.id)
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match=f"'{first.id}', on which '{second.id}'") as told:
        await client.responses.create(model="chat", input="x", previous_response_id=second.id)
    assert (told.value.param, told.value.code) == (
        "previous_response_id",
        "previous_response_not_found",
    )
    assert "give what was said before as `input`" in str(told.value)
    assert (await client.responses.retrieve(second.id)).id == second.id
    conversation = (await client.conversations.create()).id
    within = await client.responses.create(model="chat", input="one", conversation=conversation)
    await client.conversations.delete(conversation)
    with pytest.raises(openai.NotFoundError, match=f"'{conversation}', on which '{within.id}'"):
        await client.responses.create(model="chat", input="x", previous_response_id=within.id)


async def test_what_engines_would_pass_over_is_refused(client: openai.AsyncOpenAI) -> None:
    reference = {"type": "item_reference", "id": "msg_1"}
    file = {"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}
    for item, param in ((reference, "input[0].type"), (file, "input[0].content[0].type")):
        for store in (True, False):
            with pytest.raises(openai.BadRequestError, match="not supported") as refused:
                await client.responses.create(
                    model="chat", input="", store=store, extra_body={"input": [item]}
                )
            assert refused.value.param == param


async def test_paths_of_openai_s_that_are_not_offered_are_told_from_ids(
    client: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.NotFoundError, match="input_tokens' is not offered"):
        await client.responses.input_tokens.count(model="chat", input="x")
    with pytest.raises(openai.NotFoundError, match="compact' is not offered"):
        await client.post("/responses/compact", cast_to=object, body={"model": "chat"})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeated_request_gets_the_same_response_that_is_not_stored(
    client: openai.AsyncOpenAI, stream: bool
) -> None:
    conversation = (await client.conversations.create()).id
    given: list[Any] = []
    for _ in range(2):
        made: Any = await client.responses.create(
            model="chat",
            input="one two",
            store=False,
            stream=stream,
            conversation=conversation,
            extra_headers={"Idempotency-Key": conversation},
        )
        if isinstance(made, openai.AsyncStream):
            given.append([event async for event in made])
        else:
            given.append(made)
    assert given[0] == given[1]
    last = given[1][-1].response if isinstance(given[1], list) else given[1]
    assert (last.model_extra or {})["store"] is False
    assert last.conversation.id == conversation
    assert len((await client.conversations.items.list(conversation)).data) == 2


async def test_what_is_too_large_to_be_stored_is_refused_only_if_it_must_be_stored(
    client: openai.AsyncOpenAI,
) -> None:
    large: dict[str, Any] = {"model": "chat", "input": "x" * 8_000_000, "max_output_tokens": 1}
    with pytest.raises(openai.APIStatusError, match="can be stored") as refused:
        await client.responses.create(**large, store=True)
    assert (refused.value.status_code, refused.value.param) == (413, "input")
    made = await client.responses.create(**large)
    assert (made.model_extra or {})["store"] is False
