"""What a node's policy lets a load request use, and the words with which it refuses the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.actors.node.policy import options, variables
from nebula.actors.node.policy.gate import Gate, NotAllowed
from nebula.actors.node.policy.reading import BadPolicy, extended, read
from nebula.actors.node.policy.rules import (
    ANY_SOURCE,
    NodePolicy,
    Refusal,
    refusal,
    source_refusal,
)
from nebula.actors.node.policy.variables import inherited
from nebula.events.engine_validation import RESERVED_OPTIONS
from nebula.events.state import Launch
from nebula.events.values import OptionValue

pytestmark = pytest.mark.anyio

DEFAULT = NodePolicy()
PLAIN = Launch("org/model", "chat", "chat", lora=False, memory=None, options={}, env={})


def option(key: str, value: OptionValue = "v", policy: NodePolicy = DEFAULT) -> Refusal | None:
    return refusal(policy, replace(PLAIN, options={key: value}))


def variable(name: str, policy: NodePolicy = DEFAULT) -> Refusal | None:
    return refusal(policy, replace(PLAIN, env={name: "v"}))


# What the security review found to be taken


@pytest.mark.parametrize(
    "key",
    [
        "trust-remote-code",
        "worker-cls",
        "worker-extension-cls",
        "logits-processors",
        "tool-parser-plugin",
        "reasoning-parser-plugin",
        "kv-transfer-config",
        "hf-overrides",
        "chat-template",
        "allowed-local-media-path",
        "allowed-media-domains",
        "download-dir",
        "allowed-origins",
        "log-config-file",
        "model-loader-extra-config",
        "fd",
        "nnodes",
        "master-addr",
        "additional-config",
        "speculative-config",
        "code-revision",
        "otlp-traces-endpoint",
        "data-parallel-address",
        "distributed-executor-backend",
        "compilation-config",
        "structured-outputs-config",
        "trust-request-chat-template",
        "enable-prompt-embeds",
    ],
)
def test_an_option_that_reaches_beyond_the_engine_is_refused(key: str) -> None:
    for spelling in (key, key.replace("-", "_"), key.upper(), f"{key}.part", f"no-{key}"):
        why = option(spelling)
        assert why is not None, spelling
        assert key in why.reason
        assert f"--allow-option {key}" in why.remedy
        assert option(spelling, policy=NodePolicy(options=(key,))) is None
    assert option(key, value=["a", "b"]) is not None
    assert option(key, value={"part": "x"}) is not None
    assert option(key, value=None) is None, "it is not passed on at all"


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PYTHONINSPECT",
        "PATH",
        "HOME",
        "HTTPS_PROXY",
        "https_proxy",
        "SSL_CERT_FILE",
        "HF_ENDPOINT",
        "HF_HOME",
        "VLLM_PLUGINS",
        "VLLM_SERVER_DEV_MODE",
        "VLLM_ALLOW_INSECURE_SERIALIZATION",
        "VLLM_USE_MODELSCOPE",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS",
        "VLLM_HOST_IP",
        "CUDA_VISIBLE_DEVICES",
    ],
)
def test_a_variable_that_reaches_beyond_the_engine_is_refused(name: str) -> None:
    why = variable(name)
    assert why is not None
    assert name in why.reason
    assert f"--allow-env {name}" in why.remedy
    assert variable(name, NodePolicy(env=(name,))) is None


@pytest.mark.parametrize(
    "name", ["NEBULA_NATS_URL", "nebula_nats_url", "VLLM_API_KEY", "vllm_api_key"]
)
def test_a_variable_of_nebulas_own_is_refused_whatever_a_policy_says(name: str) -> None:
    assert variable(name, NodePolicy(env=("*",))) is not None


@pytest.mark.parametrize(
    "source",
    [
        "/etc",
        "/etc/model",
        "../../etc",
        "/models/../etc",
        "/root/.ssh",
        "/home/me/.aws/x",
        "/proc/self/cwd",
        "/run/secrets/kubernetes.io",
        "file:///etc/passwd",
        "s3://bucket/x",
        "gs://bucket/x",
        "http://169.254.169.254/x",
        "https://host/x",
        "a//b",
        "./a",
        "~/a",
        "a/b/c",
        "",
    ],
)
def test_a_source_where_models_do_not_lie_is_refused(source: str) -> None:
    why = source_refusal(DEFAULT, source)
    assert why is not None
    assert source in why.reason
    assert refusal(DEFAULT, replace(PLAIN, source=source)) == why


@pytest.mark.parametrize(
    "source",
    ["org/model", "gpt2", "org/model:Q4_K_M", "/models/chat", "/home/me/.cache/x", "/dev/shm/m"],
)
def test_hub_ids_and_usual_folders_are_allowed(source: str) -> None:
    assert source_refusal(DEFAULT, source) is None


# What tunes


def test_the_options_of_the_guides_are_allowed() -> None:
    guides: dict[str, OptionValue] = {
        "max-model-len": 4096,
        "enforce_eager": True,
        "no-enable-prefix-caching": True,
        "enable-chunked-prefill": False,
        "tool-call-parser": "hermes",
        "tensor-parallel-size": 2,
        "simulate-tokens": 3,
        "cudagraph-capture-sizes": [1, 2],
        "compilation-config": {"cudagraph_mode": "NONE"},
        "hf_overrides.num_labels": 2,
        "speculative-config": {"method": "ngram", "num_speculative_tokens": 3},
        "load-format": "dummy",
        "distributed-executor-backend": "mp",
        "trust-remote-code": False,
        "tokenizer": "org/other",
    }
    env = dict.fromkeys(("VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS", "HF_TOKEN"), "1")
    assert refusal(DEFAULT, replace(PLAIN, options=guides, env=env)) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("load-format", "tensorizer"),
        ("generation-config", "/etc"),
        ("distributed-executor-backend", "my.module.Executor"),
        ("kv-offloading-backend", "lmcache"),
        ("compilation-config", {"cudagraph_mode": "NONE", "backend": "my.module.compile"}),
        ("compilation-config", '{"backend": "my.module.compile"}'),
        ("hf-overrides.auto_map", "x"),
        ("structured-outputs-config", {"reasoning_parser_plugin": "/x.py"}),
        ("speculative-config", {"method": "custom_class"}),
        ("speculative-config", {"model": "/root/.ssh"}),
        ("speculative-config", {}),
        ("mm-processor-kwargs", {"cache_dir": "/x"}),
        ("tokenizer", "/etc"),
        ("hf-config-path", "http://host/x"),
        ("enforce-eager", ["/etc"]),
        ("seed", [1, "org/other"]),
        ("trust", True),
        ("an-option-of-tomorrow", 1),
    ],
)
def test_a_value_that_reaches_beyond_the_engine_is_refused(key: str, value: OptionValue) -> None:
    assert option(key, value) is not None


def test_an_unknown_option_says_so_and_how_to_allow_it() -> None:
    why = option("an-option-of-tomorrow")
    assert why is not None
    assert str(why) == (
        "this node's policy does not allow the option an-option-of-tomorrow, which Nebula does not "
        "know: load it without, or have the node's owner allow it: "
        "`nebula node --allow-option an-option-of-tomorrow`"
    )


# Laws


@given(st.text(st.characters(codec="ascii"), max_size=40), st.sampled_from(["v", True, 1, ["v"]]))
def test_nothing_outside_of_the_table_of_options_passes(key: str, value: OptionValue) -> None:
    name = key.partition(".")[0].lower().replace("_", "-").removeprefix("no-")
    known = options.TUNING | options.SOURCES | set(options.VALUES)
    if name not in known and not name.startswith(options.SIMULATED):
        assert option(key, value) is not None


@given(st.text(max_size=40))
def test_nothing_outside_of_the_table_of_variables_passes(name: str) -> None:
    assert (variable(name) is None) == (name in variables.TUNING)


@given(st.text("abc/.*-", max_size=20))
def test_with_listed_folders_no_other_folder_passes(rest: str) -> None:
    policy = NodePolicy(sources=("/models", "org/*"))
    source = f"/{rest}"
    if source_refusal(policy, source) is None:
        assert source == "/models" or source.startswith(("/models/", "//models"))
        assert ".." not in Path(source).parts


def test_the_tables_of_options_do_not_contradict_each_other() -> None:
    assert not options.TUNING & set(options.GUARDED)
    assert not options.SOURCES & set(options.GUARDED)
    assert not options.TUNING & RESERVED_OPTIONS
    assert set(options.VALUES) <= set(options.GUARDED)
    assert {part.partition(".")[0] for part in options.PARTS} <= set(options.GUARDED)


# A policy of its own


def test_listed_sources_replace_the_default() -> None:
    policy = extended(DEFAULT, ("org/*", "/models"), (), ())
    assert source_refusal(policy, "org/model") is None
    assert source_refusal(policy, "/models/chat") is None
    for source in ("other/model", "/models2", "/home/me/model"):
        assert source_refusal(policy, source) is not None
    assert source_refusal(replace(policy, sources=("s3://bucket/*",)), "s3://bucket/x") is None
    assert source_refusal(replace(policy, sources=("/etc/models",)), "/etc/models/x") is None


async def test_a_link_counts_as_where_it_leads(tmp_path: Path) -> None:
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    models.mkdir()
    elsewhere.mkdir()
    (models / "link").symlink_to(elsewhere)
    gate = Gate(NodePolicy(sources=(str(models),)))
    launch = replace(PLAIN, source=str(models / "link"))
    with pytest.raises(NotAllowed, match="which leads to"):
        await gate.admit(launch)
    with pytest.raises(NotAllowed):
        await gate.admit_source(launch.source)
    assert not gate.withholds(launch), "only the disk tells"
    await gate.admit(replace(PLAIN, source=str(models)))
    system = tmp_path / "system"
    system.symlink_to("/etc")
    with pytest.raises(NotAllowed, match="which leads to /etc"):
        await Gate(DEFAULT).admit_source(str(system))


async def test_a_relative_folder_is_not_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    gate = Gate(NodePolicy(sources=("org/*",)))
    with pytest.raises(NotAllowed, match="which leads to"):
        await gate.admit(PLAIN)


def test_a_policy_is_read_from_toml_and_json(tmp_path: Path) -> None:
    fields = {"sources": ["org/*"], "options": ["trust-remote-code"], "env": ["MY_*"]}
    toml, plain = tmp_path / "policy.toml", tmp_path / "policy.json"
    toml.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items()))
    plain.write_text(json.dumps(fields))
    expected = NodePolicy(("org/*",), ("trust-remote-code",), ("MY_*",))
    assert read(toml) == read(plain) == expected
    toml.write_text("")
    assert read(toml) == DEFAULT == NodePolicy(ANY_SOURCE)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.toml", "sources = 1", "TOML: Expected `array`"),
        ("a.toml", "colour = []", "unknown field `colour`"),
        ("a.toml", "= [", "not a valid policy in TOML"),
        ("a.toml", "sources = ['']", "length >= 1"),
        ("a.json", "[]", "not a valid policy in JSON"),
        ("a.json", "{", "not a valid policy in JSON"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadPolicy, match=words.replace("[", r"\[")):
        read(tmp_path / name)
    with pytest.raises(BadPolicy, match="can't be read"):
        read(tmp_path / "none.toml")


# The environment of engines


def test_engines_inherit_what_they_need_and_no_credentials() -> None:
    needed = dict.fromkeys(
        ("PATH", "HOME", "LC_ALL", "CUDA_HOME", "VLLM_CACHE_ROOT", "HF_HOME", "HF_HUB_CACHE"), "1"
    )
    withheld = dict.fromkeys(
        (
            "HF_TOKEN",
            "HF_HUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "VLLM_API_KEY",
            "NEBULA_NATS_URL",
            "NEBULA_NATS_CREDENTIALS",
            "SSH_AUTH_SOCK",
            "DATABASE_URL",
            "HTTPS_PROXY",
            "CUDA_API_KEY",
        ),
        "secret",
    )
    assert inherited({**needed, **withheld}, ()) == needed
    assert inherited(withheld, ("HTTPS_PROXY", "HF_TOKEN", "NEBULA_*")) == {
        "HTTPS_PROXY": "secret",
        "HF_TOKEN": "secret",
    }
