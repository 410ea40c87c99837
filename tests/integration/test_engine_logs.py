"""The log of an engine over HTTP: its last lines, and what comes, for curl and for a browser."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from nebula.events.vocabulary import EngineStarted
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio

LOGS = "/admin/replicas/chat-0/logs"
SECRET = "hf_" + "AbCd1234" * 5


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat")

    asyncio.run(load())


async def log_file(cluster: Cluster) -> Path:
    [*_, started] = await cluster.records(EngineStarted, identity="chat-0")
    assert isinstance(started.content, EngineStarted)
    return Path(started.content.log_file)


def write(file: Path, text: str) -> None:
    with file.open("a") as log:
        log.write(text)


async def until(parts: AsyncIterator[str], wanted: str) -> str:
    """Return what a stream has sent until something was in it."""
    text = ""
    async with asyncio.timeout(PATIENCE):
        async for part in parts:
            text += part
            if wanted in text:
                return text
    raise AssertionError(f"the stream ended without {wanted!r}: {text}")


async def test_the_last_lines_are_text_and_the_next_request_goes_on(cluster: Cluster) -> None:
    file = await log_file(cluster)
    write(file, "one\ntwo\nthree\n")
    async with cluster.http() as http:
        answer = await http.get(LOGS, params={"tail": 2})
        assert (answer.status_code, answer.text) == (200, "two\nthree\n")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        at = answer.headers["x-nebula-log-position"]
        nothing = await http.get(LOGS, params={"after": at})
        assert (nothing.text, nothing.headers["x-nebula-log-position"]) == ("", at)
        write(file, "four\nfi")
        more = await http.get(LOGS, params={"after": at})
        assert more.text == "four\n"
        write(file, "ve\n")
        rest = await http.get(LOGS, params={"after": more.headers["x-nebula-log-position"]})
        assert rest.text == "five\n"


async def test_secrets_and_control_characters_are_not_shown(cluster: Cluster) -> None:
    write(await log_file(cluster), f"token={SECRET} \x1b[31mred\x1b[0m\n")
    async with cluster.http() as http:
        text = (await http.get(LOGS, params={"tail": 1})).text
    assert SECRET not in text
    assert text.endswith(" red\n")


async def test_a_secret_that_comes_in_two_parts_is_masked(cluster: Cluster) -> None:
    file = await log_file(cluster)
    async with (
        cluster.http() as http,
        http.stream("GET", LOGS, params={"tail": 1, "follow": "true"}) as answer,
    ):
        parts = answer.aiter_text()
        write(file, "begun\n")
        await until(parts, "begun")
        write(file, f"token={SECRET[:20]}")
        at = (await http.get(LOGS, params={"tail": 1})).headers["x-nebula-log-position"]
        await http.get(LOGS, params={"after": at})
        write(file, f"{SECRET[20:]}\nended\n")
        text = await until(parts, "ended")
    assert SECRET[:20] not in text
    assert SECRET[20:] not in text


async def test_a_stream_of_text_goes_on_with_the_log(cluster: Cluster) -> None:
    file = await log_file(cluster)
    async with (
        cluster.http() as http,
        http.stream("GET", LOGS, params={"follow": "true"}) as answer,
    ):
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        parts = answer.aiter_text()
        for word in ("alpha", "beta"):
            write(file, f"{word}\n")
            await until(parts, f"{word}\n")


async def test_a_browser_gets_events_and_goes_on_after_the_last(cluster: Cluster) -> None:
    file = await log_file(cluster)
    events = {"accept": "text/event-stream"}
    async with cluster.http() as http:
        async with http.stream("GET", LOGS, params={"follow": "true"}, headers=events) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            parts = answer.aiter_text()
            write(file, "first\nsecond\n")
            got = (await until(parts, "second")).replace("\r\n", "\n")
        assert "event: lines\n" in got
        position = re.findall(r"^id: (-?\d+)$", got, re.M)[-1]
        write(file, "third\n")
        again = {**events, "last-event-id": position}
        async with http.stream("GET", LOGS, params={"tail": 5}, headers=again) as answer:
            later = await until(answer.aiter_text(), "third")
    assert "second" not in later


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"tail": "0"}, "tail"),
        ({"tail": "10001"}, "tail"),
        ({"tail": "many"}, "tail"),
        ({"after": "1e3"}, "after"),
        ({"after": "9" * 20}, "after"),
        ({"after": "5", "tail": "5"}, "tail"),
        ({"follow": "yes"}, "follow"),
        ({"since": "5m"}, "since"),
    ],
)
async def test_a_bad_query_is_a_400_that_names_it(
    cluster: Cluster, query: dict[str, str], param: str
) -> None:
    async with cluster.http() as http:
        answer = await http.get(LOGS, params=query)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_an_unknown_replica_is_a_404_that_lists_those_there_are(cluster: Cluster) -> None:
    async with cluster.http() as http:
        answer = await http.get("/admin/replicas/none/logs")
    assert answer.status_code == 404
    assert "chat-0" in answer.json()["error"]["message"]


async def test_clients_that_go_leave_room_for_others(cluster: Cluster) -> None:
    async with cluster.http() as http:
        for _ in range(40):
            async with http.stream("GET", LOGS, params={"follow": "true"}) as answer:
                assert answer.status_code == 200, await answer.aread()

        async def free() -> bool:
            async with http.stream("GET", LOGS, params={"follow": "true"}) as answer:
                return answer.status_code == 200

        await cluster.poll(free, "the streams of clients that went have ended")


async def test_too_many_followers_are_refused(cluster: Cluster) -> None:
    async with cluster.http() as http:
        streams = [
            await http.send(http.build_request("GET", LOGS, params={"follow": "true"}), stream=True)
            for _ in range(40)
        ]
        refused = [each for each in streams if each.status_code == 503]
        assert refused
        assert refused[0].headers["retry-after"] == "5"
        for each in streams:
            await each.aclose()


async def test_a_key_that_may_only_look_does_not_see_logs(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.variables["NEBULA_OPEN"] = ""
    cluster.up()
    await cluster.take_key()
    await cluster.ready()
    await cluster.load("chat")
    async with cluster.http() as http:
        for scope, status in (("view", 403), ("operate", 200)):
            made = await http.post("/admin/keys", json={"id": scope, "scopes": [scope]})
            key = {"authorization": f"Bearer {made.json()['secret']}"}
            assert (await http.get(LOGS, headers=key)).status_code == status
    assert cluster.violations() == []


async def test_a_node_that_is_away_is_a_503_and_ends_a_stream(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat")
    events = {"accept": "text/event-stream"}
    async with cluster.http() as http:
        async with http.stream("GET", LOGS, headers=events) as answer:
            cluster.kill("node")
            text = await until(answer.aiter_text(), "event: error")
        assert "node 'here' does not answer" in text
        answer = await http.get(LOGS)
    assert answer.status_code == 503
    assert "does not answer" in answer.json()["error"]["message"]


async def test_a_stream_ends_with_its_gateway(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat")
    async with cluster.http() as http:
        request = http.build_request("GET", LOGS, params={"follow": "true"})
        answer = await http.send(request, stream=True)
        try:
            assert cluster.stop("gateway") == 0
            async for _ in answer.aiter_text():
                pass
        except httpx.RemoteProtocolError as error:
            raise AssertionError("the stream was cut off") from error
        finally:
            await answer.aclose()
