"""What a request may look like: RFC 9112 2 to 5 and RFC 9110 4 to 9, clause by clause, on the wire.

Each test names its clause; docs/http.md has the table.
"""

import asyncio

import pytest

from tests.integration.cluster import Cluster
from tests.integration.wire import BODY, Wire, ask_chat, request

GET = request()


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat")

    asyncio.run(load())


def refused(cluster: Cluster, status: int, *sent: bytes, word: str = "") -> None:
    """Assert that something is refused in OpenAI's form, and that the connection ends with it."""
    with Wire(cluster.port) as wire:
        answer = wire.ask(*sent)
        assert answer.status == status, answer
        assert answer.fields["connection"] == "close"
        assert answer.fields["content-type"] == "application/json"
        assert word in answer.error["message"]
        assert wire.rest() == b""


def served(cluster: Cluster, *sent: bytes, status: int = 200) -> None:
    """Assert that something is served, and that the connection goes on."""
    with Wire(cluster.port) as wire:
        assert wire.ask(*sent).status == status
        assert wire.ask(GET).status == 200


# RFC 9112 2.2: message parsing


def test_9112_2_2_empty_lines_before_a_request_are_passed_over(cluster: Cluster) -> None:
    served(cluster, b"\r\n" + GET)
    with Wire(cluster.port) as wire:
        assert wire.ask(ask_chat() + b"\r\n\r\n" + GET).status == 200
        assert wire.answer().status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v1/models HTTP/1.1\nHost: localhost\n\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\nA: b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\n",
    ],
)
def test_9112_2_2_a_lone_lf_ends_no_line(cluster: Cluster, sent: bytes) -> None:
    """A recipient MAY take it for one; what else stands before it may not, so Nebula does not."""
    with Wire(cluster.port) as wire:
        answer = wire.ask(sent)
        assert answer.status == 400
        assert wire.rest() == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\rA: b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nA: b\rc\r\n\r\n",
        b"GET /v1/models HTTP/1.1\rHost: localhost\r\n\r\n",
        b"GET /v1/mod\rels HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_9112_2_2_a_bare_cr_is_invalid(cluster: Cluster, sent: bytes) -> None:
    refused(cluster, 400, sent)


@pytest.mark.parametrize("space", [b" ", b"\t", b" \t "])
def test_9112_2_2_whitespace_before_the_first_field_is_refused(
    cluster: Cluster, space: bytes
) -> None:
    line = b"GET /v1/models HTTP/1.1\r\n"
    refused(cluster, 400, line + space + b"Host: localhost\r\n\r\n")
    refused(cluster, 400, line + space + b"\r\nHost: localhost\r\n\r\n")


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello\r\n\r\n", b"\0\0\0\0", b"{}\r\n"],
)
def test_9112_2_2_what_is_not_http_is_told_so(cluster: Cluster, sent: bytes) -> None:
    refused(cluster, 400, sent, word="not")


# RFC 9110 2.5, RFC 9112 2.3: versions


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/3.0", "HTTP/0.9"])
def test_9110_15_6_6_another_major_version_is_a_505(cluster: Cluster, version: str) -> None:
    refused(cluster, 505, request(f"GET /v1/models {version}"), word="HTTP/1.1")


def test_9110_2_5_a_higher_minor_version_is_served(cluster: Cluster) -> None:
    served(cluster, request("GET /v1/models HTTP/1.2"))


@pytest.mark.parametrize("version", ["http/1.1", "HTTP/1", "HTTP/11", "HTTP/1.10", "HTTP/a.b", "X"])
def test_9112_2_3_a_version_is_spelled_exactly(cluster: Cluster, version: str) -> None:
    refused(cluster, 400, request(f"GET /v1/models {version}"))


# RFC 9112 3: the request line


@pytest.mark.parametrize(
    "line",
    [
        "GET\t/v1/models HTTP/1.1",
        "GET /v1/models HTTP/1.1 ",
        "GET /v1/models more HTTP/1.1",
        "GET HTTP/1.1",
        " GET /v1/models HTTP/1.1",
    ],
)
def test_9112_3_a_line_that_is_not_valid_is_a_400_and_not_mended(
    cluster: Cluster, line: str
) -> None:
    refused(cluster, 400, request(line))


