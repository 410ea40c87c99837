"""Which hosts and origins a gateway answers: the laws, and the forms that browsers use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.http.origins import (
    BadHost,
    Doors,
    host_allowed,
    is_loopback,
    let_in,
    objection_to_host,
    own_origin,
    parse_host,
    site_allowed,
)

HERE = Doors()
LABEL = st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9]", fullmatch=True)
PUBLIC = st.builds(
    "{}.{}".format, LABEL, st.sampled_from(["example", "com", "org", "net", "dev", "io"])
)
PORT = st.one_of(st.just(""), st.integers(1, 65535).map(":{}".format))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8000",
        "127.9.9.9:1",
        "localhost",
        "LOCALHOST:8000",
        "localhost.",
        "localhost.:8000",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]:8000",
        "[::ffff:127.0.0.1]",
        " localhost ",
        "localhost:",
    ],
)
@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::", "10.0.0.7"])
def test_loopback_is_always_known(host: str, bound: str) -> None:
    assert host_allowed(Doors(bound=bound), host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8000",
        "127.0.0.1.nip.io",
        "evil-localhost",
        "notlocalhost:8000",
        "xn--lcalhost-54a",
        "10.0.0.7:8000",
        "169.254.169.254",
        "[fe80::1]",
    ],
)
def test_what_is_bound_to_loopback_has_no_other_name(host: str) -> None:
    assert not host_allowed(HERE, host)


@pytest.mark.parametrize(
    "host",
    ["", " ", ".", ":", ":80", "a b", "a/b", "http://localhost", "user@localhost", "localhost:x",
     "localhost:99999", "localhost:-1", "[::1", "[::1]8000", "[::1]x", "[localhost]", "::1",
     "localhost:1:2", "a\x00b", "localhost, evil.example", "münchen.example"],
)  # fmt: skip
def test_what_is_not_a_host_is_told(host: str) -> None:
    with pytest.raises(BadHost):
        host_allowed(HERE, host)


@given(
    PUBLIC, PORT, st.sampled_from(["127.0.0.1", "0.0.0.0", "::", "10.0.0.7", "gpu.example.test"])
)
def test_a_name_of_public_dns_is_known_only_if_it_was_told(
    name: str, port: str, bound: str
) -> None:
    assert not host_allowed(Doors(bound=bound), name + port)
    assert host_allowed(Doors(bound=bound, hosts=(name,)), name.upper() + "." + port)
    assert host_allowed(Doors(bound=bound, hosts=("*",)), name + port)
    assert host_allowed(Doors(bound=bound, hosts=(f"*.{name}",)), f"a.b.{name}{port}")
    assert not host_allowed(Doors(bound=bound, hosts=(f"*.{name}",)), f"a{name}{port}")
    assert not host_allowed(Doors(bound=bound, hosts=(name,)), f"x{name}{port}")


def test_a_name_with_a_port_is_known_on_that_port() -> None:
    doors = Doors(hosts=("llm.example.org:8443",))
    assert host_allowed(doors, "llm.example.org:8443")
    assert not host_allowed(doors, "llm.example.org:8000")
    assert not host_allowed(doors, "llm.example.org")


@pytest.mark.parametrize(
    "host",
    ["10.0.0.7:8000", "[fd00::7]:8000", "gateway:8000", "gpu-box", "gpu.local", "a.internal",
     "nebula.default.svc.cluster.local:8000", "x.home.arpa", "gpu.example.test"],
)  # fmt: skip
def test_bound_to_a_network_it_is_known_by_what_an_outsider_can_not_register(host: str) -> None:
    assert host_allowed(Doors(bound="gpu.example.test"), host)
    assert not host_allowed(HERE, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://LOCALHOST:8000", "localhost.:8000"),
        ("http://localhost", "localhost:80"),
        ("https://llm.example.org", "llm.example.org"),
        ("https://llm.example.org", "llm.example.org:443"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_the_page_of_its_own_address_is_its_own(origin: str, host: str) -> None:
    assert own_origin(HERE, origin, host)


@pytest.mark.parametrize(
    "origin",
    ["null", "", "https://evil.example", "http://127.0.0.1:3000", "http://127.0.0.1", "file://",
     "http://127.0.0.1:8000.evil.example", "http://evil.example:8000", "http://127.0.0.1:8000/x",
     "http://127.0.0.1:8000@evil.example", "chrome-extension://abc", "http://127.0.0.1:x", "http://",
     "http://localhost:8000", "http://127.0.0.1:8000 https://evil.example", "http://[::1:8000"],
)  # fmt: skip
def test_every_other_page_is_foreign(origin: str) -> None:
    assert not own_origin(HERE, origin, "127.0.0.1:8000")
    assert not let_in(HERE, origin, "/v1/models")


def test_the_page_of_an_allowed_host_is_its_own_behind_a_proxy_that_changes_host() -> None:
    doors = Doors(hosts=("llm.example.org", "*.example.net"))
    assert own_origin(doors, "https://llm.example.org", "127.0.0.1:8000")
    assert not own_origin(doors, "https://llm.example.org:9000", "127.0.0.1:8000")
    assert not own_origin(doors, "https://a.example.net", "127.0.0.1:8000")


@pytest.mark.parametrize("origins", [("https://app.example",), ("*",)])
def test_an_allowed_origin_is_let_in_to_v1_only(origins: tuple[str, ...]) -> None:
    doors = Doors(origins=origins)
    assert let_in(doors, "https://app.example", "/v1/chat/completions")
    for path in ("/admin/models", "/", "/v1x", "/ready", "/v1/../admin/models", "/V1/models"):
        assert not let_in(doors, "https://app.example", path)
    assert let_in(doors, "null", "/v1/models") == ("*" in origins)


@given(st.binary(max_size=12))
def test_only_known_words_of_a_browser_are_its_own_site(site: bytes) -> None:
    assert site_allowed(site) == (site in (b"same-origin", b"none"))


@given(st.text(max_size=30))
def test_a_host_is_read_or_told(text: str) -> None:
    try:
        name, port = parse_host(text)
    except BadHost:
        return
    assert name == name.lower()
    assert port == "" or 0 <= int(port) < 65536


@pytest.mark.parametrize("host", ["a.example", "a:80", "*.a.example", "*", "[::1]:80", "10.0.0.1"])
def test_an_allowed_host_is_a_host(host: str) -> None:
    assert objection_to_host(host) == ""


@pytest.mark.parametrize("host", ["", "https://a.example", "a b", "a/b", "*a", "*.*", "a:b"])
def test_what_is_not_a_host_can_not_be_allowed(host: str) -> None:
    assert "is not a host" in objection_to_host(host)


def test_addresses_that_reach_this_machine_alone() -> None:
    assert all(
        map(is_loopback, ("127.0.0.1", "::1", "[::1]", "localhost", "LocalHost.", "127.1.1.1"))
    )
    assert not any(
        map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "gpu", "", "127.0.0.1.evil.example"))
    )
