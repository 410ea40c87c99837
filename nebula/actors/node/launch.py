"""Builds vLLM's command line and environment for one replica. Pure."""

import json
import math
from collections.abc import Mapping
from pathlib import PurePath

from msgspec import Struct

from nebula.actors.node.engine_mark import EngineMark
from nebula.events.endpoints import generates
from nebula.events.engine_options import by_name, option
from nebula.events.memory import MIB
from nebula.events.state import Launch, Replica
from nebula.events.trace_context import VARIABLE
from nebula.events.values import Device, OptionValue, Task

BRIDGE = "nebula.actors.engine.bridge.EngineBridge"
"""The value of `--middleware`: the ASGI middleware that connects an engine to NATS."""

HUB_TOKEN = "hf-token"
"""The option that is passed in the environment (HF_TOKEN), since command lines are public."""

NO_MEDIA = "none.invalid"
"""A domain that nothing can have. Without any, vLLM fetches media from every address."""

DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    "VLLM_HOST_IP": "127.0.0.1",
}
"""Variables of engines unless their node sets them: all processes of one are on one machine."""

TITLES = "SPT_NOENV"
"""The variable with which vLLM's processes do not write their titles over their environment, which
has the mark."""

BIND = "VLLM_CPU_OMP_THREADS_BIND"

KV_EVENTS = "kv-events-config"
"""The option with which vLLM publishes what its KV cache holds."""

EXECUTOR = "distributed-executor-backend"
"""The option that says whether vLLM's worker has a process of its own."""


class Site(Struct, frozen=True):
    """What a node adds to every engine it starts.

    `command` is the program and its first arguments; `folder` is the node's own; `cores` is the
    number of cores that it may use. From `media_domains` engines may fetch what requests name by
    URL. `cluster`: the cluster's id; "" before it has one. `traces`: the URL of the collector that
    gets the spans of engines; "" for none. `traceparent`: of the span of the plan for which the
    engine starts; "" if it has none. `kv_events`: whether engines are to publish what their KV
    caches hold.
    """

    node: str
    folder: str
    command: tuple[str, ...]
    nats_url: str
    cores: int
    media_domains: tuple[str, ...] = ()
    cluster: str = ""
    traces: str = ""
    traceparent: str = ""
    kv_events: bool = False


def arguments(
    site: Site,
    launch: Launch,
    replica: Replica,
    device: Device,
    port: int,
    socket: PurePath | None = None,
    events: PurePath | None = None,
) -> tuple[str, ...]:
    """Return the command line, which has only vLLM's own options.

    With a `socket` vLLM listens there instead of on its port. `events`: the socket on which it
    publishes what its KV cache holds, if it does.
    """
    line = [
        *site.command,
        "--model",
        launch.source,
        "--served-model-name",
        launch.name,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--middleware",
        BRIDGE,
        "--allowed-media-domains",
        *(site.media_domains or (NO_MEDIA,)),
    ]
    if socket is not None:
        line += ["--uds", str(socket)]
    if events is not None:
        config = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": endpoint(events)}
        line.append(f"--{KV_EVENTS}={json.dumps(config)}")
    if site.traces:
        line += ["--otlp-traces-endpoint", site.traces]
    options = by_name(launch.options)
    for key, kind in _kind(launch.task).items():
        if key not in options:
            line += [f"--{key}", kind]
    if launch.lora:
        line.append("--enable-lora")
    if device.kind == "gpu" and not options.keys() & {
        "gpu-memory-utilization",
        "kv-cache-memory-bytes",
    }:
        share = replica.memory / device.memory if device.memory else 0.0
        line.append(f"--gpu-memory-utilization={math.floor(share * 1000) / 1000}")
    if device.kind == "cpu" and "kv-cache-memory-bytes" not in options:
        line.append(f"--kv-cache-memory-bytes={cpu_cache(replica.memory)}")
    if device.kind == "cpu" and EXECUTOR not in options:
        line.append(f"--{EXECUTOR}=uni")
    for key, value in options.items():
        if not (key == HUB_TOKEN and isinstance(value, str)):
            line += _option(key, value)
    return tuple(line)


def publishes(site: Site, launch: Launch) -> bool:
    """Return whether an engine is to publish what its KV cache holds.

    Engines that compute vectors hold nothing for a second prompt. Of several engines in one
    process group, each would need a socket of its own.
    """
    options = by_name(launch.options)
    return (
        site.kv_events
        and generates(launch.task)
        and options.get("enable-prefix-caching", True) is not False
        and options.get("no-enable-prefix-caching") is not True
        and KV_EVENTS not in options
        and not any(key.startswith("data-parallel") for key in options)
    )


