"""One example of every event, all from one story: a chat model, and what became of it."""

from nebula.events.memory import GIB
from nebula.events.vocabulary import (
    Adapter,
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterLoadRequested,
    AdapterUnloaded,
    AdapterUnloadRequested,
    Assignment,
    Device,
    EngineFailed,
    EngineReady,
    EngineStarted,
    EngineStopped,
    Event,
    EventRejected,
    ModelAssigned,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloaded,
    ModelUnloadRequested,
    ModelUnschedulable,
    NodeDeregistered,
    NodeDrainRequested,
    NodeLost,
    NodeRegistered,
)

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
            "Qwen/Qwen2.5-0.5B-Instruct",
            name="qwen",
            adapters=(Adapter("sql", "/srv/adapters/sql"),),
            memory="6GiB",
            options={"max-model-len": 4096},
            env={"VLLM_LOGGING_LEVEL": "DEBUG"},
        ),
    ),
    ("chat", ModelAssigned(1, (Assignment("chat-0", "n1", (0,), 6 * GIB, 1),))),
    ("chat-0", EngineStarted(4711, 1795402800.25, 41191, "/srv/nebula/logs/chat-0.log", 1)),
    ("chat-0", EngineReady("0.12.0", 21.5)),
    ("chat-0", AdapterLoaded("sql", "/srv/adapters/sql")),
    ("chat", AdapterLoadRequested("poet", "/srv/adapters/poet")),
    ("chat-0", AdapterLoadFailed("poet", "/srv/adapters/poet", "rank 64 is above 16")),
    ("chat", AdapterUnloadRequested("sql")),
    ("chat-0", AdapterUnloaded("sql")),
    ("chat", ModelScaleRequested(20)),
    ("chat", ModelUnschedulable("no device has room: n1/gpu0 has 1.6 GiB left, needs 6.0 GiB", 8)),
    (
        "chat-0",
        EngineFailed("CUDA out of memory", -9, ("RuntimeError: CUDA out of memory",), 1, 2.0),
    ),
    ("n1", NodeDrainRequested()),
    ("chat", ModelUnloadRequested()),
    ("chat-0", EngineStopped("the model is unloaded")),
    ("chat", ModelUnloaded()),
    ("42", EventRejected("nebula.events.model.chat.ModelScaleRequested", "there is no such model")),
    ("n1", NodeLost("no heartbeat for 15 s")),
    ("n1", NodeDeregistered()),
)

EXAMPLES: dict[str, tuple[str, Event]] = {type(event).__name__: (i, event) for i, event in _EVENTS}
"""Type of event -> (id of its aggregate, the event)."""
