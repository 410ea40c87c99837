"""A NATS server without room for stored responses: what needs them says so, the rest works."""

import openai
import pytest

from nebula.store.server import binary, configuration
from tests.integration.cluster import Cluster
from tests.integration.responding import client_of

pytestmark = pytest.mark.anyio


async def test_only_what_must_be_stored_is_refused(own_cluster: Cluster) -> None:
    cluster = own_cluster
    config = cluster.folder / "small.conf"
    store = cluster.folder / "jetstream"
    config.write_text(configuration(cluster.nats_port, store, 200 * 1024 * 1024))
    cluster.program("nats", binary(), "-c", str(config))
    for name in ("router", "node", "gateway"):
        cluster.start(name)
    await cluster.ready()
    await cluster.load("chat", memory="64MiB")
    async with client_of(cluster.port) as client:
        made = await client.responses.create(model="chat", input="one two")
        assert made.output_text
        assert (made.model_extra or {})["store"] is False
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)
        for fields in ({"store": True}, {"background": True}):
            with pytest.raises(openai.InternalServerError, match="insufficient storage") as refused:
                await client.responses.create(model="chat", input="x", extra_body=fields)
            assert refused.value.status_code == 503
        with pytest.raises(openai.InternalServerError, match="insufficient storage"):
            await client.conversations.create()
        again = await client.responses.create(model="chat", input="one two", store=False)
        assert again.output_text == made.output_text
