"""Names that move: aliases, canaries, mirrors and fallbacks, while clients send requests."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import nats
import pytest

from nebula.events import subjects
from nebula.events.intents import AliasRemoveRequested, AliasRequested
from nebula.events.subjects import model_id
from tests.integration.asking import CHAT, COMPLETIONS, error, said
from tests.integration.asking import chat as chatting
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio


def chat(model: str, text: str = "hello", **fields: Any) -> dict[str, Any]:
    """Ask for one token: what was said itself."""
    return chatting(model, text, max_tokens=1, **fields)


async def loaded(cluster: Cluster, *models: str, **fields: Any) -> None:
    await cluster.ready()
    for each in models:
        if each not in (await cluster.state()).models:
            await cluster.load(each, name=f"org/{each}", memory="64MiB", **fields)


async def alias(http: httpx.AsyncClient, identity: str, **fields: Any) -> None:
    """Have an alias as described, known at the gateway."""
    answer = await http.put(f"/admin/aliases/{identity}", json=fields)
    assert answer.status_code == 202, answer.text
    assert answer.json()["alias"]["id"] == identity


def to(*targets: str) -> list[dict[str, object]]:
    return [{"model": each} for each in targets]


@contextlib.asynccontextmanager
async def heard(cluster: Cluster, model: str) -> AsyncIterator[asyncio.Queue[bytes]]:
    """Hear what is sent to a model's engines."""
    client = await nats.connect(cluster.url())
    bodies: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(message: Any) -> None:
        bodies.put_nowait(message.data)

    try:
        await client.subscribe(subjects.replica_requests(model, "*"), cb=hear)
        await client.flush()
        yield bodies
    finally:
        await client.close()


async def test_an_alias_is_served_by_its_target_which_the_answer_names(cluster: Cluster) -> None:
    await loaded(cluster, "one")
    async with cluster.http() as http:
        await alias(http, "first", name="prod/first", targets=to("org/one"))
        for body in ({}, {"stream": True}, {"user": "somebody", "seed": 7}):
            answer = await http.post(CHAT, json=chat("prod/first", "hello", **body))
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-nebula-model"] == "org/one"
            assert '"model":"org/one"' in answer.text.replace(": ", ":")
        answer = await http.post(COMPLETIONS, json={"model": "prod/first", "prompt": "a b"})
        assert answer.json()["model"] == "org/one"
        plain = await http.post(CHAT, json=chat("org/one", "hello"))
        assert "x-nebula-model" not in plain.headers
        cards = {each["id"]: each for each in (await http.get("/v1/models")).json()["data"]}
        assert cards["prod/first"]["root"] == "org/one"
        assert cards["prod/first"]["state"] == "ready"
        assert (await http.get("/v1/models/prod/first")).json() == cards["prod/first"]


async def test_an_alias_moves_while_clients_send_requests_without_one_error(
    cluster: Cluster,
) -> None:
    await loaded(cluster, "one", "two")
    answers: list[httpx.Response] = []
    over = asyncio.Event()

    grown = asyncio.Condition()

    async def client(http: httpx.AsyncClient, number: int) -> None:
        while not over.is_set():
            body = chat("moving", f"hello-{number}")
            answer = await http.post(CHAT, json=body)
            async with grown:
                answers.append(answer)
                grown.notify_all()

    async def count(number: int) -> None:
        async with grown:
            await grown.wait_for(lambda: len(answers) >= number)

    async with cluster.http() as http, asyncio.timeout(3 * PATIENCE):
        await alias(http, "moving", targets=to("org/one"))
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(client(http, number))
            for target in ("org/two", "org/one", "org/two"):
                await count(len(answers) + 40)
                await alias(http, "moving", targets=to(target))
                moved = len(answers)
                await count(moved + 40)
                assert answers[moved + 8].headers["x-nebula-model"] == target, "after those in it"
            over.set()
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-nebula-model"] for answer in answers} == {"org/one", "org/two"}


async def test_an_answer_under_way_goes_on_where_it_was_when_its_alias_moves(
    cluster: Cluster,
) -> None:
    await loaded(cluster, "one", "two")
    async with cluster.http() as http, heard(cluster, "one") as bodies:
        await alias(http, "leaving", targets=to("org/one"))
        await cluster.tell_engine("one-0", stall=True)
        asking = asyncio.create_task(http.post(CHAT, json=chat("leaving", "hello")))
        assert b'"org/one"' in await asyncio.wait_for(bodies.get(), PATIENCE)
        await alias(http, "leaving", targets=to("org/two"))
        assert said(await http.post(CHAT, json=chat("leaving", "hello"))) == "hello"
        assert not asking.done()
        await cluster.tell_engine("one-0", stall=False)
        answer = await asking
    assert said(answer) == "hello"
    assert answer.headers["x-nebula-model"] == "org/one"


