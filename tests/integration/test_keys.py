"""API keys: what each may ask for at every path, and how they begin, change and end."""

import asyncio
import json
import re
import stat
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from nebula.events import subjects
from nebula.events.endpoints import ENDPOINTS
from nebula.events.envelope import REQUEST
from nebula.http.document.entries import ENTRIES
from nebula.store.inference_log import read
from tests.integration.asking import CHAT, chat
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

OPEN = {"/health", "/ready", "/version", "/openapi.json", "/docs", "/login/settings"}
OPEN |= {"/login", "/login/callback", "/login/token", "/logout"}
INCLUDED = {
    "infer": {"infer"},
    "view": {"view"},
    "operate": {"operate", "view"},
    "admin": {"infer", "view", "operate", "admin"},
}
"""What the holder of a key with one scope may ask for, as the manual has it."""


def needed(method: str, path: str) -> str:
    """Return the scope that the manual names for a path; "" for none."""
    if path in OPEN or path.startswith("/console"):
        return ""
    if path.startswith("/v1/organization"):
        return "view"
    if path.startswith(("/admin/keys", "/admin/limits", "/admin/captur")):
        return "admin"
    if path.startswith("/metrics") or path == "/admin/plan":
        return "view"
    if path.endswith("/logs"):
        return "operate"
    if path.startswith("/admin"):
        return "view" if method == "GET" else "operate"
    return "infer"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster as a user starts it, with a chat and an embedding model, and keys of all kinds."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    cluster.variables["NEBULA_OPEN"] = "none"
    try:
        asyncio.run(opened(cluster))
        yield cluster
    finally:
        cluster.close()


async def opened(cluster: Cluster) -> None:
    cluster.up()
    await cluster.take_key()
    await cluster.ready()
    await cluster.load("chat")
    await cluster.load("embed", task="embedding")


async def issued(cluster: Cluster, **rights: Any) -> tuple[str, str]:
    """Issue a key over HTTP; return its id and its text."""
    async with cluster.http() as http:
        answer = await http.post("/admin/keys", json=rights)
    assert answer.status_code == 201, answer.text
    found = answer.json()
    return found["id"], found["secret"]


