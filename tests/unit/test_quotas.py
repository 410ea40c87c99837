"""What a request may have within the limits of its key, and how much it reserves."""

import asyncio

import msgspec
import pytest

from nebula.events.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, Endpoint
from nebula.events.key import Key
from nebula.events.ledger import Meter
from nebula.events.state import EMPTY, State
from nebula.events.usage_limits import UsageLimits
from nebula.http import uploads
from nebula.http.answer_lengths import LENGTHS
from nebula.http.errors import ApiError
from nebula.http.outline import Fields, Outline
from nebula.http.principals import Principal
from nebula.http.quotas import Quota, most, quota_of, shaped, shaped_form

MESSAGES = b'[{"role":"user","content":"hello"}]'


def asked(body: bytes, priority: int = 0, prompt: bytes = b"") -> Outline:
    fields = msgspec.json.decode(body, type=Fields)
    return Outline("m", prompt, priority=priority, fields=fields)


def held(quota: Quota, endpoint: Endpoint, body: bytes, priority: int = 0) -> bytes:
    """Return the body that an engine gets."""
    return shaped(quota, endpoint, body, asked(body, priority))


def principal(limits: UsageLimits, tenant: str = "") -> Principal:
    key = Key(id="k", hash="", scopes=("infer",), limits=limits, tenant=tenant)
    return Principal("key:k", frozenset({"infer"}), key)


def state(**limits: UsageLimits) -> State:
    places = {place.replace("_", ".", 1): each for place, each in limits.items()}
    return msgspec.structs.replace(EMPTY, limits=EMPTY.limits.update(places))


def test_without_limits_there_is_no_quota() -> None:
    assert quota_of(EMPTY, Principal("", frozenset()), "chat") is None
    assert quota_of(EMPTY, principal(UsageLimits()), "chat") is None
    others = state(tenant_lab=UsageLimits(in_flight=1), model_other=UsageLimits(in_flight=1))
    assert quota_of(others, principal(UsageLimits()), "chat") is None


def test_a_request_is_held_to_its_key_its_tenant_and_its_model() -> None:
    there = state(
        tenant_lab=UsageLimits(tokens_per_day=9, max_tokens=50),
        model_chat=UsageLimits(in_flight=2, priority=(3, 9)),
    )
    quota = quota_of(there, principal(UsageLimits(max_tokens=80, priority=(0, 5)), "lab"), "chat")
    assert quota is not None
    assert [(each.subject, dict(each.limits)) for each in quota.limited] == [
        (("tenant", "lab"), {Meter.DAY: 9}),
        (("model", "chat"), {Meter.IN_FLIGHT: 2}),
    ]
    assert quota.longest == 50
    assert [quota.priority(asked) for asked in (-4, 4, 70)] == [3, 4, 5]


def test_a_change_of_any_limits_holds_for_the_next_request() -> None:
    def requests(there: State, who: Principal, model: str = "chat") -> list[int]:
        quota = quota_of(there, who, model)
        limited = () if quota is None else quota.limited
        return [each.limits[Meter.REQUESTS] for each in limited]

    few, many = UsageLimits(requests_per_minute=5), UsageLimits(requests_per_minute=50)
    there = state(tenant_lab=few)
    assert requests(there, principal(few, "lab")) == [5, 5]
    assert requests(there, principal(many, "lab")) == [50, 5]
    assert requests(there, principal(UsageLimits(), "lab")) == [5]
    assert requests(there, principal(few, "other")) == [5]
    assert requests(there, Principal("", frozenset()), "chat") == []
    there = state(tenant_lab=many, model_chat=few)
    assert requests(there, principal(few, "lab")) == [5, 50, 5]
    assert requests(there, principal(few, "lab"), "other") == [5, 50]
    assert requests(there, Principal("", frozenset()), "chat") == [5]
    assert requests(EMPTY, principal(few, "lab")) == [5]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_longer_answer_than_allowed_is_refused_by_its_field(name: str) -> None:
    body = b'{"model":"m","%b":6}' % name.encode()
    with pytest.raises(ApiError) as refused:
        held(Quota((), longest=5), CHAT, body)
    assert (refused.value.status, refused.value.body.param) == (400, name)
    assert held(Quota((), longest=6), CHAT, body) == body


@pytest.mark.parametrize(
    ("path", "field"),
    [("/v1/chat/completions", "max_tokens"), ("/v1/responses", "max_output_tokens")],
)
def test_a_request_without_a_length_gets_the_longest_allowed(path: str, field: str) -> None:
    body = held(Quota((), longest=5), ENDPOINTS[path], b'{"model":"m"}')
    assert msgspec.json.decode(body) == {"model": "m", field: 5}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", b'{"max_tokens":1}'),
        ("/v1/chat/completions", b'{"max_output_tokens":1}'),
        ("/v1/chat/completions", b'{"max_completion_tokens":null}'),
        ("/v1/messages", b'{"max_completion_tokens":1}'),
    ],
)
def test_what_an_engine_does_not_read_as_a_length_is_none(path: str, body: bytes) -> None:
    fields = msgspec.json.decode(held(Quota((), longest=5), ENDPOINTS[path], body))
    assert fields[LENGTHS[path][0]] == 5


