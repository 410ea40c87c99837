"""What a request may have within the limits of its key, and how much it reserves."""

import msgspec
import pytest

from nebula.events.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, Endpoint
from nebula.events.key import Key
from nebula.events.ledger import Meter
from nebula.events.state import EMPTY, State
from nebula.events.usage_limits import UsageLimits
from nebula.http.errors import ApiError
from nebula.http.principals import Principal
from nebula.http.quotas import Quota, most, quota_of, shaped

MESSAGES = b'[{"role":"user","content":"hello"}]'


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
        shaped(Quota((), longest=5), CHAT, body, 0)
    assert (refused.value.status, refused.value.body.param) == (400, name)
    assert shaped(Quota((), longest=6), CHAT, body, 0) == body


@pytest.mark.parametrize(
    ("path", "field"),
    [("/v1/chat/completions", "max_tokens"), ("/v1/responses", "max_output_tokens")],
)
def test_a_request_without_a_length_gets_the_longest_allowed(path: str, field: str) -> None:
    body = shaped(Quota((), longest=5), ENDPOINTS[path], b'{"model":"m"}', 0)
    assert msgspec.json.decode(body) == {"model": "m", field: 5}


def test_a_priority_in_the_body_is_cut_too() -> None:
    quota = Quota((), priorities=((0, 9),))
    body = shaped(quota, CHAT, b'{"priority":-3}', -3)
    assert msgspec.json.decode(body) == {"priority": 0}
    assert shaped(quota, EMBEDDINGS, b'{"input":"x"}', 0) == b'{"input":"x"}'


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
    assert most(endpoint, body, MESSAGES, 1000) == tokens