def client(cluster: Cluster, key: str) -> httpx.AsyncClient:
    """Return a client that sends a key, "" for none."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{cluster.port}", headers=headers, timeout=60, trust_env=False
    )


OPERATIONS = sorted(ENTRIES)


@pytest.mark.parametrize("scope", ["", "infer", "view", "operate", "admin"])
async def test_a_key_opens_every_path_of_its_scope_and_no_other(
    locked: Cluster, scope: str
) -> None:
    key = (await issued(locked, scopes=[scope]))[1] if scope else ""
    async with client(locked, key) as http:
        for operation in OPERATIONS:
            method, _, path = operation.partition(" ")
            wanted = needed(method, path)
            answer = await http.request(method, re.sub(r"\{[^}]+\}", "absent", path))
            told = f"{operation} with {scope or 'no key'}: {answer.status_code} {answer.text[:200]}"
            if not wanted or wanted in INCLUDED.get(scope, ()):
                assert answer.status_code not in (401, 403), told
            else:
                assert answer.status_code == (403 if scope else 401), told
                assert wanted in answer.json()["error"]["message"], told
                assert ("www-authenticate" in answer.headers) is (not scope)


async def test_every_path_that_engines_answer_is_among_them() -> None:
    there = {operation.partition(" ")[2] for operation in OPERATIONS}
    assert set(ENDPOINTS) <= there


@pytest.mark.parametrize(
    "path",
    ["/admin/keys/", "//admin/keys", "/./admin/keys", "/v1/../admin/keys", "/ADMIN/keys",
     "/admin//keys", "/%61dmin/keys", "/admin/keys?x=1", "/admin%2fkeys", "/admin/keys/%20"],
)  # fmt: skip
async def test_no_spelling_of_a_path_goes_around_the_check(locked: Cluster, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", locked.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert answer.split(b" ", 2)[1] in (b"400", b"401", b"404", b"405"), answer[:200]


async def test_the_file_with_the_admin_key_is_its_owner_s_alone(locked: Cluster) -> None:
    path = locked.folder / "home" / "admin.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_same_admin_key_opens_after_a_restart(own_cluster: Cluster) -> None:
    own_cluster.up("--no-node")
    await own_cluster.take_key()
    first = own_cluster.key
    assert await asyncio.to_thread(own_cluster.stop, "up") == 0
    own_cluster.again("up")
    await own_cluster.ready()
    async with own_cluster.http() as http:
        keys = (await http.get("/admin/keys")).json()
    assert (own_cluster.folder / "home" / "admin.key").read_text().strip() == first
    assert len(keys) == 1
    assert keys[0]["state"] == "valid"


async def test_a_key_reaches_the_models_that_it_names_and_no_others(locked: Cluster) -> None:
    _, key = await issued(locked, models=["ch*"])
    openly = openai.AsyncOpenAI(
        api_key=key, base_url=f"http://127.0.0.1:{locked.port}/v1", max_retries=0
    )
    async with openly:
        assert [each.id async for each in openly.models.list()] == ["chat"]
        done = await openly.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "Hi"}], max_tokens=3
        )
        assert done.choices
        with pytest.raises(
            openai.NotFoundError, match=r"'embed' does not exist\. There are: 'chat'"
        ):
            await openly.embeddings.create(model="embed", input="a")
        with pytest.raises(openai.NotFoundError, match="There are: 'chat'"):
            await openly.models.retrieve("embed")


@pytest.mark.parametrize("field", ["authorization", "x-api-key", "api-key"])
async def test_a_key_may_come_in_any_of_the_usual_fields(locked: Cluster, field: str) -> None:
    _, key = await issued(locked)
    async with client(locked, "") as http:
        value = f"Bearer {key}" if field == "authorization" else key
        answer = await http.get("/v1/models", headers={field: value})
    assert answer.status_code == 200


async def test_a_request_with_two_keys_is_refused(locked: Cluster) -> None:
    (_, one), (_, other) = await issued(locked), await issued(locked)
    bearer = [("authorization", f"Bearer {each}") for each in (one, other)]
    async with client(locked, "") as http:
        for fields in (
            bearer,
            bearer[::-1],
            [bearer[0], ("x-api-key", other)],
            [("x-api-key", one), ("x-api-key", other)],
            [("api-key", one), ("x-api-key", other)],
        ):
            answer = await http.get("/v1/models", headers=fields)
            assert answer.status_code == 400, answer.text
        same = [bearer[0], ("x-api-key", one)]
        assert (await http.get("/v1/models", headers=same)).status_code == 200


async def test_what_is_said_of_a_wrong_key_does_not_tell_which_ids_exist(locked: Cluster) -> None:
    identity, key = await issued(locked)
    told = set()
    for wrong in (f"nbl_{identity}_{'x' * 43}", f"nbl_nowhere_{'x' * 43}", key[:-30]):
        async with client(locked, wrong) as http:
            answer = await http.get("/v1/models")
        assert answer.status_code == 401
        told.add(answer.text)
    assert len(told) == 1


async def test_a_revoked_key_opens_nothing_from_then_on(locked: Cluster) -> None:
    identity, key = await issued(locked)
    async with locked.http() as http:
        answer = await http.delete(f"/admin/keys/{identity}")
    assert answer.status_code == 202
    async with client(locked, key) as http:
        answer = await http.get("/v1/models")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "key_revoked"


@pytest.mark.parametrize("change", ["revoked", "other scopes"])
@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/admin/events", "text/event-stream"),
        ("/admin/replicas/chat-0/logs?follow=true", "text/plain"),
        ("/admin/replicas/chat-0/logs", "text/event-stream"),
    ],
)
async def test_a_stream_without_an_end_ends_with_its_key(
    locked: Cluster, path: str, accept: str, change: str
) -> None:
    identity, key = await issued(locked, scopes=["operate"])
    asked = {"accept": accept, "last-event-id": "0"}
    async with (
        client(locked, key) as http,
        http.stream("GET", path, headers=asked) as answer,
        locked.http() as admin,
    ):
        assert answer.status_code == 200
        parts = answer.aiter_text()
        await anext(parts)
        if change == "revoked":
            assert (await admin.delete(f"/admin/keys/{identity}")).status_code == 202
        else:
            rights = {"scopes": ["infer"]}
            assert (await admin.patch(f"/admin/keys/{identity}", json=rights)).status_code == 202
        rest = "".join([part async for part in parts])
    assert ("is revoked" if change == "revoked" else "and this needs ") in rest


async def test_an_expired_key_opens_nothing(locked: Cluster) -> None:
    _, key = await issued(locked, expires="2020-01-01T00:00:00Z")
    async with client(locked, key) as http:
        answer = await http.get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "key_expired")


async def test_a_rotated_key_overlaps_with_its_successor(locked: Cluster) -> None:
    identity, old = await issued(locked, models=["chat"])
    async with locked.http() as http:
        answer = await http.post(f"/admin/keys/{identity}/rotate", json={"overlap": 3600})
        new = answer.json()["secret"]
    for key in (old, new):
        async with client(locked, key) as http:
            models = (await http.get("/v1/models")).json()
        assert [each["id"] for each in models["data"]] == ["chat"]
    async with locked.http() as http:
        newest = (await http.post(f"/admin/keys/{identity}/rotate", json={})).json()["secret"]
    for key, status in ((old, 401), (new, 401), (newest, 200)):
        async with client(locked, key) as http:
            assert (await http.get("/v1/models")).status_code == status


async def test_a_change_leaves_the_other_rights_as_they_are(locked: Cluster) -> None:
    identity, _ = await issued(locked, models=["chat"], tenant="red", limits={"in_flight": 3})
    async with locked.http() as http:
        answer = await http.patch(f"/admin/keys/{identity}", json={"name": "for tests"})
        assert answer.status_code == 202, answer.text
        now = (await http.get(f"/admin/keys/{identity}")).json()
        wrong = await http.patch(f"/admin/keys/{identity}", json={"colour": "red"})
    assert (now["name"], now["models"], now["tenant"]) == ("for tests", ["chat"], "red")
    assert now["limits"]["in_flight"] == 3
    assert wrong.status_code == 400
    assert "colour" in wrong.json()["error"]["message"]


async def test_many_refused_keys_leave_no_trace(locked: Cluster) -> None:
    before = (await locked.state()).seq
    async with client(locked, "") as http:
        for number in range(200):
            secret = f"nbl_scan-{number}_" + "x" * 43
            answer = await http.get("/admin/state", headers={"x-api-key": secret})
            assert answer.status_code == 401
    assert (await locked.state()).seq == before


async def stored_by(http: httpx.AsyncClient) -> dict[str, str]:
    """Store one of everything with a client's key; return the path of each kind."""
    asked = {"model": "chat", "input": "Hello", "max_output_tokens": 5, "background": True}
    response = (await http.post("/v1/responses", json=asked)).json()["id"]
    conversation = (await http.post("/v1/conversations", json={})).json()["id"]
    line = {"custom_id": "1", "method": "POST", "url": CHAT, "body": chat("chat")}
    content = {"file": ("lines.jsonl", json.dumps(line).encode())}
    file = (await http.post("/v1/files", data={"purpose": "batch"}, files=content)).json()["id"]
    batch = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    made = (await http.post("/v1/batches", json=batch)).json()["id"]
    streamed = {**chat("chat"), "stream": True}
    stream = await http.post(CHAT, json=streamed, headers={"X-Resumable": "true"})
    return {
        "response": f"/v1/responses/{response}",
        "conversation": f"/v1/conversations/{conversation}",
        "file": f"/v1/files/{file}",
        "batch": f"/v1/batches/{made}",
        "stream": f"/v1/streams/{stream.headers['x-request-id']}",
    }


