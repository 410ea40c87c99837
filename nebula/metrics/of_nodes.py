"""The metrics that nodes emit, beside those of all actors. Pure."""

from nebula.metrics.metric import START, ActorKind, Metric

_NODE: tuple[ActorKind, ...] = ("node",)

NODE: tuple[Metric, ...] = (
    Metric(
        "nebula_replicas",
        "gauge",
        "Replicas on this node, by phase: assigned, starting, ready, failed, stopped.",
        _NODE,
        ("model", "phase"),
    ),
    Metric("nebula_engines", "gauge", "Engine processes that this node keeps.", _NODE),
    Metric(
        "nebula_engine_starts_total",
        "counter",
        "Starts of an engine; all after a replica's first are restarts.",
        _NODE,
        ("model", "replica"),
        begins=((),),
    ),
    Metric(
        "nebula_engine_failures_total",
        "counter",
        "Engines that have ended by themselves.",
        _NODE,
        ("model", "replica"),
        begins=((),),
    ),
    Metric(
        "nebula_engine_start_duration_seconds",
        "histogram",
        "Time from the start of an engine until it takes requests.",
        _NODE,
        ("model",),
        START,
    ),
    Metric(
        "nebula_device_memory_bytes",
        "gauge",
        "Memory of a device.",
        _NODE,
        ("device", "kind"),
    ),
    Metric(
        "nebula_device_memory_promised_bytes",
        "gauge",
        "Memory of a device that replicas on it are counted with.",
        _NODE,
        ("device", "kind"),
    ),
    Metric(
        "nebula_device_memory_free_bytes",
        "gauge",
        "Memory of a device that is free, as its driver or the system tells; missing where it "
        "does not.",
        _NODE,
        ("device", "kind"),
    ),
    Metric("nebula_weights_bytes", "gauge", "Weights that are complete on this node.", _NODE),
    Metric(
        "nebula_downloads",
        "gauge",
        "Sources of weights that are not complete on this node, by state: running, waiting, "
        "failed.",
        _NODE,
        ("state",),
    ),
    Metric("nebula_download_bytes", "gauge", "What is there of these, in all.", _NODE),
    Metric("nebula_download_size_bytes", "gauge", "How large these will be, in all.", _NODE),
)
