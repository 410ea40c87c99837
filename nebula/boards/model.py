"""The board of one model, or of several: what its clients get, and what its engines do."""

from nebula.boards.panels import Board, Panel, Query, Row, Variable, alarm
from nebula.boards.queries import (
    ERRORS,
    most,
    per_second,
    quantile,
    quantiles,
    share,
    sum_of,
)

MODEL = 'model=~"$model"'

_NOW = Row(
    "Now",
    (
        alarm(
            "Replicas missing",
            "Replicas that are wanted and don't take requests. While a model loads that is normal; "
            "if it lasts, `nebula why MODEL`.",
            f"sum ({most('nebula_model_replicas_wanted', 'model', where=MODEL)} - "
            f"{most('nebula_model_replicas_ready', 'model', where=MODEL)})",
        ),
        alarm(
            "Without a place",
            "1: replicas are wanted and fit nowhere. `nebula why MODEL` lists each place and why it "
            "was not taken.",
            most("nebula_model_unschedulable", where=MODEL),
        ),
        alarm(
            "Failed requests",
            "The part of its requests that ended with a status of 500 and above. `nebula why request "
            "ID` explains one.",
            share("nebula_requests_total", ERRORS, MODEL),
            "percentunit",
            0.01,
        ),
        alarm(
            "Longest wait",
            "For how long the oldest request has waited for an engine. Add replicas: `nebula scale "
            "MODEL 2`.",
            most("nebula_longest_wait_seconds", where=MODEL),
            "s",
            30,
        ),
        alarm(
            "Engines that ended",
            "Engines of this model that ended by themselves since their node began. `nebula logs "
            "REPLICA` has their last words.",
            sum_of("nebula_engine_failures_total", where=MODEL, told=True),
        ),
        alarm(
            "Tokens per second",
            "What all of its answers together make now.",
            per_second("nebula_tokens_total", where=f'{MODEL},type="output"'),
            red=1e12,
        ),
    ),
)

