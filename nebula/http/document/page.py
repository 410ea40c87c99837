"""The OpenAPI document as one page for people: no scripts, and nothing from elsewhere.

Pure. Each operation is a `details` element, which keyboards and screen readers know; its id makes
it an address of its own.
"""

import shlex
from collections.abc import Iterable
from html import escape
from typing import Any, TypeAlias

import msgspec

Object: TypeAlias = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
code, pre { font: 0.9rem/1.4 ui-monospace, monospace; }
pre { overflow-x: auto; padding: 0.75rem; border: 1px solid; border-radius: 0.25rem; }
summary { cursor: pointer; padding: 0.4rem 0; }
summary b { display: inline-block; min-width: 4.5rem; }
details { border-top: 1px solid color-mix(in srgb, currentColor 25%, transparent); }
details > :not(summary) { margin-left: 1.2rem; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 1rem 0.2rem 0; }
"""


def page(document: Object, origin: str) -> str:
    """Return the page of a document; `origin`: where its visitor reaches the gateway."""
    info, root = document["info"], document["servers"][0]["url"].removesuffix("/")
    told = [
        _section(tag, list(_tagged(document, tag["name"])), origin + root, document)
        for tag in document["tags"]
    ]
    schemas = "".join(
        f'<details id="{_anchor(name)}"><summary><code>{escape(name)}</code></summary>'
        f"{_json(schema)}</details>"
        for name, schema in document["components"]["schemas"].items()
    )
    title = f"{info['title']} {info['version']}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: API</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1><p>{escape(info['description'])}</p>"
        f"<p>Clients of OpenAI use the base URL <code>{escape(origin + root)}/v1</code>. "
        'The same as a document: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(told)}<section><h2>Schemas</h2>{schemas}</section></main></body></html>"
    )


def _tagged(document: Object, tag: str) -> Iterable[tuple[str, str, Object]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield method.upper(), path, operation


def _section(
    tag: Object, operations: list[tuple[str, str, Object]], address: str, document: Object
) -> str:
    told = "".join(_operation(*each, address, document) for each in operations)
    head = f"<h2>{escape(tag['name'])}</h2><p>{escape(tag['description'])}</p>"
    return f"<section>{head}{told}</section>"


def _operation(method: str, path: str, operation: Object, address: str, document: Object) -> str:
    parts = [
        f'<details id="{escape(operation["operationId"])}"><summary><b>{method}</b> '
        f"<code>{escape(path)}</code> {escape(operation['summary'])}</summary>"
    ]
    if "description" in operation:
        parts.append(f"<p>{escape(operation['description'])}</p>")
    parts.append(f"<pre>{escape(_command(method, path, operation, address))}</pre>")
    rows = "".join(_row(_resolved(each, document)) for each in operation["parameters"])
    parts.append(
        '<table><thead><tr><th scope="col">Parameter</th><th scope="col">In</th>'
        f'<th scope="col">Meaning</th></tr></thead><tbody>{rows}</tbody></table>'
    )
    for media, body in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body, <code>{media}</code>:</p>{_json(body['schema'])}")
    for status, answer in operation["responses"].items():
        content = _resolved(answer, document).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        if schema and status != "default":
            parts.append(f"<p>Answer, {status}:</p>{_json(schema)}")
    return f"{''.join(parts)}</details>"


def _row(parameter: Object) -> str:
    cells = (parameter["name"], parameter["in"], parameter.get("description", ""))
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _command(method: str, path: str, operation: Object, address: str) -> str:
    """Return a command line that tries an operation."""
    for each in operation["parameters"]:
        if each.get("in") == "path":
            path = path.replace(f"{{{each['name']}}}", each["example"])
    line = ["curl"] + ([] if method in ("GET", "POST") else ["-X", method])
    line.append(f"{address}{path}")
    content = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in content:
        for name in content["multipart/form-data"]["schema"]["required"]:
            line += ["-F", "file=@FILE" if name == "file" else f"{name}=…"]
    elif content:
        example = msgspec.json.encode(content["application/json"].get("example", {})).decode()
        line += ["-H", "Content-Type: application/json", "-d", example]
    elif method == "POST":
        line.insert(1, "-X")
        line.insert(2, "POST")
    return shlex.join(line)


def _resolved(value: Object, document: Object) -> Object:
    """Return what a reference of the document stands for."""
    reference = value.get("$ref")
    if reference is None:
        return value
    found: Object = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def _json(value: Object) -> str:
    """Return JSON whose references are links."""
    text = escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), quote=False)
    begin, end = '"#/components/schemas/', '"'
    parts = text.split(begin)
    linked = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition(end)
        linked.append(f'<a href="#{_anchor(name)}">{name}</a>{rest}')
    return f"<pre>{''.join(linked)}</pre>"


def _anchor(name: str) -> str:
    return f"schema-{name}"
