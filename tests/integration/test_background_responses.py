"""Responses in the background: made without a client that waits, whatever dies meanwhile."""

import asyncio
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.integration.asking import prompt, words
from tests.integration.cluster import Cluster
from tests.integration.responding import over

pytestmark = pytest.mark.anyio

MANY = 20
TOKENS = 40


async def ask(client: openai.AsyncOpenAI, number: int = 0, **fields: Any) -> Response:
    made: Response = await client.responses.create(
        model="chat",
        input=prompt(number),
        background=True,
        max_output_tokens=TOKENS,
        extra_body={"ignore_eos": True},
        **fields,
    )
    return made


async def test_a_response_is_queued_at_once_and_made_without_its_client(
    client: openai.AsyncOpenAI,
) -> None:
    asked = await ask(client, metadata={"a": "b"})
    assert (asked.status, asked.output, asked.background) == ("queued", [], True)
    done = await over(client, asked.id)
    assert (done.status, done.output_text) == ("incomplete", words(0, TOKENS))
    assert (done.id, done.created_at) == (asked.id, asked.created_at)
    assert (done.background, done.metadata) == (True, {"a": "b"})
    following = await client.responses.create(
        model="chat", input="and", previous_response_id=done.id
    )
    assert following.previous_response_id == done.id


async def test_its_stream_can_be_read_from_any_event_as_often_as_one_likes(
    client: openai.AsyncOpenAI,
) -> None:
    stream = await ask(client, stream=True)
    events = [event async for event in stream]  # type: ignore[attr-defined]
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:3] == ["created", "queued", "in_progress"]
    assert kinds[-1] == "completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == words(0, TOKENS) == events[-1].response.output_text
    identity = events[0].response.id
    for after in (None, 0, 3, len(events) - 2, len(events) - 1):
        again = await client.responses.retrieve(
            identity, stream=True, starting_after=openai.omit if after is None else after
        )
        rest = [event async for event in again]
        assert rest == events[0 if after is None else after + 1 :]
    for after in (len(events), len(events) + 5):
        with pytest.raises(openai.BadRequestError, match="has no event with the number"):
            await client.responses.retrieve(identity, stream=True, starting_after=after)


async def test_an_event_that_is_still_to_come_is_waited_for(
    served: Cluster, client: openai.AsyncOpenAI
) -> None:
    await served.tell_engine("chat-0", token=0.2)
    asked = await ask(client)
    waiting = asyncio.create_task(
        client.responses.retrieve(asked.id, stream=True, starting_after=8)
    )
    beyond = asyncio.create_task(
        client.responses.retrieve(asked.id, stream=True, starting_after=10_000)
    )
    rest = await waiting
    assert (await anext(aiter(rest))).sequence_number == 9
    await rest.close()
    await client.responses.cancel(asked.id)
    await served.tell_engine("chat-0", token=0.0)
    with pytest.raises(openai.APIError, match="has no event with the number"):
        [event async for event in await beyond]


async def test_a_cancelled_response_stays_cancelled(
    served: Cluster, client: openai.AsyncOpenAI
) -> None:
    await served.tell_engine("chat-0", token=0.2)
    stream = await ask(client, stream=True)
    seen = []
    async for event in stream:  # type: ignore[attr-defined]
        seen.append(event)
        if event.type == "response.output_text.delta" and len(seen) == 6:
            cancelled = await client.responses.cancel(seen[0].response.id)
            assert cancelled.status == "cancelled"
    assert seen[-1].response.status == "cancelled"
    said = "".join(each.delta for each in seen if each.type == "response.output_text.delta")
    assert cancelled.output_text == said != ""
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    await served.tell_engine("chat-0", token=0.0)
    await served.poll(lambda: _idle(served), "the engine is left")
    again = await client.responses.cancel(cancelled.id)
    assert again == cancelled == await client.responses.retrieve(cancelled.id)


async def _idle(cluster: Cluster) -> bool:
    return not (await cluster.engine_says("chat-0"))["running"]


async def test_a_response_with_a_client_can_t_be_cancelled_and_a_finished_one_stays(
    client: openai.AsyncOpenAI,
) -> None:
    foreground = await client.responses.create(model="chat", input="x")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        await client.responses.cancel(foreground.id)
    done = await over(client, (await ask(client)).id)
    assert await client.responses.cancel(done.id) == done


async def test_a_response_that_is_deleted_is_not_made_any_more(
    served: Cluster, client: openai.AsyncOpenAI
) -> None:
    await served.tell_engine("chat-0", token=0.2)
    asked = await ask(client)
    await served.poll(lambda: _busy(served), "an engine works on it")
    await client.responses.delete(asked.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(asked.id)
    await served.poll(lambda: _idle(served), "the engine is left")
    await served.tell_engine("chat-0", token=0.0)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(asked.id)


async def _busy(cluster: Cluster) -> bool:
    return bool((await cluster.engine_says("chat-0"))["running"])


async def test_what_an_engine_refuses_fails_with_its_words(client: openai.AsyncOpenAI) -> None:
    asked = await ask(client, tools=[], tool_choice="required")
    done = await over(client, asked.id)
    assert done.status == "failed"
    assert done.error is not None
    assert done.error.code == "invalid_prompt"
    assert "Tool choice 'required' must be specified" in done.error.message
    with pytest.raises(openai.BadRequestError, match="failed"):
        await client.responses.create(model="chat", input="x", previous_response_id=done.id)


async def test_the_same_key_gives_the_same_response(client: openai.AsyncOpenAI) -> None:
    key = {"Idempotency-Key": "one"}
    first, second = await asyncio.gather(
        ask(client, extra_headers=key), ask(client, extra_headers=key)
    )
    assert first.id == second.id
    with pytest.raises(openai.UnprocessableEntityError, match="used for another request"):
        await ask(client, 1, extra_headers=key)
    waited = [
        await client.responses.create(
            model="chat", input=prompt(3), extra_headers={"Idempotency-Key": "two"}
        )
        for _ in range(2)
    ]
    assert waited[0] == waited[1]
    assert waited[0].background is False
    with pytest.raises(openai.BadRequestError, match="Tool choice 'required'"):
        await client.responses.create(
            model="chat",
            input="x",
            tool_choice="required",
            extra_headers={"Idempotency-Key": "three"},
        )


async def test_the_key_of_a_response_that_is_over_tells_what_became_of_it(
    client: openai.AsyncOpenAI,
) -> None:
    key = {"Idempotency-Key": "four"}
    first = await ask(client, extra_headers=key)
    done = await over(client, first.id)
    again = await ask(client, extra_headers=key)
    assert (again.id, again.status) == (first.id, done.status)
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match=first.id):
        await ask(client, extra_headers=key)
