"""Requests that schemathesis makes from the gateway's OpenAPI document, and beyond it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from nebula.http.dialects import dialect_for
from tests.fuzz.verdicts import Verdicts

MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


def with_models(document: Any) -> Any:
    """Return the document with the names of models that exist, so that engines are asked too."""
    for path in document["paths"].values():
        for operation in path.values():
            content = operation.get("requestBody", {}).get("content", {})
            for body in content.values():
                model = body.get("example", {}).get("model")
                properties = body["schema"].get("properties", {})
                if model is not None and "model" in properties:
                    properties["model"] = {"enum": [model]}
    return document


def operations(document: Any) -> Iterator[Any]:
    """Yield the operations of a document."""
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        yield found.ok()


def ask(operation: Any, url: str, verdicts: Verdicts, examples: int, seed: int) -> None:
    """Send an operation this number of requests that fit the document, and as many that don't."""
    for mode in MODES:
        with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with it, or right
            _ask(operation, mode, url, verdicts, examples, seed)


def _ask(
    operation: Any, mode: GenerationMode, url: str, verdicts: Verdicts, examples: int, seed: int
) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        answer = case.call(base_url=url, timeout=60)
        status = answer.status_code
        name = f"{operation.method.upper()} {operation.path}"
        # A path or a method of its own, which another operation answers, has OpenAI's form, unless
        # the request names the version of Anthropic's API.
        fields = [(name.lower().encode(), b"") for name in case.headers or ()]
        named = dialect_for(operation.path, fields) == "anthropic"
        other = status in (404, 405) and named and b'"type":"error"' not in answer.content
        verdicts.take(
            "schema",
            f"{name}: {mode.value}, body {str(case.body)[:200]}, {case.query} {case.headers}",
            status,
            answer.content,
            anthropic=named and not other,
        )

    send()
