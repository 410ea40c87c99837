"""One example of every event, all from one story: a chat model, and what became of it."""

from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelRebalanceRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
    WeightsRemoveRequested,
)
from nebula.events.memory import GIB
from nebula.events.values import Adapter, Assignment, Device, Target
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    EngineFailed,
    EngineReady,
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
    NodeSuspected,
    WeightsRemoved,
)

_QWEN = "Qwen/Qwen2.5-0.5B-Instruct"

_EVENTS: tuple[tuple[str, Event], ...] = (
    (
        "n1",
        NodeRegistered(
            (Device(0, "gpu", "NVIDIA H100 80GB HBM3", 80 * GIB),), "gpu-7", {"zone": "a"}, "0.1.0"
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
    ("n1", DownloadProgressed(_QWEN, 402_653_184, 999_572_480)),
    ("n1", DownloadFailed(_QWEN, "the connection was reset", 2.0)),
    ("n1", DownloadFinished(_QWEN, 999_572_480, "7ae5576", 12.5)),
    ("chat", ModelMeasured(_QWEN, 988_097_824, 12_288, 32_768)),
    ("chat", ModelAssigned(1, (Assignment("chat-0", "n1", (0,), 6 * GIB, 1),))),
    ("chat-0", EngineStarted(4711, 1795402800.25, 41191, "/srv/nebula/logs/chat-0.log", 1)),
    ("chat-0", EngineReady("0.12.0", 21.5)),
    ("chat-0", AdapterLoaded("sql", "/srv/adapters/sql")),
    ("prod", AliasRequested((Target("qwen", 9), Target("sql", 1)), name="prod-chat")),
    ("chat", AdapterLoadRequested("poet", "/srv/adapters/poet")),
    ("chat-0", AdapterLoadFailed("poet", "/srv/adapters/poet", "rank 64 is above 16")),
    ("chat", AdapterUnloadRequested("sql")),
    ("chat-0", AdapterUnloaded("sql")),
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
    ("n1", WeightsRemoved(_QWEN, "somebody asked for it")),
    ("42", EventRejected("nebula.events.model.chat.ModelScaleRequested", "there is no such model")),
    ("n1", NodeSuspected("not heard from for 20.4 s: it is lost after 30 s")),
    ("n1", NodeHeard("it reads this log")),
    ("n1", NodeLost("no heartbeat for 15 s")),
    ("n1", NodeDeregistered()),
)

EXAMPLES: dict[str, tuple[str, Event]] = {type(event).__name__: (i, event) for i, event in _EVENTS}
"""Type of event -> (id of its aggregate, the event)."""
