"""The API reference as a page, made from the OpenAPI description."""

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

_METHODS = ("get", "head", "post", "delete")
_REFERENCE = "#/components/schemas/"


def interface_body(description: Mapping[str, Any]) -> Markup:
    """Contents, then the operations by subject, where GET and HEAD share a section, and the documents."""
    subjects: dict[str, list[tuple[str, Mapping[str, Any], list[str]]]] = {}
    for path, entry in description["paths"].items():
        does: dict[str, list[str]] = {}
        for method in _METHODS:
            if method in entry:
                does.setdefault(entry[method]["summary"], []).append(method)
        for methods in does.values():
            subject = next(iter(entry[methods[0]].get("tags", ())), "Endpoints")
            subjects.setdefault(subject, []).append((path, entry, methods))
    sections = [_contents(subjects)]
    for subject, operations in subjects.items():
        sections.append(f'<h2 id="{_anchor(subject)}">{_text(subject)}</h2>')
        sections += [_operation(*each) for each in operations]
    sections.append('<h2 id="documents">Documents</h2>')
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


def _contents(subjects: Mapping[str, Sequence[tuple[str, Mapping[str, Any], Sequence[str]]]]) -> str:
    parts = []
    for subject, operations in subjects.items():
        lines = "".join(
            f'<li><a href="#{_anchor(methods[0], path)}">'
            f"<code>{methods[0].upper()} {_text(path)}</code></a></li>"
            for path, _, methods in operations
        )
        parts.append(f'<li><a href="#{_anchor(subject)}">{_text(subject)}</a><ul>{lines}</ul></li>')
    parts.append('<li><a href="#documents">Documents</a></li>')
    return f'<nav aria-label="Contents"><ul class="contents">{"".join(parts)}</ul></nav>'


def _anchor(*words: str) -> str:
    return re.sub("[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def _tried(entry: Mapping[str, Any]) -> str:
    """How to try it, and what comes back."""
    samples = "".join(f"{sample['source']}\n" for sample in entry.get("x-codeSamples", ()))
    parts = [f'<pre tabindex="0" role="group" aria-label="Example"><code>{_text(samples)}</code></pre>']
    for status, answer in entry["responses"].items():
        for content in answer.get("content", {}).values():
            if status.startswith("2") and "example" in content:
                text = json.dumps(content["example"], indent=2, ensure_ascii=False)
                parts.append(
                    f"<details><summary>What {status} looks like</summary>"
                    '<pre tabindex="0" role="group" aria-label="Answer">'
                    f"<code>{_text(text)}</code></pre></details>"
                )
    return "".join(parts)


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
        f'<h3 id="{_anchor(methods[0], path)}">{", ".join(method.upper() for method in methods)}'
        f" <code>{_text(path)}</code></h3>"
        f"<p>{_text(operation['summary'])}</p>{body}<table>{rows}{answers}</table>{_tried(operation)}"
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
