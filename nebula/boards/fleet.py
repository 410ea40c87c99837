"""The board of the whole fleet: is all well, how fast is it, does the control plane keep up."""

from nebula.boards.control_plane import CONTROL_PLANE
from nebula.boards.panels import Board, Panel, Query, Row, alarm
from nebula.boards.queries import (
    ERRORS,
    INPUT,
    LOST,
    most,
    once,
    per_second,
    quantiles,
    share,
    sum_of,
)

_HEALTH = Row(
    "Is all well?",
    (
        alarm(
            "Failed requests",
            "The part of all requests that ended with a status of 500 and above. The rows below say "
            "of which models; `nebula why request ID` explains one.",
            share("nebula_requests_total", ERRORS),
            "percentunit",
            0.01,
        ),
        alarm(
            "Models without a place",
            "Models of which replicas are wanted and fit nowhere. `nebula why MODEL` lists every "
            "place and why it was not taken: add memory, ask for less, or unload another model.",
            f"sum ({most('nebula_model_unschedulable', 'model')})",
        ),
        alarm(
            "Lost nodes",
            "Nodes that have told nothing for a while; their replicas are placed elsewhere. See "
            "whether the machine is up and reaches NATS: `nebula nodes`.",
            f"sum ({most('nebula_nodes', 'state', where=LOST)})",
        ),
        alarm(
            "Nodes that must not be lost",
            "Nodes whose loss would leave replicas without a place, as last recorded. `nebula resilience` "
            "lists what would be short: add memory before one dies.",
            most("nebula_nodes_at_risk"),
        ),
        alarm(
            "Models at risk",
            "Models that the loss of some node would leave short, as last recorded: `nebula resilience`.",
            most("nebula_models_at_risk"),
        ),
        alarm(
            "Gateways that are not ready",
            "Gateways that `GET /ready` says to send nothing to: they are cut off from NATS, or behind.",
            "sum (1 - max by (instance) (nebula_ready))",
        ),
        alarm(
            "Silent actors",
            "Routers, nodes and workers of gateways that did not tell their figures in time. Read "
            "their own logs: a process may be frozen, or cut off from NATS.",
            f"sum (1 - {most('nebula_actor_up', 'actor', 'name')}) + "
            "sum (1 - min by (instance, worker) (nebula_worker_up))",
        ),
        alarm(
            "Silent engines",
            "Ready engines that did not tell their figures in time: busy with something long, or "
            "hanging. `nebula why replica REPLICA` tells what is known of one.",
            f"sum (1 - {most('nebula_engine_up', 'node', 'replica')})",
        ),
        alarm(
            "Streams without an answer",
            "Streams of JetStream that did not answer. Nothing is decided while the log does not: "
            "see `nebula status`, and the logs of the NATS servers.",
            f"sum (1 - {most('nebula_stream_up', 'stream')})",
        ),
    ),
)

