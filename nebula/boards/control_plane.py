"""The row of the fleet's board about the control plane: whether it keeps up, and is whole."""

from nebula.boards.panels import Panel, Query, Row
from nebula.boards.queries import INTERVAL, most, once, per_second, sum_of

_TOLD = 'nebula_build_info{actor!="gateway"}'

CONTROL_PLANE = Row(
    "Control plane",
    (
        Panel(
            "Decisions",
            "Events that routers add to the log, by type. A flood of one type is a loop: `nebula "
            "events` shows it, `nebula why SEQ` its cause.",
            (Query(per_second("nebula_decisions_total", "type", told=True), "{{type}}"),),
            "cps",
            stacked=True,
        ),
        Panel(
            "Events not yet folded",
            "How far gateways, routers and nodes are behind the log. It should be 0 within a second; "
            "where it stays, that process is starved or cut off.",
            (
                Query(
                    most("nebula_fold_lag_events", "instance", where='router="",node=""'),
                    "{{instance}}",
                ),
                Query(most("nebula_fold_lag_events", "router", where='router!=""'), "{{router}}"),
                Query(most("nebula_fold_lag_events", "node", where='node!=""'), "{{node}}"),
            ),
        ),
        Panel(
            "Events since the snapshot",
            "What an actor that starts has to fold beside the newest snapshot. If it only grows, no "
            "router writes snapshots: read the routers' logs.",
            (Query(most("nebula_snapshot_lag_events"), "events"),),
        ),
        Panel(
            "Age of the snapshot",
            "Grows while nothing happens, too: act only where the events since then grow.",
            (Query("min (nebula_snapshot_age_seconds)", "age"),),
            "s",
        ),
        Panel(
            "Versions",
            "How many gateways, routers and nodes run which version. More than one, other than amid an "
            "upgrade: go on with it, or back (`nebula status`).",
            (
                Query(
                    'count by (actor, version) (nebula_build_info{actor="gateway"})',
                    "{{actor}} {{version}}",
                ),
                Query(
                    f"count by (actor, version) ({once(_TOLD)})",
                    "{{actor}} {{version}}",
                ),
            ),
        ),
        Panel(
            "Growth of the log",
            "Events per second that anything adds to the log. Where it grows without requests of yours, "
            "something goes in circles: `nebula events`.",
            (Query(f"max (rate(nebula_log_sequence[{INTERVAL}]))", "events"),),
            "cps",
        ),
        Panel(
            "Messages in streams",
            "How many messages JetStream keeps. The log only grows; what travels with requests comes "
            "and goes.",
            (Query(most("nebula_stream_messages", "stream"), "{{stream}}"),),
        ),
        Panel(
            "Streams' size",
            "What JetStream keeps. A stream near its limit loses its oldest part or refuses writes: "
            "see `nebula status`.",
            (Query(most("nebula_stream_bytes", "stream"), "{{stream}}"),),
            "bytes",
        ),
        Panel(
            "Free disk of the log",
            "The free part of the disk that the log is on, where `nebula up` runs NATS. Without space "
            "nothing can be decided: `nebula status`.",
            (
                Query(
                    "min (nebula_store_disk_free_bytes / nebula_store_disk_bytes)",
                    "free",
                ),
            ),
            "percentunit",
            most=1,
        ),
        Panel(
            "Usage not stored yet",
            "Records of what requests used that gateways hold in memory. If they only grow, the stream "
            "of usage does not answer, and they are lost with the gateway.",
            (Query(sum_of("nebula_usage_records_waiting"), "records"),),
        ),
        Panel(
            "Missing copies of streams",
            "Copies that are not there or behind. One server more that dies could take what has no "
            "copy: see which NATS server is down.",
            (
                Query(
                    f"{most('nebula_stream_replicas', 'stream')} - "
                    f"{most('nebula_stream_replicas_current', 'stream')}",
                    "{{stream}}",
                ),
            ),
            red=1,
        ),
        Panel(
            "Connections to NATS",
            "Actors with a connection, and how often one had to be made again. Many new ones: the "
            "network, or a NATS server that restarts.",
            (
                Query("sum (nebula_nats_connected)", "connected"),
                Query("sum (nebula_nats_reconnects_total)", "made again"),
            ),
        ),
        Panel(
            "Processors of actors",
            "Processor time of each gateway, router and node itself, engines not counted. A gateway "
            "near 1 is full: give it more --workers, or start another.",
            (
                Query(
                    f'sum by (instance, worker) (rate(process_cpu_seconds_total{{router="",node=""}}[{INTERVAL}]))',
                    "{{instance}} {{worker}}",
                ),
                Query(
                    per_second(
                        "process_cpu_seconds_total", "router", where='router!=""', told=True
                    ),
                    "{{router}}",
                ),
                Query(
                    per_second("process_cpu_seconds_total", "node", where='node!=""', told=True),
                    "{{node}}",
                ),
            ),
            red=1,
        ),
        Panel(
            "Memory of bodies in gateways",
            "Bodies of requests and unread answers, as part of what they may use. At 1 requests are "
            "refused: start another gateway, or look for a client that reads slowly.",
            (
                Query(
                    "max by (instance) (nebula_request_memory_bytes / nebula_request_memory_limit_bytes)",
                    "{{instance}} requests",
                ),
                Query(
                    "max by (instance) (nebula_answer_memory_bytes / nebula_answer_memory_limit_bytes)",
                    "{{instance}} answers",
                ),
            ),
            "percentunit",
            most=1,
        ),
    ),
)
