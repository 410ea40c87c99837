"""The board of one node, or of several: memory, engines, weights, and the node's own process."""

from nebula.boards.panels import Board, Panel, Query, Row, Variable, alarm
from nebula.boards.queries import most, per_second, sum_of

NODE = 'node=~"$node"'


def _devices(metric: str) -> str:
    return sum_of(metric, "node", "device", where=NODE, told=True)


_NOW = Row(
    "Now",
    (
        alarm(
            "Does not tell",
            "Nodes that did not tell their figures in time: see whether the machine is up and reaches "
            "NATS (`nebula why node NODE`).",
            'sum (1 - max by (name) (nebula_actor_up{actor="node",name=~"$node"}))',
        ),
        alarm(
            "Engines that ended",
            "Engines that ended by themselves since the node began. `nebula logs REPLICA` has their "
            "last words.",
            sum_of("nebula_engine_failures_total", where=NODE, told=True),
        ),
        alarm(
            "Failed downloads",
            "Weights that could not be fetched: a name that the hub does not know, a token that is "
            "missing, or a full disk. `nebula weights` says which and why.",
            sum_of("nebula_downloads", where=f'{NODE},state="failed"', told=True),
        ),
        alarm(
            "Events not yet folded",
            "How far the node is behind the log. If it stays, the machine is starved or its way to "
            "NATS is slow.",
            most("nebula_fold_lag_events", where=NODE),
            red=100,
        ),
    ),
)

_MEMORY = Row(
    "Devices",
    (
        Panel(
            "Promised memory",
            "The part of each device's memory that replicas are counted with. What is left can be "
            "promised to further ones; `nebula nodes` lists the devices.",
            (
                Query(
                    f"{_devices('nebula_device_memory_promised_bytes')} / "
                    f"{_devices('nebula_device_memory_bytes')}",
                    "{{node}} {{device}}",
                ),
            ),
            "percentunit",
            "bargauge",
            red=0.95,
            most=1,
        ),
        Panel(
            "Memory of devices",
            "All, what is promised to replicas, and what the driver says is free. Free far below what "
            "is not promised: another program uses the device.",
            (
                Query(_devices("nebula_device_memory_bytes"), "{{node}} {{device}} all"),
                Query(
                    _devices("nebula_device_memory_promised_bytes"), "{{node}} {{device}} promised"
                ),
                Query(_devices("nebula_device_memory_free_bytes"), "{{node}} {{device}} free"),
            ),
            "bytes",
        ),
        Panel(
            "Replicas by phase",
            "What is on the node. Many that start or fail: `nebula why node NODE`.",
            (Query(sum_of("nebula_replicas", "phase", where=NODE, told=True), "{{phase}}"),),
            stacked=True,
        ),
    ),
)

_ENGINES = Row(
    "Engines",
    (
        Panel(
            "Engine processes",
            "Those that the node keeps, and the starts since it began.",
            (
                Query(sum_of("nebula_engines", "node", where=NODE, told=True), "{{node}} engines"),
                Query(
                    sum_of("nebula_engine_starts_total", "node", where=NODE, told=True),
                    "{{node}} starts",
                ),
            ),
        ),
        Panel(
            "Requests in engines",
            "Running inside vLLM, by replica: what a drain would have to wait for (`nebula drain "
            "NODE`).",
            (
                Query(
                    sum_of("vllm:num_requests_running", "replica", where=NODE, told=True),
                    "{{replica}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "KV cache in use",
            "By replica. Near 1 requests are preempted and computed again.",
            (
                Query(
                    sum_of("vllm:kv_cache_usage_perc", "replica", where=NODE, told=True),
                    "{{replica}}",
                ),
            ),
            "percentunit",
            red=0.95,
            most=1,
        ),
        Panel(
            "Tokens written",
            "Tokens of answers each second, by replica: what the node's devices deliver.",
            (
                Query(
                    per_second("vllm:generation_tokens_total", "replica", where=NODE, told=True),
                    "{{replica}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Time of a start",
            "Mean time from an engine's start until it takes requests, by model. It is the time that "
            "a sleeping model's first client waits.",
            (
                Query(
                    f"{sum_of('nebula_engine_start_duration_seconds_sum', 'model', where=NODE, told=True)} / "
                    f"{sum_of('nebula_engine_start_duration_seconds_count', 'model', where=NODE, told=True)}",
                    "{{model}}",
                ),
            ),
            "s",
        ),
        Panel(
            "Engines that answer",
            "1 for each ready engine that tells its figures. 0: busy with something long, or hanging; "
            "`nebula why replica REPLICA`.",
            (Query(most("nebula_engine_up", "replica", where=NODE), "{{replica}}"),),
        ),
    ),
)

_WEIGHTS = Row(
    "Weights and the node itself",
    (
        Panel(
            "Downloads",
            "Sources of weights that are not complete, by state. Waiting ones have no room on the "
            "disk: `nebula weights`.",
            (Query(sum_of("nebula_downloads", "state", where=NODE, told=True), "{{state}}"),),
            stacked=True,
        ),
        Panel(
            "Bytes of downloads",
            "What is there of these, and how large they will be.",
            (
                Query(
                    sum_of("nebula_download_bytes", "node", where=NODE, told=True), "{{node}} there"
                ),
                Query(
                    sum_of("nebula_download_size_bytes", "node", where=NODE, told=True),
                    "{{node}} in all",
                ),
            ),
            "bytes",
        ),
        Panel(
            "Weights on the disk",
            "Complete ones. `nebula weights remove NODE SOURCE` makes room.",
            (Query(sum_of("nebula_weights_bytes", "node", where=NODE, told=True), "{{node}}"),),
            "bytes",
        ),
        Panel(
            "The node's own process",
            "Processor time of the node, engines not counted. It should need next to none.",
            (
                Query(
                    per_second("process_cpu_seconds_total", "node", where=NODE, told=True),
                    "{{node}}",
                ),
            ),
            red=1,
        ),
        Panel(
            "Its memory",
            "Resident memory of the node, engines not counted.",
            (
                Query(
                    sum_of("process_resident_memory_bytes", "node", where=NODE, told=True),
                    "{{node}}",
                ),
            ),
            "bytes",
        ),
        Panel(
            "Its connection to NATS",
            "1 while there is one, and how often one had to be made again: many mean a bad network.",
            (
                Query(most("nebula_nats_connected", "node", where=NODE), "{{node}} connected"),
                Query(
                    most("nebula_nats_reconnects_total", "node", where=NODE), "{{node}} made again"
                ),
            ),
        ),
    ),
)

NODES = Board(
    "node",
    "node",
    "Memory, engines and weights of a node. Choose one above.",
    (_NOW, _MEMORY, _ENGINES, _WEIGHTS),
    (Variable("node", "nebula_engines"),),
)
