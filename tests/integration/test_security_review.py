"""The fifteen findings of a security review, each tried again on a cluster as it starts by itself.

No option and no variable makes it safer than `nebula up` is for anyone: inference is open on this
machine, the rest needs a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nats
import psutil
import pytest

from nebula.actors.node import identity
from nebula.events import envelope, subjects
from nebula.events.envelope import PRIORITY, REQUEST, USER
from nebula.events.inference import Request
from nebula.events.intents import ModelUnloadRequested
from nebula.events.vocabulary import EngineStarted, EventRejected
from nebula.store import credentials
from nebula.store.connection import Connection
from nebula.store.inference_log import read
from nebula.store.server import binary
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import Cluster
from tests.integration.test_reaching_nats import certificate
from tests.ports import free_port

pytestmark = pytest.mark.anyio

PATIENCE = 30.0
EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a chat model, started as its users start it."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    cluster.variables["NEBULA_OPEN"] = ""
    try:
        asyncio.run(begun(cluster))
        yield cluster
    finally:
        cluster.close()


async def begun(cluster: Cluster) -> None:
    cluster.up()
    await cluster.take_key()
    await cluster.ready()
    await cluster.load("chat", memory="64MiB")


def client(cluster: Cluster, key: str = "", **headers: str) -> httpx.AsyncClient:
    """Return a client with a key of its own, or with none."""
    mine = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{cluster.port}",
        headers={**mine, **headers},
        timeout=PATIENCE,
        trust_env=False,
    )


async def issued(cluster: Cluster, **rights: Any) -> str:
    """Issue a key and return its text."""
    async with cluster.http() as http:
        answer = await http.post("/admin/keys", json=rights)
    assert answer.status_code == 201, answer.text
    text: str = answer.json()["secret"]
    return text


async def refused_by_nats(
    cluster: Cluster, role: str, *, publish: tuple[str, ...] = (), listen: tuple[str, ...] = ()
) -> None:
    """Wait until NATS has refused a role all of these subjects."""
    refused: set[str] = set()
    more = asyncio.Condition()

    async def refuse(found: Exception) -> None:
        async with more:
            refused.update(re.findall(r'permissions violation.* "([^"]+)"', str(found).lower()))
            more.notify_all()

    wanted = {subject.lower() for subject in (*publish, *listen)}
    connection = await nats.connect(cluster.url(role), error_cb=refuse)
    for subject in publish:
        await connection.publish(subject, b"{}")
    for subject in listen:
        await connection.subscribe(subject)
    async with more:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(more.wait_for(lambda: refused >= wanted), PATIENCE)
    await connection.close()
    assert refused == wanted, role


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": EVIL, "content-type": "text/plain"}, 403),
        ({"origin": "null", "content-type": "application/x-www-form-urlencoded"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"host": "evil.example:8000"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
    ],
)
async def test_1_a_web_page_asks_for_nothing(
    usual: Cluster, headers: dict[str, str], status: int
) -> None:
    """Any web page could load a model, or read the state by a name that leads to this machine.

    It may not even where the browser has the admin key.
    """
    load = {"id": "pwn", "source": "attacker/model", "options": {"trust-remote-code": True}}
    async with usual.http() as http:
        posted = await http.post("/admin/models", content=json.dumps(load), headers=headers)
        assert error(posted, status)["type"] == "permission_error"
        assert error(await http.get("/admin/state", headers=headers), status)
        assert "pwn" not in [each["id"] for each in (await http.get("/admin/models")).json()]
    async with client(usual) as stranger:
        assert error(await stranger.post("/admin/models", json=load), 401)


async def test_2_nats_needs_a_role_and_an_engine_may_only_answer(
    usual: Cluster,
) -> None:
    """Everyone that reached NATS could read all prompts and run code, and so could engines."""
    address = usual.nats_url.removeprefix("nats://")
    for url in (f"nats://{address}", f"nats://admin:admin@{address}"):
        with pytest.raises(nats.errors.Error, match="Authorization Violation"):
            await nats.connect(url, allow_reconnect=False)
    engine = await usual.engine("chat-0")
    told = psutil.Process(engine.pid).environ()["NEBULA_NATS_URL"]
    assert told.endswith("roles/engine.json")
    forbidden = (
        "nebula.events.model.evil.ModelLoadRequested",
        "nebula.inference.requests.chat",
        "nebula.status.node.here",
        "$JS.API.STREAM.DELETE.NEBULA_EVENTS",
        "$JS.API.CONSUMER.CREATE.NEBULA_INFERENCE",
    )
    foreign = ("nebula.inference.>", "nebula.inference.requests.*", "_INBOX.>", ">")
    await refused_by_nats(usual, "engine", publish=forbidden, listen=foreign)


LOADS: list[dict[str, Any]] = [
    {"options": {"trust-remote-code": True}},
    {"options": {"Trust_Remote_Code": True}},
    {"options": {"chat-template": "/etc/passwd"}},
    {"options": {"hf-overrides": {"auto_map": {"AutoModel": "x.Y"}}}},
    {"options": {"worker-cls": "evil.Worker"}},
    {"env": {"HF_ENDPOINT": "http://127.0.0.1:9999"}},
    {"env": {"LD_PRELOAD": "/tmp/x.so"}},
    {"env": {"https_proxy": "http://127.0.0.1:9999"}},
    {"env": {"VLLM_SERVER_DEV_MODE": "1"}},
    {"env": {"VLLM_PLUGINS": "evil"}},
    {"source": "/etc"},
    {"source": "../../etc"},
    {"source": "file:///etc"},
    {"source": "http://169.254.169.254/latest"},
]


async def test_3_a_load_request_brings_no_code_no_files_and_no_addresses(usual: Cluster) -> None:
    """A load request was arbitrary code on a node, and could send its HF_TOKEN elsewhere."""
    names = [f"bad-{number}" for number in range(len(LOADS))]
    async with usual.http() as http:
        for name, wish in zip(names, LOADS, strict=True):
            body = {"id": name, "source": "simulated", "memory": "1MiB", **wish}
            assert (await http.post("/admin/models", json=body)).status_code == 202
        own = {"id": "bad", "source": "simulated", "env": {"VLLM_API_KEY": "x"}}
        error(await http.post("/admin/models", json=own), 400)

        async def told(name: str) -> str:
            model = (await http.get(f"/admin/models/{name}")).json()
            return json.dumps(model)

        for name in names:

            async def refused(name: str = name) -> bool:
                return "policy does not allow" in await told(name)

            await usual.poll(refused, f"{name} is refused")
        replicas = {process.environ()["NEBULA_REPLICA"] for process in usual.engine_processes()}
        assert not replicas & {f"{name}-0" for name in names}
        for name in names:
            assert (await http.delete(f"/admin/models/{name}")).status_code == 202


async def test_4_one_bad_event_holds_up_no_placement(usual: Cluster) -> None:
    """An event whose rejection was too large for NATS ended all placement for good."""
    bodies = (
        b'{"source":"m","options":{"' + b"\x7f" * 1_700_000 + b'":1}}',
        b'{"source":"m","env":{"' + "\u200b".encode() * 1_250_000 + b'":""}}',
        b'{"source":"m","' + b"a" * 4_000_000 + b'":1}',
    )
    for number, body in enumerate(bodies):
        await usual.publish(f"nebula.events.model.huge-{number}.ModelLoadRequested", body)
    await usual.load("after", memory="1MiB")
    await usual.until(lambda state: not state.rejections, "the bad events are answered")
    answers = [each.content for each in await usual.records(EventRejected)]
    assert len([each for each in answers if "huge-" in str(each)]) == len(bodies)
    assert all(len(str(each)) < 10_000 for each in answers)
    async with usual.http() as http:
        assert (await http.delete("/admin/models/after")).status_code == 202


async def test_5_a_revoked_user_is_told_of_and_comes_back(own_cluster: Cluster) -> None:
    """An error of NATS on a living connection made an actor a silent zombie for ever."""
    cluster, port = own_cluster, free_port()
    config = cluster.folder / "nats.conf"

    def reload(password: str) -> None:
        user = f"{{user: u, password: {password}}}"
        config.write_text(
            f'listen: "127.0.0.1:{port}"\nmax_payload: 8MB\n'
            f'jetstream {{ store_dir: "{cluster.folder}/jetstream" }}\n'
            f"authorization {{ users: [ {user} ] }}\n"
        )

    reload("good")
    cluster.program("server", binary(), "-c", str(config))
    file = cluster.folder / "url"
    file.write_text(f"nats://u:good@127.0.0.1:{port}")
    cluster.variables["NEBULA_NATS_URL"] = f"file:{file}"
    cluster.nats_url = f"file:{file}"
    cluster.start("router")
    cluster.start("gateway")
    await cluster.ready()
    reload("changed")
    os.kill(cluster.pid("server"), signal.SIGHUP)
    async with cluster.http() as http:

        async def told() -> bool:
            answer = await http.get("/ready")
            return answer.status_code == 503 and "refuses the user" in answer.text

        await cluster.poll(told, "the gateway says that it is not let in")
    file.write_text(f"nats://u:changed@127.0.0.1:{port}")
    await cluster.ready()
    assert "refuses the user or password" in cluster.output("gateway")
    assert "good@" not in cluster.output("gateway")


async def test_5_a_server_that_is_not_trusted_ends_the_start(
    own_cluster: Cluster,
) -> None:
    """With a certificate that was not trusted a process hung at its start and said nothing."""
    folder, port = own_cluster.folder, free_port()
    certificate(folder)
    config = folder / "nats.conf"
    files = f'cert_file: "{folder}/cert.pem", key_file: "{folder}/key.pem"'
    config.write_text(f'listen: "127.0.0.1:{port}"\ntls {{ {files} }}\n')
    own_cluster.program("server", binary(), "-c", str(config))

    async def listens() -> bool:
        return "Server is ready" in own_cluster.output("server")

    await own_cluster.poll(listens, "the server is ready")
    told = await own_cluster.nebula("models", nats=f"tls://127.0.0.1:{port}")
    assert told.code == 78
    assert "certificate" in told.err


@pytest.mark.parametrize("part", [b"x: " + b"b" * 50_000 + b"\r\n", b"x: b\r\n", b"x" * 60_000])
async def test_6_a_head_without_end_is_cut_off(usual: Cluster, part: bytes) -> None:
    """180 MB of headers on one connection filled the gateway's memory."""
    gateway = psutil.Process(usual.pid("gateway"))
    before = gateway.memory_info().rss
    reader, writer = await asyncio.open_connection("127.0.0.1", usual.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
    answered = asyncio.create_task(reader.read(1000))
    with contextlib.suppress(ConnectionError):
        for _ in range(3000):
            if answered.done():
                break
            writer.write(part * (60_000 // len(part)))
            await asyncio.wait_for(writer.drain(), PATIENCE)
    answer = await asyncio.wait_for(answered, PATIENCE)
    writer.close()
    assert answer.split(b" ")[1] == b"431"
    assert gateway.memory_info().rss - before < 30 << 20


async def test_6_a_url_without_end_is_refused(usual: Cluster) -> None:
    """A URL had no limit either."""
    reader, writer = await asyncio.open_connection("127.0.0.1", usual.port)
    writer.write(b"GET /v1/models?" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    assert answer.split(b" ")[1] == b"414"


async def test_7_an_engine_is_known_by_what_no_clock_changes(usual: Cluster) -> None:
    """A step of the clock by a second killed all adopted engines.

    What the log says of an engine's birth is the boot and the kernel's ticks.
    """
    [started] = await usual.records(EngineStarted, identity="chat-0")
    assert isinstance(started.content, EngineStarted)
    pid = started.content.pid
    assert started.content.birth == identity.birth(pid) == birth(pid)


def birth(pid: int) -> str:
    """Return the boot's id and the ticks from it to the start of a process."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{ticks}"


async def test_8_an_answer_belongs_to_its_asker(usual: Cluster) -> None:
    """Guessing a key was enough to read an answer, and large requests pushed answers out."""
    mine, yours = await issued(usual), await issued(usual)
    order = {"Idempotency-Key": "order-1"}
    async with client(usual, mine) as http:
        first = await http.post(CHAT, json=chat("chat", "mine"), headers=order)
        made = first.headers["x-request-id"]
        resumable = {"X-Resumable": "true"}
        stream = await http.post(CHAT, json=chat("chat", stream=True), headers=resumable)
        kept = stream.headers["x-request-id"]
        assert (await http.get(f"/v1/streams/{kept}")).status_code == 200
    for other in ("", "none", yours):
        async with client(usual, other) as http:
            guesses = ("5b6026842d39d3bcb3adf3472dd5fbbd", "6ac51228d1ed883619e0eca174c24f62")
            for guess in (made, kept, *guesses):
                error(await http.get(f"/v1/streams/{guess}"), 404)
            theirs = await http.post(CHAT, json=chat("chat", "theirs"), headers=order)
            assert "mine" not in said(theirs)
            assert theirs.headers["x-request-id"] != made
            for number in range(9):
                body = chat("chat", "x" * 1_000_000, max_tokens=1)
                large = {"Idempotency-Key": f"large-{number}"}
                assert (await http.post(CHAT, json=body, headers=large)).status_code == 200
    async with client(usual, mine) as http:
        again = await http.post(CHAT, json=chat("chat", "mine"), headers=order)
        assert (again.content, again.headers["x-request-id"]) == (first.content, made)


async def test_9_a_secret_is_in_no_log_and_no_file_of_others(usual: Cluster) -> None:
    """Tokens of load requests stayed in the log for ever, and files were open to all users."""
    token = "hf_" + "SeCrEt" * 6
    wishes: tuple[dict[str, Any], ...] = (
        {"env": {"HF_TOKEN": token}},
        {"env": {"hf_token": token}},
        {"env": {"SOME": token}},
        {"options": {"hf-token": token}},
        {"options": {"hf_token": token}},
        {"options": {"default-chat-template-kwargs": {"a": [token]}}},
        {"source": f"https://user:{token}@example.com/model"},
    )
    async with usual.http() as http:
        for number, wish in enumerate(wishes):
            body = {"id": f"leak-{number}", "source": "simulated", "replicas": 0, **wish}
            answer = await http.post("/admin/models", json=body)
            assert answer.status_code == 400, (wish, answer.text)
            assert token not in answer.text
    exported = await usual.nebula("export", "--secrets", "-")
    assert exported.code == 0
    assert token not in exported.out
    passwords = [
        json.loads(file.read_text())["password"]
        for file in (usual.folder / "home" / "nats" / credentials.FOLDER).iterdir()
    ]
    secrets = [token, usual.key, *passwords]
    for log in usual.folder.rglob("*.log"):
        text = log.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text], log


async def test_10_a_key_of_one_change_swallows_no_other(usual: Cluster) -> None:
    """The same idempotency key for two changes answered 202 twice, and the second was lost."""
    key = {"Idempotency-Key": "deploy-42"}
    load = {"id": "twice", "source": "simulated", "replicas": 0}
    async with usual.http() as http:
        first = await http.post("/admin/models", json=load, headers=key)
        assert first.status_code == 202
        again = await http.post("/admin/models", json=load, headers=key)
        assert again.json()["seq"] == first.json()["seq"]
        for other in (
            await http.delete("/admin/models/twice", headers=key),
            await http.patch("/admin/models/twice", json={"replicas": 2}, headers=key),
            await http.post("/admin/models", json={**load, "id": "other"}, headers=key),
        ):
            assert error(other, 422)["code"] == "idempotency_key_reused"
        taken = {"Idempotency-Key": f"rejected-{first.json()['seq'] + 2}"}
        scaled = await http.patch("/admin/models/twice", json={"replicas": 0}, headers=taken)
        assert scaled.status_code == 202
    reason = await usual.publish_rejected("nebula.events.model.bad.ModelLoadRequested", b"garbage")
    assert reason
    async with usual.http() as http:
        assert (await http.delete("/admin/models/twice")).status_code == 202
    assert await usual.records(ModelUnloadRequested, identity="twice")


async def test_11_priority_and_share_are_what_a_key_allows(usual: Cluster) -> None:
    """Any client could go before all others, or be a new user with each request."""
    own = await issued(usual, limits={"priority": [0, 9]})
    for key in ("", "any", own):
        async with client(usual, key) as http:
            answer = await http.post(CHAT, json=chat("chat", priority=-999_999_999))
        request = await sent(usual, answer.headers["x-request-id"])
        assert request["priority"] == 0
        assert PRIORITY not in request["headers"]
        assert request["headers"].get(USER, "").startswith("key:") is (key == own)
    limited = await issued(usual, limits={"in_flight": 1, "requests_per_minute": 2})
    async with client(usual, limited) as http:
        statuses = [(await http.post(CHAT, json=chat("chat"))).status_code for _ in range(5)]
    assert statuses.count(200) in (2, 4)  # a minute may have ended meanwhile
    assert 429 in statuses


async def sent(cluster: Cluster, request: str) -> dict[str, Any]:
    """Return the body that an engine got of a request, and its headers."""
    async with cluster.joined() as projection:
        there = read(projection.log.connection, [subjects.replica_requests("chat", "*")])
        found = [each async for each in there if each.headers[REQUEST] == request]
    return {**json.loads(found[0].body), "headers": found[0].headers}


async def test_12_what_the_log_keeps_is_bounded(usual: Cluster) -> None:
    """Intents of megabytes stayed in the log and in all actors; reading it had no limit."""
    async with usual.http() as http:
        for more in (
            {"labels": {str(number): "x" * 1000 for number in range(7000)}},
            {"apart": [f"m{number}" for number in range(100_000)]},
            {"env": {f"SOME{number}": "x" for number in range(10_000)}},
            {"options": {"simulate-tokens": "x" * 100_000}},
        ):
            answer = await http.post("/admin/models", json={"id": "l", "source": "m", **more})
            assert answer.status_code in (400, 413), answer.status_code
        scans = await asyncio.gather(
            *(http.get("/admin/events?type=NodeDeregistered&after=0") for _ in range(40))
        )
    assert {each.status_code for each in scans} <= {200, 429, 503}
    store = usual.folder / "home" / "nats" / "nats-server.conf"
    assert "max_file_store" in store.read_text()


async def test_13_a_fact_is_believed_from_its_own_reporter_only(usual: Cluster) -> None:
    """A forged start of an engine had a node end any process, and show any file in the log."""
    facts = (
        "nebula.events.replica.chat-0.EngineStarted",
        "nebula.events.replica.chat-0.EngineStarted.here",
        "nebula.events.replica.chat-0.EngineFailed.elsewhere",
        "$O.NEBULA_SNAPSHOTS.C.x",
    )
    for role in ("engine", "gateway", "viewer"):
        await refused_by_nats(usual, role, publish=facts)
    bystander = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
    try:
        told = {
            "pid": bystander.pid,
            "created": psutil.Process(bystander.pid).create_time(),
            "port": 9,
            "log_file": "/etc/passwd",
            "plan": 1,
            "node": "here",
            "birth": identity.birth(bystander.pid),
        }
        forged = json.dumps(told).encode()
        await usual.publish("nebula.events.replica.chat-0.EngineStarted.here", forged)
        usual.kill("node")
        async with client(usual) as http:

            async def answers() -> bool:
                answer = await http.post(CHAT, json=chat("chat", max_tokens=1))
                return answer.status_code == 200

            await usual.poll(answers, "the model answers")
        assert bystander.returncode is None
        exported = await usual.nebula("export", "-")
        assert "root:x:0" not in exported.out
    finally:
        bystander.kill()
        await bystander.wait()


async def test_13_an_engine_answers_only_paths_for_clients(usual: Cluster) -> None:
    """A message to an engine could name any of its paths, such as those that change adapters."""
    connection = await Connection(usual.url(), "forger").open(patience=PATIENCE)
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    await connection.client.listen(
        subjects.responses("forger", "*"), lambda _, header, body: answers.put_nowait(header + body)
    )
    try:
        for path in ("/v1/unload_lora_adapter", "/v1/../v1/load_lora_adapter", "/metrics"):
            request = Request(uuid.uuid4().hex, "forger", "chat", path, b'{"lora_name":"poet"}')
            connection.client.post(
                subjects.replica_requests("chat", "chat-0"),
                envelope.request_block(request),
                request.body,
            )
            answer = await asyncio.wait_for(answers.get(), PATIENCE)
            assert b"404" in answer
    finally:
        await connection.close()


async def test_14_tenants_share_neither_caches_nor_the_nodes_network(usual: Cluster) -> None:
    """Times told what others had asked; a picture's address was fetched from the node."""
    salts = []
    for tenant in ("red", "red", "blue"):
        async with client(usual, await issued(usual, tenant=tenant)) as http:
            answer = await http.post(CHAT, json={**chat("chat"), "cache_salt": "guessed"})
        assert answer.status_code == 200, answer.text
        request = await sent(usual, answer.headers["x-request-id"])
        salts.append(request.get("cache_salt"))
    assert salts[0] == salts[1] != salts[2]
    assert all(salts)
    assert "guessed" not in salts
    engine = psutil.Process((await usual.engine("chat-0")).pid)
    line = engine.cmdline()
    assert line[line.index("--allowed-media-domains") + 1] == "none.invalid"
    assert engine.environ()["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"


async def test_15_a_second_cluster_and_another_version_do_not_join(usual: Cluster) -> None:
    """Two clusters on one log became one; two versions promised the same memory twice."""
    second = usual.folder / "second"
    line = ("up", "--folder", str(second), "--name", "other", "--port", str(free_port()))
    joins = await usual.nebula(*line, "--nats", usual.url())
    assert joins.code == 78
    assert "--cluster" in joins.err
    other = await usual.nebula("router", "--cluster", "elsewhere", nats=usual.url())
    assert other.code == 78
    assert "not of 'elsewhere'" in other.err
