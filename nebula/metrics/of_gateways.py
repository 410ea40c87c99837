"""The metrics that gateways emit, beside those of all actors. Pure."""

from nebula.events.failures import Failure
from nebula.metrics.metric import (
    CLUSTER,
    DURATION,
    ENGINES,
    FIRST_TOKEN,
    OUTPUT_TOKEN,
    ActorKind,
    Metric,
)

_GATEWAY: tuple[ActorKind, ...] = ("gateway",)
_SERVED = ("model", "adapter", "path")

GATEWAY: tuple[Metric, ...] = (
    Metric(
        "nebula_requests_total",
        "counter",
        "Requests that have ended. Status: of the HTTP answer; of the error, where one ended a "
        "stream that had begun; 499 where the client left. Model is empty where a request was "
        "refused before its model was known.",
        _GATEWAY,
        (*_SERVED, "status", "tenant"),
    ),
    Metric(
        "nebula_request_duration_seconds",
        "histogram",
        "Time from sending a request on until the end of its answer; only of answers "
        "with a status below 400.",
        _GATEWAY,
        _SERVED,
        DURATION,
    ),
    Metric(
        "nebula_time_to_first_token_seconds",
        "histogram",
        "Time from sending a request on until the first part of its stream.",
        _GATEWAY,
        _SERVED,
        FIRST_TOKEN,
    ),
    Metric(
        "nebula_time_per_output_token_seconds",
        "histogram",
        "Mean time of each token after a stream's first, one observation for each stream.",
        _GATEWAY,
        _SERVED,
        OUTPUT_TOKEN,
    ),
    Metric(
        "nebula_tokens_total",
        "counter",
        "Tokens of prompts (type input) and answers (type output).",
        _GATEWAY,
        ("model", "adapter", "tenant", "type"),
    ),
    Metric(
        "nebula_cached_tokens_total",
        "counter",
        "Tokens of prompts that engines took from their caches, as far as they tell; they count as "
        "input, too.",
        _GATEWAY,
        ("model", "adapter", "tenant"),
    ),
    Metric(
        "nebula_requests_in_flight", "gauge", "Requests that have not ended.", _GATEWAY, ("model",)
    ),
    Metric(
        "nebula_requests_refused_total",
        "counter",
        "Requests that were refused before they were sent on; the reason is the error's code.",
        _GATEWAY,
        ("path", "reason", "tenant"),
    ),
    Metric(
        "nebula_requests_failed_total",
        "counter",
        "Requests that were sent and got an error from Nebula. Reason: refused (by a router), "
        "engine-failed, overdue, cant-continue and so on.",
        _GATEWAY,
        ("model", "reason"),
        begins=(
            (Failure.REFUSED,),
            (Failure.ENGINE_FAILED,),
            (Failure.ENGINE_TIMED_OUT,),
            (Failure.OVERDUE,),
            (Failure.CANT_CONTINUE,),
        ),
    ),
    Metric(
        "nebula_requests_sent_total",
        "counter",
        "Attempts at requests, by their way: direct to a replica that a router had lent, or "
        "through a router.",
        _GATEWAY,
        ("model", "way"),
        begins=(("direct",), ("router",)),
    ),
    Metric(
        "nebula_request_retries_total",
        "counter",
        "Further attempts at requests, by what broke the last one.",
        _GATEWAY,
        ("model", "reason"),
        begins=((Failure.ENGINE_FAILED,), (Failure.ENGINE_STOPPED,), (Failure.NOT_TAKEN,)),
    ),
    Metric(
        "nebula_streams_continued_total",
        "counter",
        "Streams that another engine was asked to continue.",
        _GATEWAY,
        ("model",),
        begins=((),),
    ),
    Metric(
        "nebula_answers_resumed_total",
        "counter",
        "Answers that were given again, or from where their client had left.",
        _GATEWAY,
    ),
    Metric("nebula_request_memory_bytes", "gauge", "Memory that bodies of requests use.", _GATEWAY),
    Metric("nebula_request_memory_limit_bytes", "gauge", "How much they may use in all.", _GATEWAY),
    Metric(
        "nebula_answer_memory_bytes",
        "gauge",
        "Memory of answers that slow clients have not read yet.",
        _GATEWAY,
    ),
    Metric("nebula_answer_memory_limit_bytes", "gauge", "How much they may use in all.", _GATEWAY),
    Metric(
        "nebula_ready",
        "gauge",
        "Whether the gateway is ready, as GET /ready says: 1 or 0.",
        _GATEWAY,
    ),
    Metric(
        "nebula_worker_up",
        "gauge",
        "Whether a worker of the gateway has told its metrics in time: 1 or 0. With "
        "`--workers` above 1 all metrics of a gateway have the label `worker`.",
        _GATEWAY,
        ("worker",),
    ),
    Metric(
        "nebula_store_disk_bytes",
        "gauge",
        "Size of the disk that the log is on; missing unless `nebula up` runs its NATS server.",
        _GATEWAY,
    ),
    Metric(
        "nebula_store_disk_free_bytes",
        "gauge",
        "Free space of that disk.",
        _GATEWAY,
    ),
    Metric(
        "nebula_usage_records_waiting",
        "gauge",
        "Records of what requests used that are not stored yet.",
        _GATEWAY,
    ),
    Metric(
        "nebula_limit",
        "gauge",
        "A limit of a key, a tenant or a model (kind), by its meter.",
        _GATEWAY,
        ("kind", "subject", "meter"),
    ),
    Metric(
        "nebula_limit_used",
        "gauge",
        "What all gateways have spent or reserved of a limit in its present window, as this one "
        "knows; only of limits that its requests have used of late.",
        _GATEWAY,
        ("kind", "subject", "meter"),
    ),
    Metric(
        "nebula_actor_up",
        "gauge",
        "Whether a router or a node has told its figures in time: 1 or 0.",
        _GATEWAY,
        ("actor", "name"),
        path=CLUSTER,
    ),
    Metric(
        "nebula_engine_up",
        "gauge",
        "Whether a ready engine told its figures in time: 1 or 0.",
        ("gateway", "node"),
        ("node", "replica", "model"),
        path=ENGINES,
    ),
)