@pytest.mark.parametrize("method", ["BREW", "get", "PROPFIND", "QUERY", "TRACE", "DESCRIBE", "X"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/none"])
def test_9110_9_1_a_method_that_is_not_known_is_a_501(
    cluster: Cluster, method: str, path: str
) -> None:
    refused(cluster, 501, request(f"{method} {path} HTTP/1.1"), word=method)


def test_9112_3_a_target_of_8000_bytes_is_read_and_one_too_long_is_a_414(
    cluster: Cluster,
) -> None:
    served(cluster, request(f"GET /v1/models?{'x' * 7980} HTTP/1.1"))
    refused(cluster, 414, request(f"GET /v1/models?{'x' * 9000} HTTP/1.1"))
    refused(cluster, 414, b"GET /" + b"x" * 300_000)


# RFC 9112 3.2: targets and Host


def test_9112_3_2_a_request_without_host_is_a_400(cluster: Cluster) -> None:
    refused(cluster, 400, request(host=""), word="Host")
    refused(cluster, 400, request("POST /v1/chat/completions HTTP/1.1", host="", body=BODY))


def test_9112_3_2_one_with_two_is_too_even_by_http_1_0(cluster: Cluster) -> None:
    for host in ("localhost", "other"):
        refused(cluster, 400, request("GET /v1/models HTTP/1.1", f"Host: {host}"), word="Host")
        refused(cluster, 400, request("GET /v1/models HTTP/1.0", f"Host: {host}"), word="Host")


@pytest.mark.parametrize(
    "host", ["a b", "a/b", "u@h", "::1", "[::1", "h:port", "h:1:2", "a?b", "\x80"]
)
def test_9112_3_2_one_with_a_host_that_is_not_valid_is_too(cluster: Cluster, host: str) -> None:
    refused(cluster, 400, request(host=host), word="Host")


def test_9112_3_2_an_empty_host_is_none(cluster: Cluster) -> None:
    refused(cluster, 400, request("GET /v1/models HTTP/1.1", "Host:", host=""), word="Host")


def test_9112_3_2_http_1_0_needs_no_host(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        assert wire.ask(request("GET /v1/models HTTP/1.0", host="")).status == 200


@pytest.mark.parametrize("target", ["http://localhost/v1/models", "HTTP://LOCALHOST:80/v1/models"])
def test_9112_3_2_2_the_absolute_form_is_taken_and_its_host_counts(
    cluster: Cluster, target: str
) -> None:
    served(cluster, request(f"GET {target} HTTP/1.1"))
    served(cluster, request(f"GET {target} HTTP/1.1", host="evil.example"))
    evil = request("GET http://evil.example/v1/models HTTP/1.1")
    served(cluster, evil, status=421)


def test_9112_3_2_2_a_chat_by_the_absolute_form(cluster: Cluster) -> None:
    served(cluster, ask_chat().replace(b"POST /", b"POST http://localhost/"))


@pytest.mark.parametrize(
    "target", ["v1/models", "*", "localhost:80", "ftp://localhost/", "http:///x"]
)
def test_9112_3_2_other_forms_are_refused(cluster: Cluster, target: str) -> None:
    refused(cluster, 400, request(f"GET {target} HTTP/1.1"))


@pytest.mark.parametrize("target", ["/v1/models#part", "/v1/mod\xc3\xa4ls", "/v1/\x01", "/v1/\x7f"])
def test_9110_4_1_a_target_has_only_what_a_url_has(cluster: Cluster, target: str) -> None:
    refused(cluster, 400, request(f"GET {target} HTTP/1.1"))


def test_9110_4_2_3_an_encoded_path_is_the_same_path(cluster: Cluster) -> None:
    served(cluster, request("GET /v1/%6dodels HTTP/1.1"))
    served(cluster, ask_chat().replace(b"/v1/chat/", b"/v1/ch%61t/"))


@pytest.mark.parametrize(
    "path",
    [
        "//admin/models",
        "///admin//models//",
        "/admin//models",
        "/admin/models//",
        "/%2fadmin/models",
        "/%2Fadmin/models",
        "/admin%2fmodels",
        "/admin/models%2f",
        "/%61dmin%2fmodels",
        "//v1/models",
        "/v1%2fmodels",
        "/v1/models%2Fchat",
        "/v1//models/chat",
        "/v1/models//chat",
        "/v1/models/%2Fchat",
        "/v1/models/chat%2f",
        "/v1/models/chat%2f/",
        "/v1/./models",
        "/v1/x/../models",
        "/%2e/v1/models",
        "/v1/%2E%2e/admin/models",
        "/v1/..%2fadmin/models",
        "/v1/models/../../admin/models",
        "/v1/models/..%2f..%2fadmin%2fmodels",
        "/v1%5cmodels",
        "\\admin\\models",
        "/\\admin/models",
        "/%5cadmin/models",
        "/%255cadmin/models",
        "/admin%252fmodels",
        "/admin;x/models",
        "/admin/models;x",
        "/ADMIN/models",
        "//health",
        "http://localhost//admin/models",
        "http://localhost/admin%2fmodels",
    ],
)
def test_9112_3_no_path_is_mended_to_mean_another_one(cluster: Cluster, path: str) -> None:
    with Wire(cluster.port) as wire:
        answer = wire.ask(request(f"GET {path} HTTP/1.1"))
    if path.startswith("\\"):
        assert answer.status == 400
    else:
        assert answer.status == 404, path
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "path", ["//v1/chat/completions", "/v1//chat/completions", "/v1/chat%2Fcompletions"]
)
def test_9112_3_the_hot_paths_are_spelled_so_too(cluster: Cluster, path: str) -> None:
    sent = ask_chat().replace(b"/v1/chat/completions", path.encode())
    refused(cluster, 404, sent, word="nothing")


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/models/chat/", "/admin/models/", "/health/"])
def test_one_slash_at_the_end_is_taken(cluster: Cluster, path: str) -> None:
    served(cluster, request(f"GET {path} HTTP/1.1"))
    served(cluster, ask_chat().replace(b"/completions ", b"/completions/ "))


# RFC 9112 5: field lines


@pytest.mark.parametrize("line", ["Host : localhost", "A : b", "A\t: b", "Content-Length : 3"])
def test_9112_5_1_whitespace_before_the_colon_is_a_400(cluster: Cluster, line: str) -> None:
    refused(cluster, 400, request("GET /v1/models HTTP/1.1", line))


@pytest.mark.parametrize("line", ["A: b\r\n c", "A: b\r\n\tc", "A:\r\n b", "Host: a\r\n b"])
def test_9112_5_2_a_folded_line_is_a_400(cluster: Cluster, line: str) -> None:
    refused(cluster, 400, request("GET /v1/models HTTP/1.1", line))


@pytest.mark.parametrize("line", [": b", "A b", "A(b): c", "A\x00: b", '"A": b', "\xe4: b", "A"])
def test_9110_5_1_a_name_is_a_token(cluster: Cluster, line: str) -> None:
    refused(cluster, 400, request("GET /v1/models HTTP/1.1", line))


@pytest.mark.parametrize("value", ["b\x00c", "\x01", "b\x0bc", "\x7f", "b\x1bc"])
def test_9110_5_5_a_value_with_control_characters_is_refused(cluster: Cluster, value: str) -> None:
    refused(cluster, 400, request("GET /v1/models HTTP/1.1", f"A: {value}"))


def test_9110_5_5_other_bytes_and_tabs_are_taken(cluster: Cluster) -> None:
    served(cluster, request("GET /v1/models HTTP/1.1", "A: \xe4\xff\tb", "B:", "C:  \t "))


def test_9110_5_5_whitespace_around_a_value_is_none_of_it(cluster: Cluster) -> None:
    served(cluster, ask_chat("X-Request-Timeout:  \t30 \t "))
    with Wire(cluster.port) as wire:
        sized = f"Content-Length: \t{len(BODY)}  "
        sent = request("POST /v1/chat/completions HTTP/1.1", sized) + BODY
        assert wire.ask(sent).status == 200


def test_9110_5_1_names_are_the_same_in_all_cases(cluster: Cluster) -> None:
    served(cluster, ask_chat().replace(b"Content-Length", b"cOnTeNt-LeNgTh"))


def test_9110_5_4_many_fields_or_large_ones_are_a_431(cluster: Cluster) -> None:
    line = "GET /v1/models HTTP/1.1"
    served(cluster, request(line, *["A: b"] * 99))
    refused(cluster, 431, request(line, *["A: b"] * 100))
    served(cluster, request(line, f"A: {'b' * 60_000}"))
    refused(cluster, 431, request(line, f"A: {'b' * 70_000}"))
    refused(cluster, 431, request(line, f"{'A' * 70_000}: b"))


def test_9110_5_1_unknown_fields_are_passed_over(cluster: Cluster) -> None:
    served(cluster, ask_chat("TE: trailers, deflate;q=0.5", "X-Nobody: knows", "Range: bytes=0-1"))


def test_a_fault_in_a_later_request_does_not_touch_the_answer_before_it(cluster: Cluster) -> None:
    with Wire(cluster.port) as wire:
        answer = wire.ask(ask_chat() + request("GET /v1/models HTTP/1.1", "A : b"))
        assert answer.status == 200
        assert answer.json()["object"] == "chat.completion"
        assert wire.answer().status == 400
        assert wire.rest() == b""