async def test_a_canary_gets_its_share_and_a_user_stays_with_one_target(cluster: Cluster) -> None:
    await loaded(cluster, "one", "two")
    async with cluster.http() as http:
        targets = [{"model": "org/one", "weight": 4}, {"model": "org/two", "weight": 1}]
        await alias(http, "canary", targets=targets)

        async def met(user: str) -> str:
            answer = await http.post(CHAT, json=chat("canary", user=user))
            assert answer.status_code == 200, answer.text
            return str(answer.headers["x-nebula-model"])

        users = [f"user-{number}" for number in range(100)]
        first = await asyncio.gather(*map(met, users))
        assert 8 <= Counter(first)["org/two"] <= 34
        assert list(await asyncio.gather(*map(met, users))) == first


async def test_the_same_key_gives_the_same_answer_after_the_alias_has_moved(
    cluster: Cluster,
) -> None:
    await loaded(cluster, "one", "two")
    async with cluster.http() as http:
        await alias(http, "kept", targets=to("org/one"))
        headers = {"Idempotency-Key": "a-key"}
        first = await http.post(CHAT, json=chat("kept", "hello"), headers=headers)
        await alias(http, "kept", targets=to("org/two"))
        again = await http.post(CHAT, json=chat("kept", "hello"), headers=headers)
    assert said(first) == said(again) == "hello"
    assert first.content == again.content


async def test_a_mirror_gets_a_copy_of_each_request_and_its_answer_is_discarded(
    cluster: Cluster,
) -> None:
    await loaded(cluster, "one", "two")
    async with cluster.http() as http, heard(cluster, "two") as copies:
        await alias(http, "watched", targets=to("org/one"), mirror="org/two")
        for number in range(5):
            answer = await http.post(CHAT, json=chat("watched", f"hello-{number}", seed=number))
            assert said(answer) == f"hello-{number}"
            assert answer.headers["x-nebula-model"] == "org/one"
            copy = httpx.Response(200, content=await asyncio.wait_for(copies.get(), PATIENCE))
            assert copy.json() == chat("org/two", f"hello-{number}", seed=number)


async def test_a_mirror_that_stands_still_or_is_gone_is_not_noticed(cluster: Cluster) -> None:
    await loaded(cluster, "one")
    await cluster.load("slow", name="org/slow", memory="64MiB", max_in_flight=1)
    async with cluster.http() as http:
        await alias(http, "safe", targets=to("org/one"), mirror="org/slow")
        await cluster.tell_engine("slow-0", stall=True)
        for _ in range(30):
            assert said(await http.post(CHAT, json=chat("safe", "hello"))) == "hello"
        await cluster.tell_engine("slow-0", stall=False)
        assert (await http.delete("/admin/models/slow")).status_code == 202
        for _ in range(5):
            assert said(await http.post(CHAT, json=chat("safe", "hello"))) == "hello"


async def test_while_a_model_loads_its_fallback_answers_and_the_answer_says_so(
    cluster: Cluster,
) -> None:
    await loaded(cluster, "one")
    slow = {"simulate-start": 3}
    await cluster.load(
        "late",
        name="org/late",
        memory="64MiB",
        fallback=["org/one"],
        options=slow,
        stands="loading",
    )
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("org/late", "hello"))
        assert said(answer) == "hello"
        assert answer.headers["x-nebula-model"] == "org/one"
        assert answer.json()["model"] == "org/one"
        await cluster.stands("late")
        own = await http.post(CHAT, json=chat("org/late", "hello"))
        assert own.json()["model"] == "org/late"
        assert "x-nebula-model" not in own.headers


async def test_a_model_that_sleeps_wakes_while_its_fallback_answers(cluster: Cluster) -> None:
    await loaded(cluster, "one")
    await cluster.load(
        "sleeper",
        name="org/sleeper",
        memory="64MiB",
        fallback=["org/one"],
        on_request=True,
        stands="asleep",
    )
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("org/sleeper", "hello"))
        assert said(answer) == "hello"
        assert answer.headers["x-nebula-model"] == "org/one"
        await cluster.stands("sleeper")
        own = await http.post(CHAT, json=chat("org/sleeper", "hello"))
    assert own.json()["model"] == "org/sleeper"


