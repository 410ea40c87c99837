"""What is hidden as a secret, in whatever form it comes, and what is not taken for one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.intents import ModelLoadRequested
from nebula.events.masking import MASK, is_secret, masked, secret_name
from nebula.events.showing import secrets_of, shown, without_secrets

SECRET_NAMES = [
    "HF_TOKEN", "hf-token", "hf_token", "hfToken", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN",
    "token", "api-key", "API_KEY", "apiKey", "OPENAI_API_KEY", "VLLM_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID", "PASSWORD", "db-password", "REDIS_PASSWD", "DB_PASS", "client_secret",
    "SECRET", "credentials", "private-key", "encryption_key", "x.auth.token", "ACCESS_TOKENS",
    "Authorization", "session_cookie", "AZURE_STORAGE_CONNECTION_STRING", "WANDB_API_KEY", "apikey",
    "MY_JWT", "signing_key", "S3_KEY", "ssl-keyfile-password", "passphrase",
    "MYPASS", "MY_PASS", "PGPASSWORD", "DBPWD", "DB_PWD", "ftpPass", "MYSQL_PWD",
]  # fmt: skip
PLAIN_NAMES = [
    "max-tokens", "max-num-batched-tokens", "max_num_batched_tokens", "tokenizer", "tokenizer-mode",
    "tokenizer-revision", "skip-tokenizer-init", "num_key_value_heads", "enable-prefix-caching",
    "eos_token", "bos_token_id", "pad-token", "image_token", "stop_token_ids", "return-token-ids",
    "long-prefill-token-threshold", "dbo-decode-token-threshold", "spec-tokens", "key_cache_dtype",
    "num_experts_per_token", "suffix_decoding_min_token_prob", "returned_token_ids", "primary_key",
    "VLLM_MAX_TOKENS_PER_EXPERT_FP", "TOKENIZERS_PARALLELISM", "ssl-keyfile", "query_key_norm",
    "kv_cache_size_tokens", "max-model-len", "monkey", "author", "keyboard", "pass_config", "PWD",
    "routing_key", "public-key", "per_token", "PATH", "HF_HOME", "HF_ENDPOINT", "LD_PRELOAD",
    "seed",
    "tokens_only", "max_token_num", "cache_hit_alignment_tokens", "hf-overrides", "passes", "",
    "bypass", "compass", "num_pass", "numpass", "surpass", "encompass", "trespass", "overpass",
    "forward_pass", "single-pass", "OLDPWD", "OLD_PWD", "pass", "multipass", "by_pass",
]  # fmt: skip

VALUE = st.from_regex(r"[A-Za-z][A-Za-z0-9]{7,30}", fullmatch=True).filter(
    lambda text: text.lower() not in ("none", "null", "true", "false")
)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_name_of_a_secret(name: str) -> None:
    assert secret_name(name)
    assert secret_name(name.upper())
    assert is_secret(name, "abc")


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_a_name_of_something_else(name: str) -> None:
    assert not secret_name(name)
    assert not is_secret(name, "abc")
    assert masked(f"--{name}=abc --{name} abc '{name}': 'abc'") == (
        f"--{name}=abc --{name} abc '{name}': 'abc'"
    )


@pytest.mark.parametrize("value", [None, True, False, 4096, 0.5, "", "None", "1", "0.5", MASK, {}])
def test_what_can_not_be_a_token_is_none(value: object) -> None:
    assert not is_secret("hf-token", value)


def test_the_id_of_an_api_key_is_shown_in_what_was_used() -> None:
    used = {"sums": [{"key": "key:person-ab12", "requests": 1}]}
    assert shown(used) is used
    assert shown({"key": "abc"}) == {"key": MASK}
    assert shown({"api_key": "key:abc"}) == {"api_key": MASK}


def test_a_password_may_be_a_number() -> None:
    assert is_secret("password", 1234)
    assert is_secret("DB_PASSWORD", "1234")


@given(st.sampled_from(SECRET_NAMES), VALUE)
def test_a_secret_stands_in_no_form_of_a_named_value(name: str, value: str) -> None:
    spec = ModelLoadRequested(
        "org/model",
        options={name: value, "model-loader-extra-config": {"s3": {name: [value]}}},
        env={name: value, "JSON": json.dumps({name if len(name) > 5 else "api_key": value})},
    )
    assert value not in repr(shown(spec))
    assert value not in repr(without_secrets(spec))


@given(st.sampled_from([name for name in SECRET_NAMES if name not in ("token",)]), VALUE)
def test_a_secret_stands_in_no_form_of_a_text(name: str, value: str) -> None:
    inner = json.dumps(json.dumps({name: value}))
    for text in (
        f"--{name}={value}", f"--{name} {value} --x", f"export {name}={value}", f"{name}: {value}",
        f"{{'{name}': '{value}', 'seed': 0}}", json.dumps({"a": {name: value}}), inner,
        f"Config({name}='{value}', seed=0)", f"https://h/p?a=b&{name}={value}&c=d",
        f"Config({name}={value}, seed=0)",
    ):  # fmt: skip
        found = masked(text)
        assert value not in found.replace(name, "")
        assert MASK in found
        assert masked(found) == found


@pytest.mark.parametrize(
    "user", ["u:SECRET123", "SECRET123", "u:p/SECRET123", "u:p@SECRET123", ":"]
)
def test_a_url_tells_no_user(user: str) -> None:
    text = f"lost NATS at nats://{user}@10.0.0.1:4222,nats://{user}@h:4222/x (see http://a/b)"
    found = masked(text)
    assert "SECRET123" not in found
    assert found.count(f"nats://{MASK}@") == 2
    assert found.endswith("(see http://a/b)")


@pytest.mark.parametrize(
    "text",
    ["http://h:8000/a@b", "https://huggingface.co/org/model", "mail me at a@b.c", "nats://h:4222",
     "key=5", "the token 'Paris'", "token=' the'", "hf_overrides", "task-12345678", "risk-averse",
     "sk-learn", "token_ids=[1, 2]", "Basic idea", "wrong password: try again", "a key: value",
     "hf_token=None, seed=0", "max_tokens=16",
     "classifier_from_token=yes", "use_auth_token: true", "x-request-id: abc"],
)  # fmt: skip
def test_other_text_is_left_alone(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "secret",
    ["hf_SECRET123", "hf_" + "aB3" * 12, "sk-SECRET123", "sk-proj-" + "a1B_" * 10,
     "ghp_" + "a1" * 18, "github_pat_" + "a1" * 20, "glpat-" + "a1" * 10,
     "xoxb-123456789012-abc", "AKIA" + "A1" * 8,
     "AIza" + "a1" * 18, "nvapi-" + "a1" * 16, "SU" + "A2" * 28,
     "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0"],
)  # fmt: skip
def test_a_well_known_form_is_hidden_wherever_it_stands(secret: str) -> None:
    for text in (
        secret,
        f"401 for {secret}.",
        f"x={secret}",
        f'{{"x": "{secret}"}}',
        f"a/{secret}/b",
    ):
        assert secret not in masked(text)
    assert secrets_of({"PLAIN": secret}) == ("PLAIN",)


@pytest.mark.parametrize(
    "text",
    ["Authorization: Bearer abcdefGH12", "proxy-authorization: Basic dTpwYXNz", "Cookie: a=b",
     "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----", "got Bearer abcdef12345"],
)  # fmt: skip
def test_headers_and_keys_are_hidden(text: str) -> None:
    found = masked(text)
    assert MASK in found
    assert not any(part in found for part in ("abcdef", "dTpwYXNz", "a=b", "abc"))


@pytest.mark.parametrize(
    "name",
    ["token", "api_key", "apikey", "access_token", "sig", "signature", "X-Amz-Signature",
     "X-Amz-Credential", "X-Amz-Security-Token", "X-Goog-Signature", "AWSAccessKeyId", "key",
     "auth", "pwd", "pass", "password", "client_secret"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["TOKQ1", "123456", "a%2Fb%3D"])
def test_a_url_s_query_tells_no_secret(name: str, value: str) -> None:
    for url in (
        f"https://h/m?{name}={value}",
        f"https://h/m?a=b&{name}={value}&c=d",
        f"org/m?{name}={value}",
        f"source=https://h/m?{name}={value}",
        f"(see https://h/m#{name}={value}), then",
        json.dumps({"source": f"https://h/m?{name}={value}"}),
        f"https://h/m?a=b\\u0026{name}={value}",
    ):
        found = masked(url)
        assert value not in found
        assert f"{name}={MASK}" in found
        assert masked(found) == found
    spec = ModelLoadRequested(f"https://h/m?{name}={value}")
    assert shown(spec).source == f"https://h/m?{name}={MASK}"


@pytest.mark.parametrize(
    "url",
    ["https://h/m?max_tokens=16&revision=main", "https://h/m?bypass=1", "https://h/?token=None",
     "https://h/m?tokenizer=fast&num_pass=2", "https://h/m?X-Amz-Date=20261128&X-Amz-Expires=60",
     "https://h/admin/events?cause=5&since=1h", "why?key: none"],
)  # fmt: skip
def test_other_parts_of_a_query_are_shown(url: str) -> None:
    assert masked(url) == url


@given(st.text(max_size=200))
def test_masking_is_done_once_for_all(text: str) -> None:
    assert masked(masked(text)) == masked(text)


def test_what_hides_nothing_is_the_very_same() -> None:
    spec = ModelLoadRequested("org/model", options={"max-model-len": 4096}, env={"A": "b"})
    assert shown(spec) is spec
    assert without_secrets(spec) is spec
    assert secrets_of(spec.env) == ()


def test_only_the_secret_is_hidden() -> None:
    spec = ModelLoadRequested("m", env={"HF_TOKEN": "hf_SECRET123", "A": "b"}, options={"seed": 1})
    assert shown(spec) == ModelLoadRequested(
        "m", env={"HF_TOKEN": MASK, "A": "b"}, options={"seed": 1}
    )


def test_what_is_nested_beyond_measure_is_hidden_as_a_whole() -> None:
    nested: object = "hf_SECRET123"
    for _ in range(500):
        nested = [nested]
    assert "SECRET" not in repr(shown(nested))


@pytest.mark.parametrize(
    "part",
    [
        "http://", "http://a:b", "a://b:c/", "token.a.", "--token.", "--token.--a.", "sk-", "sk-a-",
        "eyJ_", "eyJ-eyJaaaaaaaa.", "\\", "\\\\\"token\\\"", "\"token\" ", "Bearer ", "bearer a",
        "cookie: ", "cookie :\t", "?token", "&sig=", "hf_a", "a", "A", "token: a ", "-----BEGIN ",
        "-----BEGIN PRIVATE KEY-----", "nbl_", "xoxb-", "key=\\\"", "key='\\",
    ],
)  # fmt: skip
def test_a_text_that_is_made_to_be_searched_for_long_is_searched_once(part: str) -> None:
    """A search that begins anew at each place would take hours."""
    secret = "hf_" + "Ab1" * 8
    text = part * (256 * 1024 // len(part)) + f"\n\nHF_TOKEN={secret}\n"
    assert secret not in masked(text)
