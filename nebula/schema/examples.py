"""One example of every event, all from one story: a chat model, and what became of it."""

from datetime import UTC, datetime

from nebula.events.capture_events import CaptureStarted, CaptureStopped
from nebula.events.decisions import NodeRisk
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    BatchCancelRequested,
    BatchRequested,
    EngineKillRequested,
    ModelLoadRequested,
    ModelRebalanceRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
    WeightsRemoveRequested,
)
from nebula.events.key_events import KeyChanged, KeyIssued, KeyRevoked
from nebula.events.limit_events import LimitsSet
from nebula.events.memory import GIB
from nebula.events.usage import UsageRolledUp, UsageSum
from nebula.events.usage_limits import UsageLimits
from nebula.events.values import Adapter, Assignment, Device, Target
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    BatchCancelled,
    BatchFinished,
    BatchProgressed,
    BatchStarted,
    ClusterFounded,
    ClusterVersionRaised,
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    DownloadWaits,
    EngineFailed,
    EngineReady,
    EngineResumed,
    EngineStalled,
    EngineStarted,
    EngineStopped,
    Event,
    EventRejected,
    ModelAssigned,
    ModelMeasured,
    ModelRolledBack,
    ModelScaled,
    ModelSlept,
    ModelUnloaded,
    ModelUnschedulable,
    ModelWoken,
    NodeDeregistered,
    NodeHeard,
    NodeLost,
    NodeRegistered,
    NodeStopped,
    NodeSuspected,
    ResilienceChanged,
    WeightsRemoved,
)

_DIGEST = "3f1c9e0b7d5a42688e9b1f0c6d4a7e2519c8b3f6a0d7e4c1925b8f3a6d0e7c14"
_KEY = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"
_QWEN = "Qwen/Qwen2.5-0.5B-Instruct"

