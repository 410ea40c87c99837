"""The board of one tenant, or of several: what it asks, what it uses, what is left of its limits."""

from nebula.boards.panels import Board, Panel, Query, Row, Variable, alarm
from nebula.boards.queries import ERRORS, INPUT, per_second, share

TENANT = 'tenant=~"$tenant"'
LIMITS = 'kind="tenant",subject=~"$tenant"'
KEYS = 'kind="key"'


def _used(where: str, *by: str) -> str:
    """Return the part of limits that is used, where anything is."""
    labels = ", ".join(by)
    used = f"max by ({labels}) (nebula_limit_used{{{where}}})"
    return f"{used} / max by ({labels}) (nebula_limit{{{where}}})"


_NOW = Row(
    "Now",
    (
        alarm(
            "Limit nearest to its end",
            "The largest used part of the tenant's limits in their present windows. At 1 requests are "
            "refused with 429: `nebula limits list` shows them.",
            f"max ({_used(LIMITS, 'subject', 'meter')})",
            "percentunit",
            0.9,
        ),
        alarm(
            "Failed requests",
            "The part of its requests that ended with a status of 500 and above: not its fault.",
            share("nebula_requests_total", ERRORS, TENANT),
            "percentunit",
            0.01,
        ),
        alarm(
            "Refused requests",
            "The part of its requests that a limit refused (429).",
            share("nebula_requests_total", 'status="429"', TENANT),
            "percentunit",
            0.01,
        ),
        alarm(
            "Tokens per second",
            "Of its prompts and answers together; `nebula usage` has the exact numbers.",
            per_second("nebula_tokens_total", where=TENANT),
            red=1e12,
        ),
    ),
)

_USE = Row(
    "What it asks",
    (
        Panel(
            "Requests by status",
            "400, 401 and 404 are mistakes of its programs, 429 a limit, 499 clients that left.",
            (Query(per_second("nebula_requests_total", "status", where=TENANT), "{{status}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Requests by model",
            "Which models it asks, and how much; without a name: refused before the model was known.",
            (Query(per_second("nebula_requests_total", "model", where=TENANT), "{{model}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Requests by tenant",
            "How much each asks. A tenant that crowds out others gets a limit: `nebula limits list`.",
            (Query(per_second("nebula_requests_total", "tenant", where=TENANT), "{{tenant}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Tokens by model",
            "Of prompts and answers. `nebula usage` has the exact numbers, for bills.",
            (
                Query(
                    per_second("nebula_tokens_total", "model", "type", where=TENANT),
                    "{{model}} {{type}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Prompts from the cache",
            "The part of its prompts' tokens that engines had in their caches: what differs belongs "
            "at the end of prompts.",
            (
                Query(
                    f"{per_second('nebula_cached_tokens_total', where=TENANT)} / "
                    f"{per_second('nebula_tokens_total', where=f'{TENANT},{INPUT}')}",
                    "cached",
                ),
            ),
            "percentunit",
            most=1,
        ),
        Panel(
            "Refused, by reason",
            "Requests that were refused before a router got them, by the error's code.",
            (
                Query(
                    per_second("nebula_requests_refused_total", "reason", where=TENANT),
                    "{{reason}}",
                ),
            ),
            "reqps",
            stacked=True,
        ),
    ),
)

_LIMITS = Row(
    "Limits",
    (
        Panel(
            "Limits of the tenant",
            "The used part of each, in its present window. At 1 it refuses requests. `nebula limits list` shows them.",
            (Query(_used(LIMITS, "subject", "meter"), "{{subject}} {{meter}}"),),
            "percentunit",
            width=12,
            red=0.9,
            most=1,
        ),
        Panel(
            "Limits of keys",
            "The ten keys of all tenants that have used most of a limit of their own. `nebula key "
            "list` names them.",
            (Query(f"topk (10, {_used(KEYS, 'subject', 'meter')})", "{{subject}} {{meter}}"),),
            "percentunit",
            "bargauge",
            12,
            red=0.9,
            most=1,
        ),
    ),
)

TENANTS = Board(
    "tenant",
    "tenant",
    "What a tenant asks and uses, and what is left of its limits. Choose one above.",
    (_NOW, _USE, _LIMITS),
    (Variable("tenant", "nebula_requests_total"),),
)
