"""For each alert: series of which it fires, and series of which it does not.

Values are a minute apart, in the notation of `promtool test rules`: `0+60x20` grows by 60 a minute.
"""

from typing import NamedTuple

Series = dict[str, str]


class Case(NamedTuple):
    """What Prometheus has where something is wrong, and where all is well."""

    wrong: Series
    well: Series


def _gauge(series: str, wrong: float, well: float = 0) -> Case:
    return Case({series: f"{wrong}x120"}, {series: f"{well}x120"})


def _refused(status: str) -> Series:
    return {
        f'nebula_requests_total{{model="m",status="{status}"}}': "0+60x120",
        'nebula_requests_total{model="m",status="200"}': "0+60x120",
    }


def _replicas(wanted: int, there: int) -> Series:
    return {
        'nebula_model_replicas_wanted{model="m",router="r"}': f"{wanted}x120",
        'nebula_model_replicas_ready{model="m",router="r"}': f"{there}x120",
    }


def _copies(there: int) -> Series:
    return {
        'nebula_stream_replicas{stream="EVENTS",router="r"}': "3x120",
        'nebula_stream_replicas_current{stream="EVENTS",router="r"}': f"{there}x120",
    }


def _first_tokens(fast: str) -> Series:
    bucket = "nebula_time_to_first_token_seconds_bucket"
    return {
        f'{bucket}{{model="m",le="1.0"}}': fast,
        f'{bucket}{{model="m",le="20.0"}}': "0+60x120",
        f'{bucket}{{model="m",le="+Inf"}}': "0+60x120",
    }


def _limit(used: int) -> Series:
    labels = '{kind="tenant",subject="t",meter="tokens_per_day"}'
    return {f"nebula_limit{labels}": "100x120", f"nebula_limit_used{labels}": f"{used}x120"}


def _disk(free: int) -> Series:
    return {
        'nebula_store_disk_free_bytes{instance="g"}': f"{free}x120",
        'nebula_store_disk_bytes{instance="g"}': "100x120",
    }


def _memory(used: int) -> Series:
    return {
        'nebula_request_memory_bytes{instance="g"}': f"{used}x120",
        'nebula_request_memory_limit_bytes{instance="g"}': "100x120",
    }


_REFUSED = 'nebula_router_requests_refused_total{model="m",reason="queue-full",router="r"}'
_ENDED = 'nebula_engine_failures_total{model="m",replica="m-0",node="n"}'

CASES = {
    "NebulaModelUnschedulable": _gauge('nebula_model_unschedulable{model="m",router="r"}', 1),
    "NebulaReplicasMissing": Case(_replicas(2, 1), _replicas(2, 2)),
    "NebulaRequestsFail": Case(_refused("503"), _refused("429")),
    "NebulaRequestsWait": _gauge('nebula_longest_wait_seconds{model="m",router="r"}', 90, 30),
    "NebulaRequestsRefused": Case({_REFUSED: "0+60x120"}, {_REFUSED: "60x120"}),
    "NebulaFirstTokenSlow": Case(_first_tokens("0+6x120"), _first_tokens("0+59x120")),
    "NebulaEnginesEnd": Case({_ENDED: "0+1x120"}, {_ENDED: "3x120"}),
    "NebulaEngineSilent": _gauge('nebula_engine_up{node="n",replica="m-0",model="m"}', 0, 1),
    "NebulaGatewayDown": _gauge('up{job="nebula-gateways",instance="g"}', 0, 1),
    "NebulaNothingScraped": Case({}, {}),
    "NebulaActorSilent": _gauge('nebula_actor_up{actor="router",name="r"}', 0, 1),
    "NebulaNodeLost": _gauge('nebula_nodes{state="lost",router="r"}', 1),
    "NebulaNotResilient": _gauge('nebula_nodes_at_risk{router="r"}', 1),
    "NebulaGatewayNotReady": _gauge('nebula_ready{instance="g"}', 0, 1),
    "NebulaWorkerDown": _gauge('nebula_worker_up{instance="g",worker="2"}', 0, 1),
    "NebulaDiskFills": Case(_disk(5), _disk(50)),
    "NebulaNatsUnreachable": _gauge('nebula_nats_connected{instance="g"}', 0, 1),
    "NebulaStreamDown": _gauge('nebula_stream_up{stream="EVENTS",router="r"}', 0, 1),
    "NebulaStreamCopiesMissing": Case(_copies(2), _copies(3)),
    "NebulaFoldLags": _gauge('nebula_fold_lag_events{router="r",instance="g"}', 900, 3),
    "NebulaSnapshotsStop": _gauge('nebula_snapshot_lag_events{router="r"}', 90_000, 900),
    "NebulaDownloadFails": _gauge('nebula_downloads{node="n",state="failed"}', 1),
    "NebulaGatewayMemoryFull": Case(_memory(95), _memory(50)),
    "NebulaLimitNearlyUsed": Case(_limit(95), _limit(50)),
}
SCRAPED = {'nebula_build_info{actor="gateway",version="1",instance="g"}': "1x120"}


def unit_tests(rules: str) -> dict[str, object]:
    """Return the input of `promtool test rules`: each alert fires, alone, in its case only."""
    tests = []
    for name, case in CASES.items():
        fires = [{"labels": f'{{alertname="{name}"}}', "value": 1}]
        scraped = {} if name == "NebulaNothingScraped" else SCRAPED
        tests.append(_test(name, {**case.wrong, **scraped}, fires))
        tests.append(_test(f"{name}, all is well", {**case.well, **SCRAPED}, []))
    return {"rule_files": [rules], "evaluation_interval": "1m", "tests": tests}


def _test(name: str, series: Series, fires: list[dict[str, object]]) -> dict[str, object]:
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": each, "values": values} for each, values in series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": "100m", "exp_samples": fires}],
    }