_EVENTS: tuple[tuple[str, Event], ...] = (
    ("4f1d0c", ClusterFounded("lab", 5)),
    (
        "n1",
        NodeRegistered(
            (Device(0, "gpu", "NVIDIA H100 80GB HBM3", 80 * GIB, "GPU-5fd4f087"),),
            "gpu-7",
            {"zone": "a"},
            "0.1.0",
            rehearsal=True,
        ),
    ),
    (
        "chat",
        ModelLoadRequested(
            _QWEN,
            name="qwen",
            adapters=(Adapter("sql", "/srv/adapters/sql"),),
            memory="6GiB",
            options={"max-model-len": 4096},
            env={"VLLM_LOGGING_LEVEL": "DEBUG"},
        ),
    ),
    ("n1", DownloadStarted(_QWEN, "7ae5576", 10, 0, 999_572_480)),
    ("n1", DownloadWaits(_QWEN, "asks the hub for its files")),
    ("n1", DownloadProgressed(_QWEN, 402_653_184, 999_572_480)),
    ("n1", DownloadFailed(_QWEN, "the connection was reset", 2.0)),
    ("n1", DownloadFinished(_QWEN, 999_572_480, "7ae5576", 12.5)),
    ("chat", ModelMeasured(_QWEN, 988_097_824, 12_288, 32_768)),
    ("chat", ModelAssigned(1, (Assignment("chat-0", "n1", (0,), 6 * GIB, 1),))),
    ("chat-0", EngineStarted(4711, 1795402800.25, 41191, "/srv/nebula/logs/chat-0.log", 1)),
    ("chat-0", EngineReady("0.32.0", 21.5, tasks=("generate",), max_model_len=32_768)),
    ("chat-0", EngineKillRequested(4711)),
    (
        "chat-0",
        EngineStalled(30.4, 3, 269.6, "no token, no step, a probe of one token waits for 25 s"),
    ),
    ("chat-0", EngineResumed(42.1)),
    ("chat-0", AdapterLoaded("sql", "/srv/adapters/sql", digest=_DIGEST, asked=5)),
    ("prod", AliasRequested((Target("qwen", 9), Target("sql", 1)), name="prod-chat")),
    ("chat", AdapterLoadRequested("poet", "/srv/adapters/poet")),
    ("chat-0", AdapterLoadFailed("poet", "/srv/adapters/poet", "rank 64 is above 16", asked=7)),
    ("chat", AdapterUnloadRequested("sql")),
    ("chat-0", AdapterUnloaded("sql", digest=_DIGEST)),
    ("chat", ModelScaled(2, "20 requests in flight are 20.0 for each of 1, more than 16")),
    ("chat", ModelSlept("no request for 600.5 s: it sleeps after 600 s")),
    ("chat", ModelWoken("2 requests wait, for 1.5 s")),
    ("chat", ModelRolledBack("chat-1 gave up after 3 attempts: unknown option")),
    ("chat", ModelScaleRequested(20)),
    ("chat", ModelUnschedulable("no device has room: n1/gpu0 has 1.6 GiB left, needs 6.0 GiB", 8)),
    (
        "chat-0",
        EngineFailed("CUDA out of memory", -9, ("RuntimeError: CUDA out of memory",), 1, 2.0),
    ),
    ("chat", ModelRebalanceRequested(("chat-0",))),
    ("n1", NodeDrainRequested()),
    ("n1", NodeUndrainRequested()),
    ("prod", AliasRemoveRequested()),
    ("chat", ModelUnloadRequested()),
    ("chat-0", EngineStopped("the model is unloaded")),
    ("chat", ModelUnloaded()),
    ("n1", WeightsPinRequested(_QWEN, pinned=False)),
    ("n1", WeightsRemoveRequested(_QWEN)),
    ("n1", WeightsRemoved(_QWEN, "it was requested")),
    ("4f1d0c", ClusterVersionRaised(6, "2 routers and 3 nodes know version 6")),
    (
        "4f1d0c",
        ResilienceChanged(
            (NodeRisk("n1", ("chat",), 1, 64 * 2**30),),
            1,
            1,
            "1 of 3 nodes can't be lost without leaving replicas of 1 model without a place",
        ),
    ),
    (
        "batch_6f0e",
        BatchRequested("file-81c2", "/v1/chat/completions", metadata={"run": "nightly"}),
    ),
    ("batch_6f0e", BatchStarted(1000)),
    ("batch_6f0e", BatchProgressed(412, 3)),
    ("batch_6f0e", BatchCancelRequested()),
    ("batch_6f0e", BatchCancelled(417, 3, "file-c1e4", "file-d2f5")),
    ("batch_81c0", BatchFinished("completed", 995, 5, "file-9a3d", "file-b07f")),
    (
        "ci",
        KeyIssued(
            _KEY,
            ("infer",),
            name="nightly checks",
            prefix="nbl_ci_x7Qa9d",
            models=("qwen", "org/*"),
            tenant="team-a",
            expires=datetime(2027, 1, 1, tzinfo=UTC),
            limits=UsageLimits(requests_per_minute=600, priority=(0, 9)),
        ),
    ),
    ("ci", KeyChanged(("infer", "view"), name="nightly checks", models=("qwen",))),
    ("ci", KeyRevoked("left the team")),
    ("slow-answers", CaptureStarted(3600.0, tenant="team-a", share=0.05)),
    ("slow-answers", CaptureStopped()),
    ("team-a", LimitsSet("tenant", UsageLimits(tokens_per_month=50_000_000, in_flight=64))),
    (
        "20261129T053000000000",
        UsageRolledUp(
            0,
            57,
            (
                UsageSum(
                    1795928400,
                    "ci",
                    "chat",
                    "/v1/chat/completions",
                    tenant="team-a",
                    requests=310,
                    prompt=40_180,
                    cached=12_288,
                    completion=61_022,
                ),
            ),
        ),
    ),
    ("42", EventRejected("nebula.events.model.chat.ModelScaleRequested", "there is no such model")),
    ("n1", NodeSuspected("not heard from for 20.4 s: it is lost after 30 s")),
    ("n1", NodeHeard("it reads this log")),
    ("n1", NodeLost("no heartbeat for 15 s")),
    ("n1", NodeStopped(2)),
    ("n1", NodeDeregistered()),
)

EXAMPLES: dict[str, tuple[str, Event]] = {type(event).__name__: (i, event) for i, event in _EVENTS}
"""Type of event -> (id of its aggregate, the event)."""
