"""Single sign-on without a provider: grants, persons' keys, look-ups of keys, the device flow."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import click
import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from nebula.cli.device_flow import GRANT, Authorization, Client, NotLoggedIn, id_token
from nebula.cli.sign_in_options import SignInOptions
from nebula.events.key import Key
from nebula.http.sign_in import persons
from nebula.http.sign_in.fetching import LARGEST, ProviderFailed
from nebula.http.sign_in.grants import Grant, Granted, granted, groups_in, parsed
from nebula.http.sign_in.id_token import checked, key_set
from nebula.http.sign_in.provider import PAUSE, Provider
from nebula.http.sign_in.refusals import NotSignedIn
from nebula.http.sign_in.settings import SignInSettings, safe_url

ISSUER = "https://id.example"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("text", "grant"),
    [
        ("ops=operate", Grant("ops", ("operate",))),
        ("/red team=infer,view@red", Grant("/red team", ("infer", "view"), "red")),
        ("CN=ops,OU=x=infer,infer", Grant("CN=ops,OU=x", ("infer",))),
        ("a@b=admin", Grant("a@b", ("admin",))),
        ("*=infer", Grant("*", ("infer",))),
    ],
)
def test_a_grant_names_a_group_scopes_and_perhaps_a_tenant(text: str, grant: Grant) -> None:
    assert parsed(text) == grant


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("ops", "GROUP="), ("=infer", "GROUP="), ("ops=", "''"), ("ops=root", "'root'"),
     ("ops=infer@", "tenant"), ("ops=infer@a b", "'a b'"), ("ops=infer,@x", "''")],
)  # fmt: skip
def test_a_wrong_grant_is_told_what_is_wrong(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match="not a") as raised:
        parsed(text)
    assert wrong in str(raised.value)


GRANTS = tuple(map(parsed, ("ops=operate,infer", "red=infer@red", "blue=view@blue")))


@pytest.mark.parametrize(
    ("groups", "given"),
    [
        ((), None),
        (("guests", "OPS"), None),
        (("ops",), Granted(("infer", "operate"))),
        (("blue", "red"), Granted(("infer", "view"), "red")),
        (("ops", "blue"), Granted(("infer", "view", "operate"), "blue")),
    ],
)
def test_scopes_of_all_groups_add_up_and_the_first_tenant_counts(
    groups: tuple[str, ...], given: Granted | None
) -> None:
    assert granted(groups, GRANTS) == given


def test_everyone_who_signs_in_is_in_the_group_of_all() -> None:
    assert granted((), [parsed("*=infer")]) == Granted(("infer",))


@pytest.mark.parametrize(
    ("claims", "name", "groups"),
    [
        ({"groups": ["a", 5, "b"]}, "groups", ("a", "b")),
        ({"groups": "a"}, "groups", ("a",)),
        ({"realm": {"roles": ["a"]}}, "realm.roles", ("a",)),
        ({"https://x.example/groups": ["a"]}, "https://x.example/groups", ("a",)),
        ({"groups": {"a": 1}}, "groups", ()),
        ({"realm": ["a"]}, "realm.roles", ()),
        ({}, "groups", ()),
    ],
)
def test_groups_are_found_where_the_claim_leads(
    claims: dict[str, Any], name: str, groups: tuple[str, ...]
) -> None:
    assert groups_in(claims, name) == groups


@pytest.mark.parametrize(
    ("url", "safe"),
    [("https://id.example", True), ("http://127.0.0.1:80/x", True), ("http://localhost", True),
     ("http://[::1]:80", True), ("http://id.example", False), ("ftp://id.example", False),
     ("https://", False), ("x", False), ("https://a@id.example", False), ("http://[::1", False)],
)  # fmt: skip
def test_what_others_could_read_on_the_way_is_not_safe(url: str, safe: bool) -> None:
    assert safe_url(url) is safe


def key(identity: str, issued: int, expires: int = 0, revoked: int = 0) -> Key:
    return Key(
        id=identity, hash="", scopes=("infer",), issued_ns=issued, expires_ns=expires,
        revoked_ns=revoked,
    )  # fmt: skip


def test_a_person_is_one_by_issuer_and_subject_and_a_key_by_token() -> None:
    one, same = (persons.key_id("i", "s", text) for text in ("h.p.1", "h.p.2"))
    another = persons.key_id("i", "s", "h.q.1")
    assert one == same
    assert one != another
    assert one.rpartition("-")[0] == another.rpartition("-")[0]
    assert persons.key_id("i", "t", "h.p.1") != one
    assert persons.of_a_person(one)
    assert not persons.of_a_person("ci")


def test_the_oldest_of_a_person_s_keys_make_room_and_expired_ones_go() -> None:
    ids = [persons.key_id("i", "s", f"h.{number}.x") for number in range(13)]
    keys = {each: key(each, number) for number, each in enumerate(ids)}
    other, gone = persons.key_id("i", "t", "h.a.x"), persons.key_id("i", "t", "h.b.x")
    keys[other], keys[gone] = key(other, 0, expires=5), key(gone, 0, expires=5, revoked=4)
    keys["ci"] = key("ci", 0, expires=5)
    found = persons.surplus(keys, ids[12], now=5)
    assert set(found) == {other, *ids[:3]}
    assert persons.surplus(keys, ids[0], now=4).keys() == set(ids[1:4])


def test_many_expired_keys_go_a_few_at_a_time() -> None:
    ids = [persons.key_id("i", str(number), "h.p.x") for number in range(30)]
    keys = {each: key(each, 0, expires=5) for each in ids}
    found = persons.surplus(keys, persons.key_id("i", "new", "h.p.x"), now=9)
    assert len(found) == persons.EXPIRED_AT_A_TIME


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"sub": "s", "email": "a@b.c", "email_verified": True}, "a@b.c"),
        ({"sub": "s", "email": "a@b.c"}, "s"),
        ({"sub": "s", "email": "a@b.c", "email_verified": False}, "s"),
        ({"sub": "s\n\x1b[31mx"}, "s x"),
    ],
)
def test_a_person_is_called_by_an_address_that_was_verified(
    claims: dict[str, Any], name: str
) -> None:
    assert persons.name_of(claims) == name


def test_the_principal_of_a_sign_in_fits_into_a_header() -> None:
    assert persons.principal("zoë k@x.y") == "person:zo?_k@x.y".replace("_", "?")


@pytest.mark.parametrize("keys", [None, [], "x", {"keys": []}, {"keys": [{"kty": "oct"}, 5]}])
def test_a_key_set_has_to_have_public_keys(keys: Any) -> None:
    with pytest.raises(ValueError, match="no key"):
        key_set(keys)


CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": "c", "sub": "s", "iat": 1000, "exp": 2000}
RSA = RSAKey.generate_key(2048, {"kid": "a"})


def part(told: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")


def proven(token: str, *keys: Any) -> Mapping[str, Any]:
    return checked(token, key_set(KeySet(list(keys)).as_dict(private=False)), ISSUER, "c", 1000)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", RSA),
        ("PS512", RSA),
        ("ES256", ECKey.generate_key("P-256", {"kid": "a"})),
        ("ES384", ECKey.generate_key("P-384", {"kid": "a"})),
        ("EdDSA", OKPKey.generate_key("Ed25519", {"kid": "a"})),
        ("Ed25519", OKPKey.generate_key("Ed25519", {"kid": "a"})),
    ],
    ids=["RS256", "PS512", "ES256", "ES384", "EdDSA", "Ed25519"],
)
def test_the_usual_signatures_with_key_pairs_are_understood(algorithm: str, key: Any) -> None:
    token = jwt.encode({"alg": algorithm, "kid": "a"}, CLAIMS, key, [algorithm])
    assert proven(token, key)["sub"] == "s"
    with pytest.raises(NotSignedIn):
        proven(token[:-8] + "A" * 8, key)


def test_a_key_of_another_kind_checks_no_signature() -> None:
    token = jwt.encode({"alg": "RS256", "kid": "a"}, CLAIMS, RSA, ["RS256"])
    with pytest.raises(NotSignedIn, match="not signed by"):
        proven(token, ECKey.generate_key("P-256", {"kid": "a"}))


def test_a_token_without_a_key_s_id_is_checked_with_the_only_key() -> None:
    token = jwt.encode({"alg": "RS256"}, CLAIMS, RSA, ["RS256"])
    assert proven(token, RSA)["sub"] == "s"
    with pytest.raises(NotSignedIn, match="names no key"):
        proven(token, RSA, ECKey.generate_key("P-256", {"kid": "b"}))


@pytest.mark.parametrize(
    "head",
    [
        {"alg": "RS256", "kid": ["a"]},
        {"alg": "RS256", "kid": {}},
        {"alg": ["RS256"], "kid": "a"},
        {"alg": None, "kid": "a"},
        {"alg": "none", "kid": "a"},
        {"alg": "HS256", "kid": "a"},
        {"alg": "RS256", "kid": "a", "crit": ["b64"], "b64": False},
        {"alg": "RS256", "kid": "a", "crit": 5},
        [],
        5,
    ],
    ids=str,
)
def test_a_header_that_is_not_that_of_a_token_proves_nothing(head: object) -> None:
    rest = jwt.encode({"alg": "RS256", "kid": "a"}, CLAIMS, RSA, ["RS256"]).partition(".")[2]
    with pytest.raises(NotSignedIn):
        proven(f"{part(head)}.{rest}", RSA)


def test_a_header_of_many_levels_proves_nothing() -> None:
    deep = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 20_000).decode().rstrip("=")
    with pytest.raises(NotSignedIn, match="not an ID token"):
        proven(f"{deep}.e30.x", RSA)


class Web:
    """A provider that answers within the process."""

    def __init__(self) -> None:
        self.keys: list[Any] = [RSAKey.generate_key(2048, {"kid": "a"})]
        self.asked: list[str] = []
        self.polls: list[dict[str, Any]] = []
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        self.document: dict[str, Any] = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/authorize",
            "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/keys",
            "device_authorization_endpoint": f"{ISSUER}/device",
        }

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(path)
        if path == "/keys":
            return httpx.Response(200, json=dict(KeySet(self.keys).as_dict(private=False)))
        if path == "/device":
            told: dict[str, Any] = {"device_code": "d", "user_code": "u", "verification_uri": "v"}
            return httpx.Response(200, json={**told, "expires_in": 60, "interval": 5})
        if path == "/token":
            assert GRANT.rpartition(":")[2] in request.content.decode()
            told = self.polls.pop(0)
            return httpx.Response(400 if "error" in told else 200, json=told)
        return httpx.Response(200, json=self.document)

    def token(self, **claims: Any) -> str:
        now = int(time.time())
        all_of_them = {"iss": ISSUER, "aud": "c", "sub": "s", "iat": now, "exp": now + 60, **claims}
        key = self.keys[-1]
        algorithm = "RS256" if isinstance(key, RSAKey) else "ES256"
        return jwt.encode({"alg": algorithm, "kid": key.kid}, all_of_them, key, [algorithm])


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.anyio
async def test_a_new_key_of_the_provider_is_looked_up_but_not_at_every_request() -> None:
    web, clock = Web(), Clock()
    provider = Provider(SignInSettings(issuer=ISSUER, client="c"), web.client, clock)
    assert (await provider.checked(web.token(), "c"))["sub"] == "s"
    web.keys.append(ECKey.generate_key("P-256", {"kid": "b"}))
    assert (await provider.checked(web.token(), "c"))["sub"] == "s"
    assert web.asked.count("/keys") == 2
    web.keys.append(ECKey.generate_key("P-256", {"kid": "c"}))
    for _ in range(5):
        with pytest.raises(NotSignedIn, match="no key"):
            await provider.checked(web.token(), "c")
    assert web.asked.count("/keys") == 2
    clock.now += PAUSE
    assert (await provider.checked(web.token(), "c"))["sub"] == "s"
    assert web.asked.count("/.well-known/openid-configuration") == 1


@pytest.mark.anyio
async def test_a_nonce_has_to_be_repeated() -> None:
    web = Web()
    provider = Provider(SignInSettings(issuer=ISSUER, client="c"), web.client)
    for claims in ({}, {"nonce": "other"}, {"nonce": 5}):
        with pytest.raises(NotSignedIn, match="nonce"):
            await provider.checked(web.token(**claims), "c", "mine")
    assert await provider.checked(web.token(nonce="mine"), "c", "mine")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"issuer": "https://evil.example"}, "issuer"),
        ({"jwks_uri": "http://id.example/keys"}, "jwks_uri"),
        ({"token_endpoint": None}, "discovery document"),
        ({"more": "x" * LARGEST}, "bytes"),
    ],
)
@pytest.mark.anyio
async def test_a_discovery_document_is_bounded_and_of_its_issuer(
    changes: dict[str, Any], said: str
) -> None:
    web = Web()
    web.document.update(changes)
    provider = Provider(SignInSettings(issuer=ISSUER, client="c"), web.client)
    with pytest.raises(ProviderFailed, match=said):
        await provider.metadata()


async def flow(web: Web) -> tuple[str, list[float]]:
    pauses: list[float] = []
    told: list[Authorization] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    token = await id_token(web.client, Client(ISSUER, "c", "openid"), told.append, sleep)
    assert [each.user_code for each in told] == ["u"]
    return token, pauses


@pytest.mark.anyio
async def test_the_device_flow_asks_as_often_as_the_provider_says() -> None:
    web = Web()
    slow, pending = {"error": "slow_down"}, {"error": "authorization_pending"}
    web.polls = [pending, slow, pending, {"id_token": "t"}]
    assert await flow(web) == ("t", [5.0, 5.0, 10.0, 10.0])


@pytest.mark.parametrize(
    ("polls", "said"),
    [
        ([{"error": "access_denied"}], "refused"),
        ([{"error": "expired_token"}], "expired"),
        ([{"error": "authorization_pending"}] * 12, "expired"),
        ([{"error": "invalid_client", "error_description": "who?"}], "who"),
        ([{"access_token": "a"}], "fails: status"),
    ],
)
@pytest.mark.anyio
async def test_the_device_flow_ends_with_a_reason(polls: list[dict[str, Any]], said: str) -> None:
    web = Web()
    web.polls = list(polls)
    with pytest.raises(NotLoggedIn, match=said):
        await flow(web)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"client": "c"}, "--oidc-issuer"),
        ({"issuer": ISSUER}, "--oidc-client"),
        ({"issuer": ISSUER, "client": "c"}, "--oidc-grant"),
        ({"issuer": "http://id.example", "client": "c", "grant": ("a=infer",)}, "https"),
        ({"issuer": ISSUER, "client": "c", "grant": ("a=x",)}, "'x'"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        SignInOptions(**given).checked()


def test_options_pass_through_nebula_up_as_they_are() -> None:
    options = SignInOptions(issuer=ISSUER, client="c", grant=("red team=infer@red",)).checked()
    words = options.arguments()
    assert words[words.index("--oidc-grant") + 1] == "red team=infer@red"
    assert SignInOptions().arguments() == ()
