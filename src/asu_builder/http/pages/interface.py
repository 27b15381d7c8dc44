"""The API reference as a page, made from the OpenAPI description."""

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

_METHODS = ("get", "head", "post", "delete")
_REFERENCE = "#/components/schemas/"


def interface_body(description: Mapping[str, Any]) -> Markup:
    """The sections of the page: one per operation, where GET and HEAD share one, and one per document."""
    sections = ["<h2>Endpoints</h2>"]
    for path, entry in description["paths"].items():
        does: dict[str, list[str]] = {}
        for method in _METHODS:
            if method in entry:
                does.setdefault(entry[method]["summary"], []).append(method)
        sections += [_operation(path, entry, methods) for methods in does.values()]
    sections.append("<h2>Documents</h2>")
    for name, schema in sorted(description["components"]["schemas"].items()):
        required = schema.get("required", ())
        rows = "".join(
            f"<tr><td><code>{_text(field)}</code></td>"
            f"<td>{_type(kind)}{'' if field in required else ', optional'}</td>"
            f"<td>{_text(kind.get('description', ''))}{_example(kind)}</td></tr>"
            for field, kind in schema.get("properties", {}).items()
        )
        words = f"<p>One of {_words(schema['enum'])}.</p>" if "enum" in schema else ""
        sections.append(
            f'<h3 id="{_text(name)}">{_text(name)}</h3><p>{_text(schema.get("description", ""))}</p>'
            f"{words}<table>{rows}</table>"
        )
    return Markup("".join(sections))


def _operation(path: str, entry: Mapping[str, Any], methods: Sequence[str]) -> str:
    operation = entry[methods[0]]
    parameters = [*entry.get("parameters", ()), *operation.get("parameters", ())]
    rows = "".join(
        f"<tr><td><code>{_text(parameter['name'])}</code></td>"
        f"<td>{_text(parameter['description'])}{_example(parameter['schema'])}</td></tr>"
        for parameter in parameters
    )
    answers = "".join(
        f"<tr><td>{status}</td><td>{_text(answer['description'])}{_linked(answer)}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    sent = operation.get("requestBody")
    body = f"<p>Send{_linked(sent)}.</p>" if sent else ""
    return (
        f"<h3>{', '.join(method.upper() for method in methods)} <code>{_text(path)}</code></h3>"
        f"<p>{_text(operation['summary'])}</p>{body}<table>{rows}{answers}</table>"
    )


def _type(schema: Mapping[str, Any]) -> str:
    """A type in words: a link for a document, the names of all for a choice."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(choice) for choice in schema["anyOf"]))
    if "$ref" in schema:
        name = _text(schema["$ref"].removeprefix(_REFERENCE))
        return f'<a href="#{name}">{name}</a>'
    kind = str(schema.get("type", "anything"))
    inner = schema.get("items") or schema.get("additionalProperties")
    return f"{kind} of {_type(inner)}" if isinstance(inner, dict) and inner else kind


def _linked(answer: Mapping[str, Any]) -> str:
    names = sorted(set(_references(answer.get("content", {}))))
    return "".join(f' <a href="#{_text(name)}">{_text(name)}</a>' for name in names)


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield str(schema["$ref"]).removeprefix(_REFERENCE)
        for value in schema.values():
            yield from _references(value)


def _example(schema: Mapping[str, Any]) -> str:
    examples = _words(schema.get("examples", ()))
    return f"<br><small>For example {examples}</small>" if examples else ""


def _words(values: Any) -> str:
    return ", ".join(f"<code>{_text(json.dumps(value))}</code>" for value in values)


def _text(text: str) -> str:
    return html.escape(str(text))
