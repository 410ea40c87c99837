"""Anthropic's own client beyond messages: models, errors, ids of requests, what is not offered."""

import asyncio
from collections.abc import AsyncIterator

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.integration.asking import CHAT
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module")
def two_models(cluster: Cluster) -> Cluster:
    """A cluster with two chat models."""

    async def load() -> None:
        await cluster.ready()
        for name in ("first", "second"):
            await cluster.load(name, memory="64MiB")

    asyncio.run(load())
    return cluster


@pytest.fixture
async def client(two_models: Cluster) -> AsyncIterator[AsyncAnthropic]:
    """Anthropic's client of the cluster."""
    url = f"http://127.0.0.1:{two_models.port}"
    async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


async def test_models_are_listed_in_pages_and_shown(client: AsyncAnthropic) -> None:
    listed = [model async for model in client.models.list(limit=1)]
    assert {model.id for model in listed} == {"first", "second"}
    assert {model.type for model in listed} == {"model"}
    shown = await client.models.retrieve("second")
    assert (shown.display_name, shown.created_at.tzinfo is not None) == ("second", True)


async def test_other_clients_get_openai_s_list_of_models(two_models: Cluster) -> None:
    async with two_models.http() as http:
        plain = (await http.get("/v1/models")).json()
    assert plain["object"] == "list"
    assert {card["object"] for card in plain["data"]} == {"model"}


async def test_errors_of_all_kinds_have_anthropic_s_form(client: AsyncAnthropic) -> None:
    for asking, status, kind in (
        (client.models.retrieve("absent"), 404, "not_found_error"),
        (client.messages.create(model="absent", max_tokens=1, messages=[]), 404, "not_found_error"),
        (client.messages.batches.retrieve("msgbatch_1"), 404, "not_found_error"),
        (client.models.list(limit=9999), 400, "invalid_request_error"),
        (client.models.list(after_id="absent"), 400, "invalid_request_error"),
    ):
        with pytest.raises(anthropic.APIStatusError) as refused:
            await asking
        assert refused.value.status_code == status
        assert isinstance(refused.value.body, dict)
        assert refused.value.body["type"] == "error"
        assert refused.value.body["error"]["type"] == kind
        assert refused.value.request_id


async def test_a_batch_of_messages_is_said_not_to_be_offered(client: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as refused:
        await client.messages.batches.create(requests=[])
    assert "does not offer Anthropic's message batches: POST /v1/batches" in str(refused.value)
    assert "Did you mean" not in str(refused.value)


async def test_answers_name_their_request_as_anthropic_s_do(
    client: AsyncAnthropic, two_models: Cluster
) -> None:
    hello: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Hello"}]
    said = await client.messages.create(model="first", max_tokens=2, messages=hello)
    assert said._request_id
    async with client.messages.stream(model="first", max_tokens=2, messages=hello) as stream:
        assert stream.request_id
        await stream.until_done()
    async with two_models.http() as http:
        models = await http.get("/v1/models", headers=VERSION)
        assert models.headers["request-id"] == models.headers["x-request-id"]
        assert "request-id" not in (await http.get("/v1/models")).headers
        refused = await http.put(CHAT, headers=VERSION)
    assert "request-id" not in refused.headers