async def test_what_one_key_has_stored_is_not_there_for_another(locked: Cluster) -> None:
    (_, mine), (_, yours) = await issued(locked), await issued(locked)
    async with client(locked, mine) as own, client(locked, yours) as other:
        stored = await stored_by(own)
        below = {
            "response": ("POST cancel", "GET input_items", "DELETE"),
            "conversation": ("GET items", "POST", "DELETE"),
            "file": ("GET content", "DELETE"),
            "batch": ("POST cancel",),
            "stream": (),
        }
        for kind, path in stored.items():
            for each in ("GET", *below[kind]):
                method, _, rest = each.partition(" ")
                body: dict[str, Any] | None = {"metadata": {}} if each == "POST" else None
                there = f"{path}/{rest}" if rest else path
                answer = await other.request(method, there, json=body)
                assert answer.status_code == 404, (kind, each, answer.text)
            assert (await own.get(path)).status_code == 200, kind
        for listed in ("files", "batches"):
            assert (await other.get(f"/v1/{listed}")).json()["data"] == []


async def test_keys_that_choose_the_same_idempotency_key_do_not_meet(locked: Cluster) -> None:
    (_, mine), (_, yours) = await issued(locked), await issued(locked)
    headers = {"Idempotency-Key": "monday"}
    async with client(locked, mine) as own, client(locked, yours) as other:
        first = await own.post(CHAT, json=chat("chat"), headers=headers)
        again = await own.post(CHAT, json=chat("chat"), headers=headers)
        assert again.json()["id"] == first.json()["id"]
        others = await other.post(CHAT, json=chat("chat"), headers=headers)
        assert others.status_code == 200
        assert others.json()["id"] != first.json()["id"]