async def test_what_an_alias_can_not_be_is_refused(cluster: Cluster) -> None:
    await loaded(cluster, "one")
    async with cluster.http() as http:
        for identity, body, status in (
            ("bad", {}, 400),
            ("bad", {"targets": []}, 400),
            ("bad", {"targets": [{"model": "a", "wieght": 1}]}, 400),
            ("bad", {"targets": [{"model": "org/one", "weight": 0}]}, 400),
            ("bad", {"name": "org/one", "targets": to("a")}, 409),
            ("b.d", {"targets": to("org/one")}, 400),
            ("", {"targets": to("org/one")}, 400),
            ("bad", {"targets": to("org/one", "org/one")}, 400),
            ("bad", {"targets": to("org/one"), "mirror": "org/one"}, 400),
        ):
            error(await http.put(f"/admin/aliases/{identity}", json=body), status)
        error(await http.get("/admin/aliases/bad"), 404)
        error(await http.delete("/admin/aliases/bad"), 404)
        await alias(http, "early", targets=to("org/to-come"))
        refused = error(await http.post(CHAT, json=chat("early")), 404)
        assert refused["code"] == "model_not_found"
    assert not await cluster.records(AliasRequested, identity="bad")


async def test_of_several_requests_for_one_name_one_gets_it_and_the_others_are_told(
    cluster: Cluster,
) -> None:
    await loaded(cluster, "one")
    body = {"name": "one-name", "targets": to("org/one")}
    async with cluster.http() as http:
        aliases = [http.put(f"/admin/aliases/take{number}", json=body) for number in range(4)]
        model = {"id": "taker", "source": "simulated", "name": "one-name", "replicas": 0}
        answers = await asyncio.gather(*aliases, http.post("/admin/models", json=model))
        assert Counter(each.status_code for each in answers) == {202: 1, 409: 4}
        won = next(each for each in answers if each.status_code == 202).json()["id"]
    state = await cluster.state()
    named = state.names["one-name"]
    assert won in (named.alias, named.model)


async def test_of_several_changes_to_an_alias_that_was_seen_one_succeeds(cluster: Cluster) -> None:
    await loaded(cluster, "one")
    async with cluster.http() as http:
        await alias(http, "ramp", targets=to("org/one"))
        seen = (await http.get("/admin/aliases/ramp")).json()["changed"]
        shares = [
            http.put(
                "/admin/aliases/ramp",
                json={"targets": [{"model": "org/one", "weight": weight}], "replaces": seen},
            )
            for weight in range(2, 6)
        ]
        answers = await asyncio.gather(*shares)
        assert Counter(each.status_code for each in answers) == {202: 1, 409: 3}
        refused = next(each for each in answers if each.status_code == 409)
        assert "look again" in error(refused, 409)["message"]
        won = next(each for each in answers if each.status_code == 202).json()
        now = (await http.get("/admin/aliases/ramp")).json()
        assert (now["changed"], now["targets"]) == (won["seq"], won["alias"]["targets"])


async def test_the_command_line_makes_moves_lists_and_removes_an_alias(cluster: Cluster) -> None:
    await loaded(cluster, "one", "two")
    assert (await cluster.nebula("alias", "by/hand", "org/one=9", "org/two")).code == 0
    [first] = await cluster.records(AliasRequested, identity=model_id("by/hand"))
    assert isinstance(first.content, AliasRequested)
    assert [(each.model, each.weight) for each in first.content.targets] == [
        ("org/one", 9),
        ("org/two", 1),
    ]
    moved = await cluster.nebula("alias", "by/hand", "org/two", "--mirror", "org/one")
    assert moved.code == 0
    assert "by/hand is an alias of org/two, org/one gets a copy of each request: ev" in moved.err
    shown = await cluster.nebula("alias", "by/hand")
    assert shown.code == 0
    assert "org/two" in shown.out
    listed = (await cluster.nebula("aliases")).out
    assert "by/hand" in listed
    assert "org/two" in listed
    assert (await cluster.nebula("alias", "by/hand", "--remove")).code == 0
    assert await cluster.records(AliasRemoveRequested, identity=model_id("by/hand"))
    assert "by/hand" not in (await cluster.nebula("aliases", "--json")).out
    assert (await cluster.nebula("alias", "by/hand", "--remove")).code == 1
    # Names that read alike in ids are two names all the same.
    assert (await cluster.nebula("alias", "by/hand", "org/one")).code == 0
    assert (await cluster.nebula("alias", "by-hand", "--remove")).code == 1
    assert (await cluster.nebula("alias", "by-hand", "org/two")).code == 0
    names = {each.name: each for each in (await cluster.state()).aliases.values()}
    assert names["by/hand"].targets[0].model == "org/one"
    assert names["by-hand"].targets[0].model == "org/two"
    for name in ("by/hand", "by-hand"):
        assert (await cluster.nebula("alias", name, "--remove")).code == 0
    unknown = await cluster.nebula("alias", "by/hand")
    assert unknown.code == 1
    assert "there is no alias 'by/hand'; there are: " in unknown.err