_REQUESTS = Row(
    "Requests",
    (
        Panel(
            "Requests by status",
            "499 is a client that left, 429 a limit or a full queue, 503 a model without an engine. "
            "Where errors grow, open the board of the model.",
            (Query(per_second("nebula_requests_total", "status"), "{{status}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Requests by model",
            "Which models are asked. Without a name: refused before the model was known.",
            (Query(per_second("nebula_requests_total", "model"), "{{model}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "In flight and waiting",
            "Requests that have not ended, and those of them that wait for an engine. A queue that "
            "only grows wants more replicas: `nebula scale MODEL 2`.",
            (
                Query(sum_of("nebula_requests_in_flight"), "in flight"),
                Query(sum_of("nebula_requests_waiting", told=True), "waiting"),
                Query(sum_of("nebula_slack_requests_waiting", told=True), "of batches, waiting"),
            ),
        ),
        Panel(
            "Time to first token",
            "Of streams, from the gateway's request to the first part. If the wait in the queue makes "
            "it up, add replicas; if not, prompts are long or engines are full.",
            quantiles("nebula_time_to_first_token_seconds"),
            "s",
        ),
        Panel(
            "Time per output token",
            "Of streams, after their first token. It grows with the number of requests in an engine: "
            "the option `max-num-seqs` bounds that, further replicas spread it.",
            quantiles("nebula_time_per_output_token_seconds"),
            "s",
        ),
        Panel(
            "Wait in the queue",
            "Time that requests spent in routers before they went to an engine, 0 for direct ones. "
            "Replicas shorten it.",
            quantiles("nebula_queue_wait_seconds", told=True),
            "s",
        ),
        Panel(
            "Direct and through routers",
            "Gateways send requests to replicas directly as long as none waits. Through routers go "
            "the first of a model, those of batches, and all while replicas are nearly full.",
            (Query(per_second("nebula_requests_sent_total", "way"), "{{way}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Duration of requests",
            "Of whole answers without an error. Long answers take long: look at the time per output "
            "token before you act on this.",
            quantiles("nebula_request_duration_seconds"),
            "s",
        ),
        Panel(
            "Tokens per second",
            "Of prompts (input) and of answers (output), of all models: what the fleet delivers.",
            (Query(per_second("nebula_tokens_total", "type"), "{{type}}"),),
            stacked=True,
        ),
        Panel(
            "Prompts from the cache",
            "The part of the prompts' tokens that engines had in their caches. It falls when a system "
            "prompt changes; where it stays low, put what differs at the end of prompts.",
            (
                Query(
                    f"{per_second('nebula_cached_tokens_total')} / "
                    f"{per_second('nebula_tokens_total', where=INPUT)}"
                ),
            ),
            "percentunit",
            most=1,
        ),
    ),
)

_TROUBLE = Row(
    "Trouble",
    (
        Panel(
            "Refused by gateways",
            "Requests that were refused before they were sent on, by the error's code. Unknown "
            "models and keys are the clients' fault; limits are seen on the board of the tenant.",
            (Query(per_second("nebula_requests_refused_total", "reason"), "{{reason}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Failed in Nebula",
            "Requests that got an error after they were sent, by reason. `nebula why request ID` "
            "says which engine had one and how it ended.",
            (Query(per_second("nebula_requests_failed_total", "reason"), "{{reason}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Sent again, and continued",
            "Further attempts by what broke the last one, and streams that another engine went on "
            "with. Clients noticed nothing; see why engines end (`nebula events`).",
            (
                Query(per_second("nebula_request_retries_total", "reason"), "again: {{reason}}"),
                Query(per_second("nebula_streams_continued_total"), "streams continued"),
                Query(per_second("nebula_answers_resumed_total"), "answers resumed by clients"),
            ),
            "reqps",
        ),
    ),
)

_MODELS = Row(
    "Models and nodes",
    (
        Panel(
            "Models",
            "Each model's replicas and queue, now. Where fewer are ready than wanted, `nebula why "
            "MODEL` says what is missing.",
            (
                Query(most("nebula_model_replicas_wanted", "model"), "wanted"),
                Query(most("nebula_model_replicas_ready", "model"), "ready"),
                Query(most("nebula_engine_requests", "model"), "in engines"),
                Query(sum_of("nebula_requests_waiting", "model", told=True), "waiting"),
                Query(most("nebula_longest_wait_seconds", "model"), "longest wait (s)"),
            ),
            kind="table",
            width=12,
        ),
        Panel(
            "Models by phase",
            "How many models are in each phase. Sleeping ones start with the next request; failed "
            "ones need you: `nebula models`.",
            (Query(most("nebula_models", "phase"), "{{phase}}"),),
            width=6,
            stacked=True,
        ),
        Panel(
            "Nodes by state",
            "How many nodes are in each state. `nebula nodes` names them.",
            (Query(most("nebula_nodes", "state"), "{{state}}"),),
            width=6,
            stacked=True,
        ),
        Panel(
            "Starts and sleeps of idle models",
            "A model that wakes and sleeps all the time costs its clients the start: raise its idle "
            "timeout, or load it without one.",
            (
                Query(
                    per_second("nebula_model_wakes_total", "model", told=True), "{{model}} woken"
                ),
                Query(
                    per_second("nebula_model_sleeps_total", "model", told=True), "{{model}} slept"
                ),
            ),
            "cps",
        ),
        Panel(
            "Placements",
            "Plans for models. Many for one model without a request for it mean that its engines or nodes "
            "come and go: `nebula why MODEL`.",
            (Query(per_second("nebula_model_placements_total", "model", told=True), "{{model}}"),),
            "cps",
        ),
        Panel(
            "Free memory of devices",
            "What is not promised to a replica, by node. It bounds what can still be loaded.",
            (
                Query(
                    f"sum by (node) ({once('nebula_device_memory_bytes')} - "
                    f"{once('nebula_device_memory_promised_bytes')})",
                    "{{node}}",
                ),
            ),
            "bytes",
            stacked=True,
        ),
    ),
)

FLEET = Board(
    "fleet",
    "fleet",
    "All models, nodes and tenants together. Begin here.",
    (_HEALTH, _REQUESTS, _TROUBLE, _MODELS, CONTROL_PLANE),
    marks=(Query("sum by (type) (increase(nebula_decisions_total[1m])) > 0", "Decisions"),),
)