async def test_what_a_key_has_stored_stays_its_own_after_a_rotation(locked: Cluster) -> None:
    identity, key = await issued(locked)
    asked = {"model": "chat", "input": "Hello", "max_output_tokens": 5}
    async with client(locked, key) as http:
        made = (await http.post("/v1/responses", json=asked)).json()["id"]
    async with locked.http() as http:
        new = (await http.post(f"/admin/keys/{identity}/rotate", json={})).json()["secret"]
    async with client(locked, new) as http:
        assert (await http.get(f"/v1/responses/{made}")).status_code == 200


async def test_an_event_tells_whose_it_is(locked: Cluster) -> None:
    identity, key = await issued(locked, scopes=["operate"])
    async with client(locked, key) as http:
        accepted = (await http.patch("/admin/models/chat", json={"replicas": 1})).json()
        page = (await http.get(f"/admin/events?after={accepted['seq'] - 1}&limit=1")).json()
        found = page["events"][0]
        chosen = (await http.get(f"/admin/events?by=key:{identity}&after=0&limit=50")).json()
    assert (found["type"], found["by"]) == ("ModelScaleRequested", f"key:{identity}")
    assert [each["seq"] for each in chosen["events"]] == [accepted["seq"]]
    told = await locked.nebula("events", "--by", f"key:{identity}")
    assert "ModelScaleRequested" in told.out
    assert f"key:{identity}" in told.out


async def test_the_command_line_issues_lists_and_revokes(locked: Cluster) -> None:
    told = await locked.nebula("key", "issue", "colleague", "--model", "chat", "--expires", "30d")
    assert told.code == 0, told.err
    key = told.out.strip()
    async with client(locked, key) as http:
        assert (await http.get("/v1/models")).status_code == 200
    listed = await locked.nebula("key", "list", "--json")
    (mine,) = [each for each in json.loads(listed.out) if each["id"] == "colleague"]
    assert key.startswith(mine["begins"])
    assert key not in listed.out
    over = await locked.nebula("key", "issue", "late", "--expires", "2020-01-01")
    assert over.code == 2
    assert "'2020-01-01' is over" in over.err
    told = await locked.nebula("key", "issue", "script", "--json")
    async with client(locked, json.loads(told.out)["secret"]) as http:
        assert (await http.get("/v1/models")).status_code == 200
    told = await locked.nebula("key", "rotate", "script", "--json")
    async with client(locked, json.loads(told.out)["secret"]) as http:
        assert (await http.get("/v1/models")).status_code == 200
    long = await locked.nebula("key", "rotate", "colleague", "--overlap", "999w")
    assert (long.code, long.out) == (2, "")
    assert "overlap" in long.err
    assert "Traceback" not in long.err
    again = await locked.nebula("key", "issue", "colleague")
    assert (again.code, again.out) == (1, "")
    assert "there is already a key 'colleague'" in again.err
    revoked = await locked.nebula("key", "revoke", "colleague", "--reason", "left")
    assert revoked.code == 0, revoked.err
    story = (await locked.nebula("events", "key/colleague")).out
    assert "key issued" in story
    assert "left" in story
    assert "cli:" in story

    async def refused() -> bool:
        async with client(locked, key) as http:
            return (await http.get("/v1/models")).status_code == 401

    await locked.poll(refused, "the gateway knows of the revocation")


async def test_the_log_never_holds_a_key(locked: Cluster) -> None:
    _, key = await issued(locked)
    exported = await locked.nebula("export", "-")
    assert exported.code == 0
    for secret in (key, locked.key):
        assert secret not in exported.out
        for path in (locked.folder / "home").rglob("*.log"):
            assert secret not in path.read_text(errors="replace"), path


async def test_a_gateway_on_other_addresses_needs_a_key_to_start(own_cluster: Cluster) -> None:
    own_cluster.variables["NEBULA_OPEN"] = ""
    own_cluster.up("--no-node", "--host", "0.0.0.0")
    assert await asyncio.to_thread(own_cluster.ended, "up") == 1
    said = own_cluster.output("up")
    assert "no API key yet" in said
    assert "nebula key issue ID" in said.replace("\n", " ")