_CLIENTS = Row(
    "What clients get",
    (
        Panel(
            "Requests by status",
            "499 is a client that left, 429 a full queue or a limit, 503 no engine. `nebula why "
            "request ID` explains one.",
            (Query(per_second("nebula_requests_total", "status", where=MODEL), "{{status}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Requests by path",
            "Which of the API's paths are asked: chats, completions, embeddings and so on differ in length.",
            (Query(per_second("nebula_requests_total", "path", where=MODEL), "{{path}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Requests by adapter",
            "Without a name: of the model itself. An adapter without requests can be unloaded: "
            "`nebula adapters`.",
            (Query(per_second("nebula_requests_total", "adapter", where=MODEL), "{{adapter}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Time to first token",
            "Of streams. Compare with the wait in the queue and with what the engines say below, to "
            "see where it comes from.",
            quantiles("nebula_time_to_first_token_seconds", where=MODEL),
            "s",
        ),
        Panel(
            "Time per output token",
            "Of streams. Where it grows with the number of requests in the engines, bound that with "
            "`max-num-seqs` or add replicas.",
            quantiles("nebula_time_per_output_token_seconds", where=MODEL),
            "s",
        ),
        Panel(
            "Duration of requests",
            "Of whole answers without an error. Long answers take long: look at the time per output token first.",
            quantiles("nebula_request_duration_seconds", where=MODEL),
            "s",
        ),
        Panel(
            "Wait in the queue",
            "Time in routers before an engine took a request, 0 for direct ones. Replicas shorten it.",
            quantiles("nebula_queue_wait_seconds", where=MODEL, told=True),
            "s",
        ),
        Panel(
            "Direct and through routers",
            "Gateways send its requests to replicas directly as long as none waits, and the rest "
            "through routers.",
            (Query(per_second("nebula_requests_sent_total", "way", where=MODEL), "{{way}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "In flight, waiting, in engines",
            "Where its requests are. Many in engines and none waiting is a model that is used well.",
            (
                Query(sum_of("nebula_requests_in_flight", where=MODEL), "in flight"),
                Query(sum_of("nebula_requests_waiting", where=MODEL, told=True), "waiting"),
                Query(most("nebula_engine_requests", where=MODEL), "in engines"),
            ),
        ),
        Panel(
            "Refused, failed, sent again",
            "What routers refused, what got an error, and what was sent once more or continued on "
            "another engine without the client noticing: `nebula why MODEL`.",
            (
                Query(
                    per_second(
                        "nebula_router_requests_refused_total", "reason", where=MODEL, told=True
                    ),
                    "refused: {{reason}}",
                ),
                Query(
                    per_second("nebula_requests_failed_total", "reason", where=MODEL),
                    "failed: {{reason}}",
                ),
                Query(
                    per_second("nebula_request_retries_total", "reason", where=MODEL),
                    "again: {{reason}}",
                ),
                Query(per_second("nebula_streams_continued_total", where=MODEL), "continued"),
            ),
            "reqps",
        ),
    ),
)

_REPLICAS = Row(
    "Replicas",
    (
        Panel(
            "Replicas wanted and ready",
            "The number of replicas follows the load where the model has a range. `nebula why MODEL` "
            "names the cause of each change.",
            (
                Query(
                    most("nebula_model_replicas_wanted", "model", where=MODEL), "{{model}} wanted"
                ),
                Query(most("nebula_model_replicas_ready", "model", where=MODEL), "{{model}} ready"),
            ),
        ),
        Panel(
            "Starts and ends of engines",
            "Starts of engines, and engines that ended by themselves. A replica that starts again "
            "and again is given up after some times: `nebula why replica REPLICA`.",
            (
                Query(
                    sum_of("nebula_engine_starts_total", "replica", where=MODEL, told=True),
                    "{{replica}} starts",
                ),
                Query(
                    sum_of("nebula_engine_failures_total", "replica", where=MODEL, told=True),
                    "{{replica}} ended",
                ),
            ),
        ),
        Panel(
            "Time of a start",
            "Mean time from an engine's start until it takes requests, since its node began. "
            "Compiled kernels and weights that are there make it short.",
            (
                Query(
                    f"{sum_of('nebula_engine_start_duration_seconds_sum', 'model', 'node', where=MODEL, told=True)}"
                    f" / {sum_of('nebula_engine_start_duration_seconds_count', 'model', 'node', where=MODEL, told=True)}",
                    "{{model}} on {{node}}",
                ),
            ),
            "s",
        ),
    ),
)

_ENGINES = Row(
    "What engines say",
    (
        Panel(
            "Requests in engines",
            "Running and waiting inside vLLM, by replica. Nebula hands over no more than an engine "
            "has room for, so that few wait here.",
            (
                Query(
                    sum_of("vllm:num_requests_running", "replica", where=MODEL, told=True),
                    "{{replica}} running",
                ),
                Query(
                    sum_of("vllm:num_requests_waiting", "replica", where=MODEL, told=True),
                    "{{replica}} waiting",
                ),
            ),
        ),
        Panel(
            "KV cache in use",
            "Near 1 requests are preempted and computed again: give the model more memory, a shorter "
            "`max-model-len`, or a further replica.",
            (
                Query(
                    sum_of("vllm:kv_cache_usage_perc", "replica", where=MODEL, told=True),
                    "{{replica}}",
                ),
            ),
            "percentunit",
            red=0.95,
            most=1,
        ),
        Panel(
            "Preemptions",
            "Requests that an engine gave up for others and computes again: its KV cache is too small "
            "for what it runs at a time.",
            (
                Query(
                    per_second("vllm:num_preemptions_total", "replica", where=MODEL, told=True),
                    "{{replica}}",
                ),
            ),
            "cps",
        ),
        Panel(
            "Tokens",
            "Read (prompts) and written (answers), by replica. Replicas that differ much: `nebula why "
            "request ID` says why one was chosen.",
            (
                Query(
                    per_second("vllm:prompt_tokens_total", "replica", where=MODEL, told=True),
                    "{{replica}} read",
                ),
                Query(
                    per_second("vllm:generation_tokens_total", "replica", where=MODEL, told=True),
                    "{{replica}} written",
                ),
            ),
        ),
        Panel(
            "Hits of the prefix cache",
            "The part of tokens whose computation was saved. Requests with the same beginning go to "
            "the same replica as long as it is not too busy.",
            (
                Query(
                    f"{per_second('vllm:prefix_cache_hits_total', 'replica', where=MODEL, told=True)} / "
                    f"{per_second('vllm:prefix_cache_queries_total', 'replica', where=MODEL, told=True)}",
                    "{{replica}}",
                ),
            ),
            "percentunit",
            most=1,
        ),
        Panel(
            "Answers by reason of their end",
            "`length` was cut off by a limit, `stop` ended by itself, `abort` lost its client.",
            (
                Query(
                    per_second(
                        "vllm:request_success_total", "finished_reason", where=MODEL, told=True
                    ),
                    "{{finished_reason}}",
                ),
            ),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Time to first token, by replica",
            "The 95th percentile inside the engine. One replica that is slower than the others: "
            "`nebula why replica REPLICA`, and what else runs on its device.",
            (
                Query(
                    quantile(
                        0.95, "vllm:time_to_first_token_seconds", "replica", where=MODEL, told=True
                    ),
                    "{{replica}}",
                ),
            ),
            "s",
        ),
        Panel(
            "Time between tokens, by replica",
            "The 95th percentile inside the engine. A slow device or one that is shared shows here.",
            (
                Query(
                    quantile(
                        0.95, "vllm:inter_token_latency_seconds", "replica", where=MODEL, told=True
                    ),
                    "{{replica}}",
                ),
            ),
            "s",
        ),
        Panel(
            "Where the time goes",
            "Mean time of a request inside the engine: in its queue, reading the prompt, writing the "
            "answer. The largest part says what to mend: replicas, shorter prompts, shorter answers.",
            tuple(
                Query(
                    f"{per_second(f'vllm:request_{part}_time_seconds_sum', where=MODEL, told=True)} / "
                    f"{per_second(f'vllm:request_{part}_time_seconds_count', where=MODEL, told=True)}",
                    part,
                )
                for part in ("queue", "prefill", "decode")
            ),
            "s",
            stacked=True,
        ),
        Panel(
            "Whole requests in engines",
            "From an engine's own view. Much less than what clients get is time in Nebula's queue.",
            quantiles("vllm:e2e_request_latency_seconds", where=MODEL, told=True),
            "s",
        ),
        Panel(
            "Length of prompts",
            "How many tokens prompts have. Prompts near `max-model-len` are refused beyond it.",
            (
                Query(
                    per_second("vllm:request_prompt_tokens_bucket", "le", where=MODEL, told=True),
                    "{{le}}",
                ),
            ),
            kind="heatmap",
        ),
        Panel(
            "Length of answers",
            "How many tokens answers have. Most times grow with them.",
            (
                Query(
                    per_second(
                        "vllm:request_generation_tokens_bucket", "le", where=MODEL, told=True
                    ),
                    "{{le}}",
                ),
            ),
            kind="heatmap",
        ),
    ),
)

MODELS = Board(
    "model",
    "model",
    "What clients of a model get, and what its engines do. Choose one above.",
    (_NOW, _CLIENTS, _REPLICAS, _ENGINES),
    (Variable("model", "nebula_model_replicas_wanted"),),
)
