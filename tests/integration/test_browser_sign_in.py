"""Single sign-on with a browser: the authorization code flow, sessions, and attacks on both."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from tests.integration.cluster import Cluster
from tests.integration.provider import Provider
from tests.ports import free_port

pytestmark = pytest.mark.anyio

LED = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
"""What a browser says that another site's page leads to the gateway."""


@pytest.fixture(scope="module")
def second() -> int:
    """The port of the second gateway."""
    return free_port()


@pytest.fixture(scope="module")
def signing(
    tmp_path_factory: pytest.TempPathFactory, provider: Provider, second: int
) -> Iterator[Cluster]:
    """A cluster with two gateways whose people sign in at the provider with a browser."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    secret = cluster.folder / "client-secret"
    secret.write_text(provider.secret + "\n")
    cluster.variables.update(
        NEBULA_OPEN="none",
        NEBULA_OIDC_ISSUER=provider.issuer,
        NEBULA_OIDC_CLIENT=provider.client,
        NEBULA_OIDC_SECRET_FILE=str(secret),
        NEBULA_OIDC_GRANT="ops=operate,infer red=infer@red",
    )
    for port in (cluster.port, second):
        provider.redirects.add(f"http://127.0.0.1:{port}/login/callback")
    provider.redirects.add("https://llm.example.com/login/callback")

    async def opened() -> None:
        cluster.up("--no-node", "--allowed-host", "llm.example.com")
        await cluster.take_key()
        await cluster.ready()
        cluster.start("gateway-2", "--port", str(second))
        await cluster.ready(second)

    try:
        asyncio.run(opened())
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(autouse=True)
def as_it_was(provider: Provider) -> Iterator[None]:
    """Undo what a test has changed at the provider."""
    claims = dict(provider.claims)
    yield
    provider.claims, provider.changes = claims, {}


def browser(cluster: Cluster, port: int | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port or cluster.port}", timeout=60, trust_env=False
    )


async def departed(http: httpx.AsyncClient, path: str = "/login", **headers: str) -> str:
    """Begin a sign-in and pass the provider; return the address to which it sends the browser."""
    begun = await http.get(path, headers={"sec-fetch-site": "none", **headers})
    assert begun.status_code == 303, begun.text
    async with httpx.AsyncClient(trust_env=False) as elsewhere:
        passed = await elsewhere.get(begun.headers["location"])
    assert passed.status_code == 302, (passed.text, begun.headers["location"])
    return str(passed.headers["location"])


async def signed_in(http: httpx.AsyncClient, path: str = "/login") -> httpx.Response:
    return await http.get(await departed(http, path), headers=LED)


def changed(url: str, **query: str) -> str:
    parts = urlsplit(url)
    found: dict[str, Any] = {**parse_qs(parts.query), **query}
    return parts._replace(query=urlencode(found, doseq=True)).geturl()


async def test_a_person_signs_in_uses_a_session_and_leaves(
    signing: Cluster, provider: Provider
) -> None:
    async with browser(signing) as http:
        own = str(http.base_url).rstrip("/")
        answer = await signed_in(http, "/login?next=/admin/state%3Fat%3D1")
        assert answer.status_code == 200, answer.text
        assert "dana@example.com" in answer.text
        (then,) = re.findall(r"url=([^']+)", answer.text)
        assert then == "/admin/state?at=1"
        told = answer.headers.get_list("set-cookie")
        (session,) = [each for each in told if each.startswith("nebula-key=nbl_person-")]
        assert "HttpOnly" in session
        assert "SameSite=strict" in session
        assert "Path=/" in session
        assert answer.headers["cache-control"] == "no-store"
        assert (await http.get(then)).status_code == 200
        key = http.cookies["nebula-key"]
        assert (await http.post("/logout")).status_code == 403
        assert (await http.get("/admin/state")).status_code == 200
        left = await http.post("/logout", headers={"origin": own})
        assert (left.status_code, left.json()["id"]) == (200, key.split("_")[1])
        assert "nebula-key" not in http.cookies
        assert (await http.get("/admin/state")).status_code == 401
        async with browser(signing) as another:
            refused = await another.get("/admin/state", headers={"x-api-key": key})
        assert refused.json()["error"]["code"] == "key_revoked"
        again = await http.post("/logout", headers={"origin": own, "cookie": f"nebula-key={key}"})
        assert again.json() == {"id": ""}


async def test_any_gateway_takes_the_return_of_any_sign_in(signing: Cluster, second: int) -> None:
    async with browser(signing) as http:
        where = await departed(http)
        # As behind one address of a proxy: what the browser asked for stays, another answers.
        answer = await http.get(
            where.replace(f":{signing.port}/", f":{second}/"),
            headers={**LED, "host": f"127.0.0.1:{signing.port}"},
        )
        assert answer.status_code == 200, answer.text
        assert (await http.get("/admin/state")).status_code == 200


async def test_behind_a_proxy_with_tls_cookies_are_the_host_s_own(
    signing: Cluster, provider: Provider
) -> None:
    proxied = {"host": "llm.example.com", "x-forwarded-proto": "https"}
    async with browser(signing) as http:
        begun = await http.get("/login", headers=proxied)
        assert begun.status_code == 303, begun.text
        (set_cookie,) = begun.headers.get_list("set-cookie")
        assert set_cookie.startswith("__Host-nebula-sign-in=")
        assert "Secure" in set_cookie
        assert "SameSite=lax" in set_cookie
        async with httpx.AsyncClient(trust_env=False) as elsewhere:
            passed = await elsewhere.get(begun.headers["location"])
        back = urlsplit(passed.headers["location"])
        assert (back.scheme, back.netloc) == ("https", "llm.example.com")
        sent = {**proxied, **LED, "cookie": set_cookie.partition(";")[0]}
        answer = await http.get(f"{back.path}?{back.query}", headers=sent)
        assert answer.status_code == 200, answer.text
        (session,) = [
            each
            for each in answer.headers.get_list("set-cookie")
            if each.startswith("__Host-nebula-key=nbl_")
        ]
        http.cookies.clear()
        value = {"cookie": session.partition(";")[0], **proxied}
        assert (await http.get("/admin/state", headers=value)).status_code == 200
        own = {**value, "origin": "https://llm.example.com"}
        assert (await http.post("/logout", headers=own)).status_code == 200


async def test_over_http_from_elsewhere_a_sign_in_is_refused(signing: Cluster) -> None:
    async with browser(signing) as http:
        answer = await http.get("/login", headers={"host": "llm.example.com"})
    assert answer.status_code == 400
    assert "https" in answer.text
    assert "set-cookie" not in answer.headers


async def refused(http: httpx.AsyncClient, where: str, said: str, status: int = 401) -> None:
    answer = await http.get(where, headers=LED)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert "nebula-key" not in http.cookies


async def test_a_return_that_this_browser_has_not_begun_is_refused(
    signing: Cluster, provider: Provider
) -> None:
    before = (await signing.state()).seq
    async with browser(signing) as http, browser(signing) as attacker:
        where = await departed(attacker)
        await refused(http, where, "has not begun")
        await departed(http)
        asked = provider.asked.count("/token")
        await refused(http, where, "has not begun")
        await refused(http, changed(await departed(http), state="x"), "has not begun")
        await refused(http, "/login/callback", "has not begun")
        assert provider.asked.count("/token") == asked
    assert (await signing.state()).seq == before


async def test_a_code_counts_once_and_with_its_own_sign_in_only(
    signing: Cluster, provider: Provider
) -> None:
    before = (await signing.state()).seq
    async with browser(signing) as http, browser(signing) as attacker:
        stolen = parse_qs(urlsplit(await departed(attacker)).query)["code"][0]
        await refused(http, changed(await departed(http), code=stolen), "PKCE")
        await refused(http, changed(await departed(http), code="x"), "invalid_grant")
        await refused(http, changed(await departed(http), iss="https://x.example"), "iss")
        where = await departed(http)
        await refused(http, changed(where, error="access_denied<b>"), "access_denied&lt;b&gt;")
        assert (await signing.state()).seq == before
        assert (await http.get(where, headers=LED)).status_code == 200
    async with browser(signing) as http:
        await signed_in(http)
        http.cookies.delete("nebula-key")
        await refused(http, where, "has not begun")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another nonce": ({"nonce": "x"}, "nonce"),
    "no nonce": ({"nonce": None}, "nonce"),
    "another audience": ({"aud": "nebula-cli"}, "aud"),
    "another issuer": ({"iss": "https://x.example"}, "iss"),
    "expired": ({"exp": 1_700_000_000}, "expired"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_id_token_ends_no_sign_in(
    signing: Cluster, provider: Provider, name: str
) -> None:
    provider.changes, said = WRONG[name]
    before = (await signing.state()).seq
    async with browser(signing) as http:
        await refused(http, await departed(http), said)
    assert (await signing.state()).seq == before


async def test_without_a_group_there_is_no_session(signing: Cluster, provider: Provider) -> None:
    provider.claims = {"sub": "kim", "groups": ["guests"]}
    async with browser(signing) as http:
        await refused(http, await departed(http), "kim is in no group", 403)


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example/", "/\\evil.example"])
async def test_a_sign_in_leads_to_no_other_site(
    signing: Cluster, provider: Provider, wanted: str
) -> None:
    async with browser(signing) as http:
        answer = await signed_in(http, f"/login?{urlencode({'next': wanted})}")
    assert "url=/docs'" in answer.text
    assert "evil" not in answer.text


async def test_a_session_counts_for_no_page_of_another_origin(
    signing: Cluster, provider: Provider
) -> None:
    async with browser(signing) as http:
        assert (await signed_in(http)).status_code == 200
        foreign: tuple[dict[str, str], ...] = (
            {"origin": "https://evil.example"},
            {"origin": f"http://127.0.0.1:{free_port()}"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {},
        )
        for headers in foreign:
            answer = await http.post("/admin/models", json={"source": "x"}, headers=headers)
            assert answer.status_code == 403, (headers, answer.text)
        for headers in foreign[:-1]:
            assert (await http.get("/admin/state", headers=headers)).status_code == 403, headers


async def test_a_provider_that_is_away_is_told_on_the_page(own_cluster: Cluster) -> None:
    away = Provider()
    away.close()
    own_cluster.up(
        *("--no-node", "--oidc-issuer", away.issuer, "--oidc-client", "nebula"),
        *("--oidc-grant", "*=infer"),
    )
    await own_cluster.ready()
    async with browser(own_cluster) as http:
        answer = await http.get("/login")
    assert answer.status_code == 502
    assert "be reached" in answer.text


async def test_a_sign_in_goes_through_a_prefix(own_cluster: Cluster, provider: Provider) -> None:
    provider.redirects.add(f"http://127.0.0.1:{own_cluster.port}/llm/login/callback")
    secret = own_cluster.folder / "client-secret"
    secret.write_text(provider.secret)
    own_cluster.variables["NEBULA_OPEN"] = "none"
    own_cluster.up(
        *("--no-node", "--root-path", "/llm", "--oidc-issuer", provider.issuer),
        *("--oidc-client", provider.client, "--oidc-secret-file", str(secret)),
        *("--oidc-grant", "ops=operate"),
    )
    await own_cluster.take_key()
    await own_cluster.ready()
    async with browser(own_cluster) as http:
        answer = await signed_in(http, "/llm/login")
        assert answer.status_code == 200, answer.text
        assert "url=/llm/docs'" in answer.text
        assert (await http.get("/llm/admin/state")).status_code == 200