@pytest.mark.parametrize("value", [b'"6"', b"6.0", b"1e9", b"-1", b"true", b"9" * 16])
def test_a_length_that_is_not_in_digits_is_refused_where_a_limit_holds(value: bytes) -> None:
    body = b'{"max_completion_tokens":%b}' % value
    with pytest.raises(ApiError) as refused:
        held(Quota((), longest=5), CHAT, body)
    assert refused.value.body.param == "max_completion_tokens"


def test_a_completion_that_names_no_length_gets_its_own_default_or_less() -> None:
    assert held(Quota((), longest=16), COMPLETIONS, b"{}") == b"{}"
    assert held(Quota((), longest=15), COMPLETIONS, b"{}") == b'{"max_tokens":15}'


def test_each_path_that_generates_has_the_fields_of_its_length() -> None:
    generating = {
        path
        for path, endpoint in ENDPOINTS.items()
        if endpoint.computes and endpoint.tasks & {"generate", "transcription"}
    }
    assert generating - LENGTHS.keys() == {"/generative_scoring"}  # its answers have one token


KIND = "multipart/form-data; boundary=b"


def form(*fields: tuple[str, str]) -> bytes:
    head = b"--b\r\nContent-Disposition: form-data; name="
    parts = [head + b'"%b"\r\n\r\n%b\r\n' % (n.encode(), v.encode()) for n, v in fields]
    file = head + b'"file"; filename="a"\r\n\r\nRIFF\r\n'
    return b"".join([*parts, file, b"--b--\r\n"])


def heard(longest: int | None, path: str, *fields: tuple[str, str]) -> bytes:
    """Return the form that an engine gets."""
    body, endpoint = form(("model", "ears"), *fields), ENDPOINTS[path]
    lengths = asyncio.run(uploads.read(endpoint, KIND, body)).lengths
    return shaped_form(Quota((), longest=longest), endpoint, KIND, body, lengths)


HEARING = ("/v1/audio/transcriptions", "/v1/audio/translations")


@pytest.mark.parametrize("path", HEARING)
@pytest.mark.parametrize("value", ["6", "", "+5", " 5", "5_0", "many", "\u0665"])
def test_a_form_is_refused_that_asks_for_a_longer_answer(path: str, value: str) -> None:
    with pytest.raises(ApiError) as refused:
        heard(5, path, ("max_completion_tokens", value))
    error = refused.value
    assert (error.status, error.body.param) == (400, "max_completion_tokens")


@pytest.mark.parametrize("path", HEARING)
def test_a_form_without_a_length_gets_the_longest_allowed(path: str) -> None:
    within = ("max_completion_tokens", "5")
    assert heard(5, path, within) == form(("model", "ears"), within)
    assert heard(None, path) == form(("model", "ears"))
    sent = heard(5, path)
    read = asyncio.run(uploads.read(ENDPOINTS[path], KIND, sent))
    assert (read.model, dict(read.lengths)) == ("ears", {"max_completion_tokens": "5"})


def test_a_priority_in_the_body_is_cut_too() -> None:
    quota = Quota((), priorities=((0, 9),))
    body = held(quota, CHAT, b'{"priority":-3}', -3)
    assert msgspec.json.decode(body) == {"priority": 0}
    assert held(quota, EMBEDDINGS, b'{"input":"x"}') == b'{"input":"x"}'


@pytest.mark.parametrize(
    ("endpoint", "body", "tokens"),
    [
        (CHAT, b'{"max_tokens":20}', 9 + 20),
        (CHAT, b'{"max_completion_tokens":20,"n":3}', 9 + 60),
        (CHAT, b"{}", 1000),
        (CHAT, b'{"max_tokens":99999}', 1000),
        (CHAT, b'{"max_tokens":"many"}', 1000),
        (COMPLETIONS, b"{}", 9 + 16),
        (EMBEDDINGS, b"{}", 9),
        (ENDPOINTS["/tokenize"], b"{}", 0),
    ],
)
def test_a_request_reserves_the_most_that_it_can_take(
    endpoint: Endpoint, body: bytes, tokens: int
) -> None:
    assert most(endpoint, asked(body, prompt=MESSAGES), 1000) == tokens


@pytest.mark.parametrize(
    ("endpoint", "body", "tokens"),
    [
        (CHAT, b"{}", 9 + 5),
        (CHAT, b'{"n":3}', 9 + 15),
        (CHAT, b'{"max_tokens":3}', 9 + 3),
        (COMPLETIONS, b"{}", 9 + 5),
    ],
)
def test_a_request_whose_answer_is_limited_reserves_no_longer_one(
    endpoint: Endpoint, body: bytes, tokens: int
) -> None:
    assert most(endpoint, asked(body, prompt=MESSAGES), 1000, allowed=5) == tokens
    shaped_body = held(Quota((), longest=5), endpoint, body)
    assert most(endpoint, asked(shaped_body, prompt=MESSAGES), 1000) == tokens