async def test_a_gateway_on_other_addresses_starts_once_there_is_a_key(
    own_cluster: Cluster,
) -> None:
    own_cluster.variables["NEBULA_OPEN"] = ""
    own_cluster.up("--no-node")
    await own_cluster.take_key()
    assert await asyncio.to_thread(own_cluster.stop, "up") == 0
    own_cluster.up("--no-node", "--host", "0.0.0.0")
    await own_cluster.ready()
    async with client(own_cluster, "") as http:
        assert (await http.get("/v1/models")).status_code == 401
    async with own_cluster.http() as http:
        assert (await http.get("/v1/models")).status_code == 200


async def test_inference_is_open_on_this_machine_and_administration_is_not(
    own_cluster: Cluster,
) -> None:
    own_cluster.variables["NEBULA_OPEN"] = ""
    own_cluster.up("--no-node")
    await own_cluster.take_key()
    async with client(own_cluster, "") as http:
        assert (await http.get("/v1/models")).status_code == 200
        assert (await http.get("/v1/models", headers={"x-api-key": "none"})).status_code == 200
        assert (await http.get("/admin/state")).status_code == 401
    async with client(own_cluster, "nbl_absent_" + "x" * 43) as http:
        assert (await http.get("/v1/models")).status_code == 401


async def test_a_batch_of_a_revoked_key_gets_errors(locked: Cluster) -> None:
    identity, key = await issued(locked)
    asked = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 400}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": asked}
    lines = [json.dumps({**line, "custom_id": str(number)}) for number in range(200)]
    ours = openai.AsyncOpenAI(api_key=key, base_url=f"http://127.0.0.1:{locked.port}/v1")
    async with ours:
        file = await ours.files.create(
            file=("in.jsonl", "\n".join(lines).encode()), purpose="batch"
        )
        batch = await ours.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    async with locked.http() as http:
        assert (await http.delete(f"/admin/keys/{identity}")).status_code == 202
    state = await locked.until(lambda s: s.batches[batch.id].over, "the batch is over")
    assert state.batches[batch.id].failed > 0


async def salt_sent(cluster: Cluster, request: str) -> str:
    """Return the salt with which a request went to its engine."""
    async with cluster.joined() as projection:
        sent = read(projection.log.connection, [subjects.replica_requests("chat", "*")])
        bodies = [each.body async for each in sent if each.headers[REQUEST] == request]
    return str(json.loads(bodies[0]).get("cache_salt", ""))


async def test_engines_get_a_salt_of_each_tenant(locked: Cluster) -> None:
    seen = []
    for tenant in ("red", "red", "blue", ""):
        _, key = await issued(locked, tenant=tenant)
        async with client(locked, key) as http:
            answer = await http.post(
                "/v1/chat/completions",
                json={"model": "chat", "messages": [{"role": "user", "content": "Hi"}]},
            )
        assert answer.status_code == 200, answer.text
        seen.append(await salt_sent(locked, answer.headers["x-request-id"]))
    assert seen[0] == seen[1] != seen[2]
    assert seen[3] == ""
    assert all(seen[:3])


async def test_the_path_of_a_model_is_shown_to_those_that_may_see_the_cluster(
    locked: Cluster,
) -> None:
    await locked.load("held", source=str(locked.folder / "held"), stands="")
    roots = []
    for scopes in (["infer"], ["infer", "view"]):
        _, key = await issued(locked, scopes=scopes)
        async with client(locked, key) as http:
            roots.append((await http.get("/v1/models/held")).json()["root"])
    assert roots == ["held", str(locked.folder / "held")]


async def test_why_tells_the_events_of_a_key(locked: Cluster) -> None:
    identity, _ = await issued(locked, name="Ann of why")
    assert (await locked.nebula("key", "change", identity, "--scope", "view")).code == 0
    assert (await locked.nebula("key", "revoke", identity, "--reason", "lost")).code == 0
    for reference in (identity, "Ann of why"):
        told = await locked.nebula("why", "key", reference)
        assert told.code == 0, told
        assert f"key {identity} (Ann of why) is revoked: lost" in told.out
        for event in ("key issued", "key changed", "key revoked: lost", "cli:"):
            assert event in told.out, (event, told.out)
    unknown = await locked.nebula("why", "key", "nobody")
    assert unknown.code == 1
    assert "has no key 'nobody'" in unknown.err
