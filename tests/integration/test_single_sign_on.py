"""Single sign-on: people sign in at a provider and get a short-lived key."""

import asyncio
import base64
import hashlib
import hmac
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from nebula.events import key_text
from tests.integration.cluster import Cluster, Told
from tests.integration.provider import Provider

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Cluster]:
    """A cluster without a node whose people sign in at the provider."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    secret = cluster.folder / "client-secret"
    secret.write_text(provider.secret + "\n")
    cluster.variables["NEBULA_OPEN"] = "none"
    cluster.variables["NEBULA_OIDC_CLIENT"] = provider.client
    for name in ("XDG_CONFIG_HOME", "HOME"):
        cluster.variables[name] = str(cluster.folder)
    provider.redirects.add(f"http://127.0.0.1:{cluster.port}/login/callback")

    async def opened() -> None:
        cluster.up(
            "--no-node",
            *("--oidc-issuer", provider.issuer, "--oidc-secret-file", str(secret)),
            *("--oidc-device-client", provider.device_client),
            *("--oidc-grant", "ops=operate,infer", "--oidc-grant", "red=infer@red"),
        )
        await cluster.take_key()
        await cluster.ready()

    try:
        asyncio.run(opened())
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(autouse=True)
def as_it_was(provider: Provider) -> Iterator[None]:
    """Undo what a test has changed at the provider."""
    claims, algorithm = dict(provider.claims), provider.algorithm
    yield
    provider.claims, provider.algorithm = claims, algorithm
    provider.changes, provider.answers = {}, ["authorization_pending"]


def client(cluster: Cluster, key: str = "") -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{cluster.port}", headers=headers, timeout=60, trust_env=False
    )


async def handed_in(cluster: Cluster, token: str) -> httpx.Response:
    async with client(cluster) as http:
        return await http.post("/login/token", json={"id_token": token})


async def command(cluster: Cluster, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Run a command as a user with a configuration of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(cluster.folder / "config"))
    return await cluster.nebula(*arguments, "--gateway", f"http://127.0.0.1:{cluster.port}")


def kept(path: Path) -> tuple[int, str]:
    """Return the permissions of a file, and what it holds."""
    return stat.S_IMODE(path.stat().st_mode), path.read_text().strip()


def code_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


async def test_a_person_signs_in_from_a_terminal_and_out_again(
    signing: Cluster, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await command(signing, "login", monkeypatch=monkeypatch)
    assert told.code == 0, told.err
    assert "WDJB-MJHT" in told.err
    assert "dana@example.com" in told.err
    path = Path(told.out.strip())
    mode, key = kept(path)
    assert mode == 0o600
    assert key not in told.out + told.err
    async with client(signing, key) as http:
        assert (await http.get("/admin/state")).status_code == 200
        assert (await http.get("/v1/models")).status_code == 200
        assert (await http.get("/admin/keys")).status_code == 403
    async with signing.http() as http:
        (mine,) = [
            each
            for each in (await http.get("/admin/keys")).json()
            if each["id"] == key_text.identity_in(key)
        ]
        events = (await http.get("/admin/events?type=KeyIssued&limit=50")).json()["events"]
    assert (mine["name"], mine["scopes"]) == ("dana@example.com", ["infer", "operate"])
    assert mine["expires"]
    assert {each["by"] for each in events if each["id"] == mine["id"]} == {
        "person:dana@example.com"
    }
    left = await command(signing, "logout", monkeypatch=monkeypatch)
    assert left.code == 0, left.err
    assert not await asyncio.to_thread(path.exists)
    async with client(signing, key) as http:
        refused = await http.get("/v1/models")
    assert (refused.status_code, code_of(refused)) == (401, "key_revoked")
    again = await command(signing, "logout", monkeypatch=monkeypatch)
    assert again.code == 1
    assert "no sign-in" in again.err


async def test_a_person_who_refuses_gets_no_key(
    signing: Cluster, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.answers = ["authorization_pending", "access_denied"]
    before = (await signing.state()).seq
    told = await command(signing, "login", monkeypatch=monkeypatch)
    assert (told.code, told.out) == (1, "")
    assert "refused" in told.err
    assert (await signing.state()).seq == before


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_groups_decide_what_a_person_may_do(
    signing: Cluster, provider: Provider, algorithm: str
) -> None:
    provider.algorithm = algorithm
    provider.claims = {"sub": "robin", "groups": ["red", "other"]}
    answer = await handed_in(signing, provider.id_token(provider.device_client))
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert (told["name"], told["rights"]["tenant"], told["rights"]["scopes"]) == (
        "robin",
        "red",
        ["infer"],
    )


WRONG: dict[str, dict[str, Any]] = {
    "another audience": {"aud": "another"},
    "several audiences, and made for another": {"aud": ["nebula-cli", "x"], "azp": "x"},
    "several audiences, and nobody named": {"aud": ["nebula-cli", "x"]},
    "another issuer": {"iss": "https://elsewhere.example"},
    "expired": {"exp": 1_700_000_000},
    "old": {"iat": 1_700_000_000},
    "from the future": {"iat": 9_700_000_000},
    "nobody": {"sub": None},
    "a number for a subject": {"sub": 5},
    "no end": {"exp": None},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_id_token_is_refused_and_leaves_no_trace(
    signing: Cluster, provider: Provider, changes: dict[str, Any]
) -> None:
    provider.changes = changes
    before = (await signing.state()).seq
    answer = await handed_in(signing, provider.id_token(provider.device_client))
    assert (answer.status_code, code_of(answer)) == (401, "not_signed_in"), answer.text
    assert (await signing.state()).seq == before


def part(told: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")


async def test_a_token_that_the_provider_has_not_signed_is_refused(
    signing: Cluster, provider: Provider
) -> None:
    right = provider.id_token(provider.device_client)
    claims = json.loads(base64.urlsafe_b64decode(right.split(".")[1] + "=="))
    key = provider.keys[0]
    public = key.as_pem(private=False)
    head = part({"alg": "HS256", "kid": key.kid, "typ": "JWT"})
    signed = f"{head}.{part(claims)}"
    mac = base64.urlsafe_b64encode(hmac.digest(public, signed.encode(), hashlib.sha256)).decode()
    another = RSAKey.generate_key(2048)
    own = jwt.encode({"alg": "HS256", "kid": "x"}, claims, OctKey.generate_key(256), ["HS256"])
    forged = {
        "none": f"{part({'alg': 'none'})}.{part(claims)}.",
        "the public key as a secret": f"{signed}.{mac.rstrip('=')}",
        "another key": jwt.encode({"alg": "RS256", "kid": key.kid}, claims, another, ["RS256"]),
        "an unknown key": jwt.encode({"alg": "RS256", "kid": "other"}, claims, another, ["RS256"]),
        "a secret": own,
        "changed": f"{right.split('.')[0]}.{part({**claims, 'groups': ['x']})}."
        f"{right.split('.')[2]}",
        "cut": right[:-20],
        "no token": "x",
        "much": "x" * 100_000,
        "not ASCII": "ä.ö.ü",
    }
    before = (await signing.state()).seq
    for name, token in forged.items():
        answer = await handed_in(signing, token)
        assert (answer.status_code, code_of(answer)) == (401, "not_signed_in"), (name, answer.text)
    assert (await signing.state()).seq == before


async def test_a_person_without_a_group_gets_no_key(signing: Cluster, provider: Provider) -> None:
    provider.claims = {"sub": "kim", "groups": ["guests"]}
    before = (await signing.state()).seq
    answer = await handed_in(signing, provider.id_token(provider.device_client))
    assert (answer.status_code, code_of(answer)) == (403, "no_grant")
    assert "kim is in no group" in answer.text
    assert (await signing.state()).seq == before


async def test_an_id_token_leads_to_one_key(signing: Cluster, provider: Provider) -> None:
    provider.claims = {"sub": "lee", "groups": ["ops"]}
    token = provider.id_token(provider.device_client)
    answers = await asyncio.gather(*(handed_in(signing, token) for _ in range(5)))
    assert sorted(each.status_code for each in answers) == [201, 401, 401, 401, 401]
    again = await handed_in(signing, token)
    assert (again.status_code, code_of(again)) == (401, "id_token_used")


async def test_a_person_has_ten_keys_at_most(signing: Cluster, provider: Provider) -> None:
    provider.claims = {"sub": "jo", "groups": ["ops"]}
    keys = []
    for _ in range(12):
        answer = await handed_in(signing, provider.id_token(provider.device_client))
        assert answer.status_code == 201, answer.text
        keys.append(answer.json()["secret"])
    states = []
    for key in keys:
        async with client(signing, key) as http:
            states.append((await http.get("/v1/models")).status_code)
    assert states == [401, 401, *[200] * 10]


async def test_logging_out_revokes_only_what_a_sign_in_has_made(signing: Cluster) -> None:
    async with signing.http() as http:
        answer = await http.post("/logout")
        assert (answer.status_code, code_of(answer)) == (400, "no_session")
        assert (await http.get("/admin/keys")).status_code == 200
    async with client(signing) as http:
        assert (await http.post("/logout")).json() == {"id": ""}


async def test_a_gateway_without_a_provider_says_so(own_cluster: Cluster) -> None:
    own_cluster.up("--no-node")
    await own_cluster.ready()
    async with own_cluster.http() as http:
        for answer in (
            await http.get("/login/settings"),
            await http.post("/login/token", json={"id_token": "x"}),
        ):
            assert (answer.status_code, code_of(answer)) == (404, "no_single_sign_on")


async def test_a_gateway_on_other_addresses_needs_no_key_where_people_sign_in(
    own_cluster: Cluster, provider: Provider
) -> None:
    own_cluster.variables["NEBULA_OPEN"] = ""
    own_cluster.up(
        *("--no-node", "--host", "0.0.0.0", "--oidc-issuer", provider.issuer),
        *("--oidc-client", provider.device_client, "--oidc-grant", "ops=admin"),
    )
    await own_cluster.ready()
    answer = await handed_in(own_cluster, provider.id_token(provider.device_client))
    assert answer.status_code == 201, answer.text
    async with client(own_cluster, answer.json()["secret"]) as http:
        assert (await http.get("/admin/keys")).status_code == 200


async def test_a_provider_that_is_away_is_told_and_not_waited_for(own_cluster: Cluster) -> None:
    away = Provider()
    away.close()
    own_cluster.up(
        *("--no-node", "--oidc-issuer", away.issuer, "--oidc-client", "nebula"),
        *("--oidc-grant", "*=infer"),
    )
    await own_cluster.ready()
    async with own_cluster.http() as http:
        answer = await http.post("/login/token", json={"id_token": away.id_token("nebula")})
    assert (answer.status_code, code_of(answer)) == (502, "provider_failed")
    assert "can't be reached" in answer.text