def endpoint(events: PurePath) -> str:
    """Return ZeroMQ's name for the socket on which an engine publishes."""
    return f"ipc://{events}"


def _kind(task: Task) -> dict[str, str]:
    """Return the options that a task needs; by itself vLLM would generate where it can.

    `--convert` gives a generating model a head for classes. Models that compute classes, scores or
    vectors by themselves stay as they are.
    """
    if generates(task):
        return {}
    return {"runner": "pooling", **({"convert": "classify"} if task == "classify" else {})}


def _option(key: str, value: OptionValue) -> list[str]:
    match value:
        case True:
            return [f"--{key}"]
        case False:
            return [f"--no-{key}"]
        case None:
            return []
        case list():
            return [f"--{key}", *(str(item) for item in value)]
        case dict():
            return [f"--{key}={json.dumps(value)}"]
        case _:
            return [f"--{key}={value}"]


def environment(
    site: Site,
    launch: Launch,
    replica: Replica,
    device: Device,
    port: int,
    inherited: Mapping[str, str],
    secrets: Mapping[str, str] = {},
    key: str = "",
    events: PurePath | None = None,
) -> dict[str, str]:
    """Return the engine's environment: what it inherits, with vLLM's and the bridge's settings.

    `secrets`: the values of the variables that the load request gives as names of secrets.
    `key`: what it demands of requests on its TCP port. `events`: as in `arguments`.
    """
    environ = {**DEFAULTS, **inherited}
    if device.kind == "cpu":
        environ = {**_threads(site, launch, inherited), **environ}
    if launch.lora:
        environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if device.kind == "gpu":
        # NVML, which found the devices, uses this order; CUDA by default puts the fastest first.
        environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in replica.devices)
    token = option(launch.options, HUB_TOKEN)
    which = (replica.id, str(replica.version), str(port))
    mark = EngineMark(site.node, site.folder, *which, site.cluster)
    return {
        **environ,
        **{key: value for key, value in launch.env.items() if isinstance(value, str)},
        **secrets,
        **({"HF_TOKEN": token} if isinstance(token, str) else {}),
        "NEBULA_NATS_URL": site.nats_url,
        "NEBULA_MODEL": replica.model,
        **(_tracing(site, replica, inherited) if site.traces else {}),
        **mark.variables,
        TITLES: "1",
        **({"NEBULA_ENGINE_KEY": key} if key else {}),
        **({"NEBULA_KV_EVENTS_ENDPOINT": endpoint(events)} if events is not None else {}),
    }


def _tracing(site: Site, replica: Replica, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which an engine's spans say whose they are.

    vLLM's spans go over gRPC unless it is told otherwise.
    """
    told = inherited.get("OTEL_RESOURCE_ATTRIBUTES", "")
    own = {"replica": replica.id, "model": replica.model, "node": site.node}
    attributes = [f"nebula.{name}={value}" for name, value in own.items()]
    return {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": "vllm",
        "OTEL_RESOURCE_ATTRIBUTES": ",".join([*([told] if told else []), *attributes]),
        **({VARIABLE: site.traceparent} if site.traceparent else {}),
    }


def _threads(site: Site, launch: Launch, inherited: Mapping[str, str]) -> dict[str, str]:
    """Share a machine's cores: by default vLLM binds the threads of all engines to the same cores.

    Waiting threads spin there, so that engines block each other. Engines run well side by side if
    threads are not bound, are as many as vLLM would use (all cores but one), and sleep while they
    wait for each other. Values that are already set are kept.

    A worker needs a process of its own only for threads that are bound, and each process of vLLM
    imports all of it: without one an engine starts in two thirds of the time.
    """
    if BIND in {**inherited, **launch.env}:
        return {}
    return {
        BIND: "nobind",
        "OMP_NUM_THREADS": str(max(site.cores - 1, 1)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else vLLM does not heed EXECUTOR on a CPU
    }


def cpu_cache(share: int) -> int:
    """Return the KV cache's bytes for a share of a CPU node: a quarter of it, at least 128 MiB.

    The rest is for the weights and the processes. Without a size vLLM asks for nearly the whole
    machine, and does not start if that is not free. (`VLLM_CPU_KVCACHE_SPACE`, if set, overrides
    this in vLLM.)
    """
    return max(share // 4, 128 * MIB)
