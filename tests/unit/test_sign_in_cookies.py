"""What a browser carries of a sign-in and of a session, and for which requests that counts."""

from __future__ import annotations

import base64
import hashlib

import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from nebula.http.errors import ApiError
from nebula.http.guard import RETURN, Guard
from nebula.http.origins import Doors
from nebula.http.sign_in import cookies, page
from nebula.http.sign_in.pending import LONGEST, begun, carried, own_path


@pytest.mark.parametrize("path", ["/docs", "/", "/admin/state?at=5&x=/y", "/llm/docs#a", "/a//b"])
def test_a_path_of_the_gateway_is_returned_to(path: str) -> None:
    assert own_path(path, "/docs-of-default") == path


@pytest.mark.parametrize(
    "text",
    ["", "docs", "//evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example",
     "/x\\y", "/x\r\nset-cookie: a", "/x y", "javascript:alert(1)", "/\t/evil.example", "/ü",
     "/" + "x" * LONGEST],
)  # fmt: skip
def test_nothing_that_may_lead_away_is_returned_to(text: str) -> None:
    assert own_path(text, "/docs") == "/docs"


def test_a_sign_in_comes_back_in_its_cookie_as_it_went() -> None:
    went = begun(b"x" * 32, "/admin/state?at=5")
    back = carried(went.cookie(), "/docs")
    assert back == went
    assert went.answers(went.state)
    assert not went.answers("")
    assert not went.answers(begun(b"y" * 32, "/").state)
    assert len({went.seed, went.state, went.nonce, went.verifier}) == 4
    assert 43 <= len(went.verifier) <= 128


@pytest.mark.parametrize("cookie", ["", "x", "a" * 43, "a" * 42 + ".", "a" * 43 + "./", "ü.x"])
def test_a_cookie_that_is_none_of_a_sign_in_carries_nothing(cookie: str) -> None:
    assert carried(cookie, "/docs") is None


def test_a_cookie_leads_no_further_than_to_the_gateway_itself() -> None:
    then = base64.urlsafe_b64encode(b"https://evil.example/").decode().rstrip("=")
    found = carried(f"{'a' * 43}.{then}", "/docs")
    assert found is not None
    assert found.then == "/docs"
    assert carried(f"{'a' * 43}.gIGC", "/docs") is None


HERE = {b"host": b"127.0.0.1:8000"}
THERE = {b"host": b"llm.example.com", b"x-forwarded-proto": b"https"}


def test_the_address_is_https_or_on_this_machine() -> None:
    assert cookies.address_of(HERE, "") == "http://127.0.0.1:8000"
    assert cookies.address_of(THERE, "/llm") == "https://llm.example.com/llm"
    for headers in ({b"host": b"llm.example.com"}, {b"host": b"10.0.0.5:8000"}, {}):
        with pytest.raises(ApiError, match="https"):
            cookies.address_of(headers, "")


@pytest.mark.parametrize(
    ("sent", "host", "found"),
    [
        (b"nebula-key=k", b"127.0.0.1:8000", "k"),
        (b"a=b; nebula-key=k; c=d", b"localhost", "k"),
        (b"__Host-nebula-key=k", b"llm.example.com", "k"),
        (b"nebula-key=other; __Host-nebula-key=k", b"llm.example.com", "k"),
        (b"nebula-key=k", b"llm.example.com", ""),
        (b"nebula-key=", b"localhost", ""),
        (b"xnebula-key=k", b"localhost", ""),
        (b"", b"localhost", ""),
    ],
)
def test_a_cookie_that_another_host_could_have_set_does_not_count(
    sent: bytes, host: bytes, found: str
) -> None:
    assert cookies.named({b"cookie": sent, b"host": host}, cookies.SESSION)[1] == found


OWN, OTHER = b"http://127.0.0.1:8000", b"http://127.0.0.1:9000"


@pytest.mark.parametrize(
    ("method", "origin", "counts"),
    [
        ("GET", None, True),
        ("HEAD", None, True),
        ("GET", OWN, True),
        ("POST", OWN, True),
        ("", OWN, True),
        ("POST", None, False),
        ("DELETE", None, False),
        ("", None, False),
        ("POST", OTHER, False),
        ("GET", OTHER, False),
        ("POST", b"null", False),
    ],
)
def test_a_session_counts_for_the_gateway_s_own_pages_only(
    method: str, origin: bytes | None, counts: bool
) -> None:
    headers = {**HERE, b"cookie": b"nebula-key=k"}
    if origin is not None:
        headers[b"origin"] = origin
    doors = Doors(origins=("*",))
    if counts:
        assert cookies.with_session(method, headers, doors)[b"authorization"] == b"Bearer k"
    else:
        with pytest.raises(ApiError, match="own pages"):
            cookies.with_session(method, headers, doors)


def test_a_key_that_is_sent_goes_before_a_session() -> None:
    headers = {**HERE, b"cookie": b"nebula-key=k", b"x-api-key": b"own"}
    assert cookies.with_session("POST", headers, Doors()) is headers


async def _nothing(*_: object) -> None:
    pass


def test_a_provider_s_page_leads_to_one_path_only() -> None:
    guard = Guard(_nothing, Doors())
    led = [(b"host", b"127.0.0.1:8000"), (b"sec-fetch-site", b"cross-site")]
    assert guard.refusal(led, RETURN) is None
    for path in ("/login", "/logout", f"{RETURN}/", "/admin/models"):
        refusal = guard.refusal(led, path)
        assert refusal is not None
        assert refusal.status == 403
    asked = guard.refusal([*led, (b"origin", b"https://evil.example")], RETURN)
    assert asked is not None
    assert asked.status == 403


def test_what_comes_from_elsewhere_is_escaped_in_the_pages() -> None:
    for text in (page.welcome("<b>", "/x'>"), page.failure("<b>", "/login'>")):
        assert "<b>" not in text
        assert "'>'" not in text
    assert "&#x27;" in page.welcome("x", "/x'>")


def test_the_challenge_is_that_of_rfc_7636() -> None:
    verifier = begun(b"x" * 32, "/").verifier
    digest = hashlib.sha256(verifier.encode()).digest()
    made = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert create_s256_code_challenge(verifier) == made
