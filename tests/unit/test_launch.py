"""The command line and the environment that a replica's engine is started with."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

import pytest
from msgspec.structs import replace

from nebula.actors.node import launch as launch_line
from nebula.actors.node.launch import (
    BIND,
    BRIDGE,
    DEFAULTS,
    NO_MEDIA,
    Site,
    arguments,
    cpu_cache,
    environment,
)
from nebula.events.memory import GIB, MIB
from nebula.events.state import Launch, Replica
from nebula.events.values import Device, Task

SITE = Site("alpha", "/var/nebula", ("python", "-m", "vllm"), "nats://127.0.0.1:4222", cores=8)
CPU = Device(0, "cpu", "x86_64, 2 cores", 16 * GIB)
GPU = Device(1, "gpu", "H100", 80 * GIB)
LAUNCH = Launch("/models/qwen", "Qwen/Qwen2.5", "chat", False, None, {}, {})
REPLICA = Replica(id="chat-0", model="chat", node="alpha", devices=(1,), memory=20 * GIB, version=3)


def line(device: Device = GPU, replica: Replica = REPLICA, **launch: Any) -> list[str]:
    return list(arguments(SITE, replace(LAUNCH, **launch), replica, device, 8001))


def added_by(options: dict[str, Any]) -> list[str]:
    return line(options=options)[len(line()) :]


def environ(
    inherited: dict[str, str] | None = None,
    device: Device = GPU,
    replica: Replica = REPLICA,
    **launch: Any,
) -> dict[str, str]:
    how = replace(LAUNCH, **launch)
    return environment(SITE, how, replica, device, 8123, inherited or {})


def test_a_chat_model_on_a_gpu_is_started_with_exactly_this_line() -> None:
    assert line() == [
        *("python", "-m", "vllm"),
        *("--model", "/models/qwen"),
        *("--served-model-name", "Qwen/Qwen2.5"),
        *("--host", "127.0.0.1"),
        *("--port", "8001"),
        *("--middleware", BRIDGE),
        *("--allowed-media-domains", NO_MEDIA),
        "--gpu-memory-utilization=0.25",
    ]


def test_the_middleware_is_the_bridge_that_can_be_imported_under_that_name() -> None:
    module, _, name = BRIDGE.rpartition(".")
    assert hasattr(__import__(module, fromlist=[name]), name)


def test_a_cpu_gets_a_kv_cache_in_bytes_and_no_share_of_a_gpu() -> None:
    added = line(CPU)[len(line()) - 1 :]
    assert f"--kv-cache-memory-bytes={5 * GIB}" in added
    assert not [part for part in added if "gpu" in part]


def test_an_engine_on_a_cpu_has_no_process_for_its_worker_unless_its_threads_are_bound() -> None:
    executor, variable = "--distributed-executor-backend", "VLLM_ENABLE_V1_MULTIPROCESSING"
    assert f"{executor}=uni" in line(CPU)
    assert not [part for part in line(GPU) if part.startswith(executor)]
    own = line(CPU, options={"distributed_executor_backend": "mp"})
    assert [part for part in own if part.startswith(executor)] == [f"{executor}=mp"]
    assert environ(device=CPU)[variable] == "0"
    assert variable not in environ(device=GPU)
    assert variable not in environ({BIND: "0-3"}, device=CPU), "vLLM then takes mp for uni"


EVENTS = PurePath("/run/8001.kv")


def test_an_engine_that_is_to_publish_what_it_caches_is_told_where_and_so_is_its_bridge() -> None:
    told = arguments(SITE, LAUNCH, REPLICA, GPU, 8001, None, EVENTS)
    [config] = [part for part in told if part.startswith("--kv-events-config=")]
    assert json.loads(config.partition("=")[2]) == {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": "ipc:///run/8001.kv",
    }
    told_bridge = environment(SITE, LAUNCH, REPLICA, GPU, 8001, {}, events=EVENTS)
    assert told_bridge["NEBULA_KV_EVENTS_ENDPOINT"] == "ipc:///run/8001.kv"
    assert not [part for part in line() if "kv-events" in part]
    assert "NEBULA_KV_EVENTS_ENDPOINT" not in environ()


@pytest.mark.parametrize(
    ("how", "publishes"),
    [
        ({}, True),
        ({"options": {"enable-prefix-caching": True}}, True),
        ({"options": {"enable_prefix_caching": False}}, False),
        ({"options": {"no-enable-prefix-caching": True}}, False),
        ({"options": {"kv-events-config": {"publisher": "null"}}}, False),
        ({"options": {"data_parallel_size": 2}}, False),
        ({"task": "embedding"}, False),
    ],
)
def test_engines_publish_where_it_helps_and_their_options_allow_it(
    how: dict[str, Any], publishes: bool
) -> None:
    launch = replace(LAUNCH, **how)
    assert launch_line.publishes(replace(SITE, kv_events=True), launch) == publishes
    assert not launch_line.publishes(SITE, launch)


def test_an_embedding_model_is_started_as_a_pooling_runner() -> None:
    started = line(task="embedding")
    assert started[started.index("--runner") + 1] == "pooling"
    assert "--runner" not in line()


@pytest.mark.parametrize("task", ["score", "pooling"])
def test_models_that_compute_vectors_or_scores_are_pooling_runners(task: Task) -> None:
    started = line(task=task)
    assert started[started.index("--runner") + 1] == "pooling"
    assert "--convert" not in started


def test_a_model_for_classes_gets_a_head_for_them_unless_its_options_say_otherwise() -> None:
    started = line(task="classify")
    assert started[started.index("--convert") + 1] == "classify"
    mine = line(task="classify", options={"convert": "none", "runner": "auto"})
    assert (mine.count("--convert"), mine.count("--runner")) == (0, 0)
    assert {"--convert=none", "--runner=auto"} <= set(mine)


def test_a_model_for_speech_is_a_generating_runner() -> None:
    assert "--runner" not in line(task="transcription")


def test_lora_is_switched_on_only_where_it_is_wanted() -> None:
    assert "--enable-lora" in line(lora=True)
    assert "--enable-lora" not in line()


@pytest.mark.parametrize(
    ("memory", "share"), [(80 * GIB, "1.0"), (GIB, "0.012"), (27 * GIB, "0.337")]
)
def test_the_share_of_a_gpu_is_rounded_down_so_that_shares_never_add_up_to_more(
    memory: int, share: str
) -> None:
    assert line(replica=replace(REPLICA, memory=memory))[-1] == f"--gpu-memory-utilization={share}"


@pytest.mark.parametrize("key", ["gpu-memory-utilization", "gpu_memory_utilization"])
def test_a_share_that_the_user_has_set_is_given_once_and_as_they_set_it(key: str) -> None:
    shares = [part for part in line(options={key: 0.5}) if "utilization" in part]
    assert shares == ["--gpu-memory-utilization=0.5"]


@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_cache_that_the_user_has_set_takes_the_place_of_nebulas_memory_options(
    device: Device,
) -> None:
    started = line(device, options={"kv_cache_memory_bytes": "2G"})
    assert [part for part in started if "memory" in part] == ["--kv-cache-memory-bytes=2G"]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"max-model-len": 4096}, ["--max-model-len=4096"]),
        ({"max_model_len": 4096}, ["--max-model-len=4096"]),
        ({"swap-space": 0.5}, ["--swap-space=0.5"]),
        ({"dtype": "float16"}, ["--dtype=float16"]),
        ({"enforce-eager": True}, ["--enforce-eager"]),
        ({"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ({"quantization": None}, []),
        ({"seed": 1}, ["--seed=1"]),
        ({"seed": 0}, ["--seed=0"]),
        ({"allowed-origins": ["a", "b"]}, ["--allowed-origins", "a", "b"]),
        ({"override": {"a": [1, "b c"]}}, ['--override={"a": [1, "b c"]}']),
        ({"chat-template": "-x --port 1"}, ["--chat-template=-x --port 1"]),
        ({"compilation_config.level": 3}, ["--compilation_config.level=3"]),
        ({"dtype": ""}, ["--dtype="]),
    ],
)
def test_options_are_written_as_vllm_reads_them(options: dict[str, Any], parts: list[str]) -> None:
    assert added_by(options) == parts


def test_the_cpus_cache_is_a_quarter_of_the_share_and_never_too_little_to_start() -> None:
    assert cpu_cache(8 * GIB) == 2 * GIB
    assert cpu_cache(1) == 128 * MIB


def test_an_engine_learns_its_identity_from_its_environment() -> None:
    assert environ({"HOME": "/root"}) == {
        "HOME": "/root",
        **DEFAULTS,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "1",
        "NEBULA_NATS_URL": "nats://127.0.0.1:4222",
        "NEBULA_NODE": "alpha",
        "NEBULA_NODE_FOLDER": "/var/nebula",
        "NEBULA_MODEL": "chat",
        "NEBULA_REPLICA": "chat-0",
        "NEBULA_VERSION": "3",
        "NEBULA_ENGINE_PORT": "8123",
        "NEBULA_CLUSTER": "",
        "SPT_NOENV": "1",
    }


def test_an_engine_on_a_cpu_is_told_nothing_of_gpus() -> None:
    assert "CUDA_VISIBLE_DEVICES" not in environ(device=CPU)


@pytest.mark.parametrize(
    ("devices", "seen"), [((1,), "1"), ((1, 3), "1,3"), ((3, 0, 2, 10), "3,0,2,10")]
)
def test_the_gpus_of_a_replica_replace_those_that_the_node_itself_sees(
    devices: tuple[int, ...], seen: str
) -> None:
    inherited = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    found = environ(inherited, replica=replace(REPLICA, devices=devices))
    assert found["CUDA_VISIBLE_DEVICES"] == seen
    assert found["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # the order in which they were numbered


def test_adapters_can_be_loaded_at_run_time_only_where_lora_is_wanted() -> None:
    assert environ(lora=True)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environ()


def test_the_users_variables_win_over_the_nodes_and_never_over_nebulas() -> None:
    told = environ(
        {"HF_HOME": "/node", "VLLM_NO_USAGE_STATS": "0", "NEBULA_REPLICA": "another"},
        env={"HF_HOME": "/mine", "NEBULA_REPLICA": "evil-0", "NEBULA_NODE": "evil"},
    )
    assert (told["HF_HOME"], told["VLLM_NO_USAGE_STATS"]) == ("/mine", "0")
    assert (told["NEBULA_REPLICA"], told["NEBULA_NODE"]) == ("chat-0", "alpha")


THREADS = ("VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")


def threads(*, inherited: dict[str, str] | None = None, **launch: Any) -> list[str | None]:
    found = environ(inherited, **{"device": CPU, **launch})
    return [found.get(name) for name in THREADS]


def test_engines_on_a_cpu_share_its_cores_instead_of_being_bound_to_the_same() -> None:
    assert threads() == ["nobind", "7", "PASSIVE"]
    assert threads(device=GPU) == [None, None, None]


def test_one_core_is_enough_for_a_thread() -> None:
    site = replace(SITE, cores=1)
    found = environment(site, LAUNCH, REPLICA, CPU, 8123, {})
    assert found["OMP_NUM_THREADS"] == "1"


def test_a_setting_of_how_threads_are_bound_is_left_alone() -> None:
    assert threads(inherited={"VLLM_CPU_OMP_THREADS_BIND": "0-3"}) == ["0-3", None, None]
    assert threads(env={"VLLM_CPU_OMP_THREADS_BIND": "auto"}) == ["auto", None, None]


def test_a_setting_of_the_number_of_threads_is_kept() -> None:
    assert threads(inherited={"OMP_NUM_THREADS": "3"}) == ["nobind", "3", "PASSIVE"]
    assert threads(inherited={"OMP_NUM_THREADS": "3"}, env={"OMP_NUM_THREADS": "2"})[1] == "2"
    assert threads(env={"OMP_WAIT_POLICY": "ACTIVE"})[2] == "ACTIVE"


def test_what_the_user_wants_of_the_engine_wins_over_what_nebula_sets_for_it() -> None:
    own = {"OMP_NUM_THREADS": "2", "VLLM_NO_USAGE_STATS": "0"}
    found = environ({"VLLM_NO_USAGE_STATS": "1"}, device=CPU, env=own)
    assert own.items() <= found.items()


def test_the_hub_s_token_is_in_no_command_line() -> None:
    for key in ("hf-token", "hf_token"):
        assert added_by({key: "hf_SECRET123"}) == []
        assert environ(options={key: "hf_SECRET123"})["HF_TOKEN"] == "hf_SECRET123"
    assert added_by({"hf-token": True}) == ["--hf-token"]
    assert "HF_TOKEN" not in environ(options={"hf-token": True})


def test_a_node_says_from_where_media_may_be_fetched() -> None:
    site = replace(SITE, media_domains=("a.example", "b.example"))
    started = arguments(site, LAUNCH, REPLICA, GPU, 8001)
    at = started.index("--allowed-media-domains")
    assert started[at + 1 : at + 3] == ("a.example", "b.example")
    assert started[at + 3].startswith("--")
    assert environ()["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert environ({"VLLM_HOST_IP": "10.0.0.1"})["VLLM_HOST_IP"] == "10.0.0.1"


def test_an_engine_listens_on_its_socket_where_it_has_one() -> None:
    started = arguments(SITE, LAUNCH, REPLICA, GPU, 8001, PurePath("/var/nebula/8001.sock"))
    assert started[started.index("--uds") + 1] == "/var/nebula/8001.sock"
    assert "--uds" not in line()


def test_the_spans_of_an_engine_go_where_its_node_s_go_and_say_whose_they_are() -> None:
    url = "http://collector:4318/v1/traces"
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    site = replace(SITE, traces=url, traceparent=parent)
    told = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=lab"}
    assert f"--otlp-traces-endpoint {url}" in " ".join(arguments(site, LAUNCH, REPLICA, GPU, 8001))
    given = environment(site, LAUNCH, REPLICA, GPU, 8001, told)
    assert given["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert given["OTEL_SERVICE_NAME"] == "vllm"
    assert given["TRACEPARENT"] == parent
    assert given["OTEL_RESOURCE_ATTRIBUTES"] == (
        "deployment.environment.name=lab,nebula.replica=chat-0,nebula.model=chat,nebula.node=alpha"
    )
    assert "--otlp-traces-endpoint" not in line()
    assert not [name for name in environ() if name.startswith("OTEL_")]
