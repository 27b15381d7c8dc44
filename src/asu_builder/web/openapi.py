"""The OpenAPI description, made from the route table and msgspec's schemas."""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from asu_builder.web.documents import Problem
from asu_builder.web.parameters import PATH, QUERY, headers_of

_CONVERTER = re.compile(r":\w+}")
_PLACEHOLDER = re.compile(r"{(\w+)}")
_SOURCE = re.compile(r"\s*\(facts on [^)]*\)")
_PREFLIGHT = {
    "summary": "What a browser asks before it asks from another origin.",
    "responses": {"204": {"description": "The methods and headers that are allowed"}},
}


class Operation(msgspec.Struct, frozen=True):
    """What one address does, for people and for the schema.

    `answers` maps a status to a sentence and the type of the document; None for no JSON. `query`
    names the parameters, which `parameters.py` describes.
    """

    path: str
    methods: tuple[str, ...]
    summary: str
    answers: Mapping[int, tuple[str, Any]]
    body: Any = None
    query: tuple[str, ...] = ()
    content_type: str = "application/json"
    events: bool = False
    """Whether the answer is a stream of the events in `live_documents.py`."""

    @property
    def address(self) -> str:
        """The path as OpenAPI writes it: a placeholder's name alone."""
        return _CONVERTER.sub("}", self.path)


def describe(operations: Iterable[Operation], *, version: str) -> dict[str, Any]:
    """The whole OpenAPI 3.1 document."""
    operations = tuple(operations)
    types = _types(operations)
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        entry = paths.setdefault(operation.address, {})
        if parameters := [PATH[name] for name in _PLACEHOLDER.findall(operation.address)]:
            entry["parameters"] = parameters
        for method in operation.methods:
            entry[method.lower()] = _operation(operation, method, schema_of)
        entry["options"] = {**_PREFLIGHT, "operationId": f"options {operation.address}"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ASU Builder",
            "version": version,
            "description": "Attended sysupgrade: OpenWrt images with exactly the packages a router needs.",
        },
        "paths": paths,
        "components": {"schemas": {name: _tidied(schema) for name, schema in components.items()}},
    }


def _types(operations: Iterable[Operation]) -> tuple[Any, ...]:
    from asu_builder.web.live_documents import Event  # not needed for the first answer

    found: list[Any] = [Problem]
    for operation in operations:
        found += [Event] if operation.events else []
        found += [kind for _, kind in operation.answers.values() if kind is not None]
        found += [operation.body] if operation.body else []
    return tuple(dict.fromkeys(found))


def _tidied(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its docstring as a description: not indented, without where we know it from."""
    text = inspect.cleandoc(schema.get("description", ""))
    fields = dict(schema.get("properties", {}))
    if "description" not in fields.get("type", {"description": ""}):
        # A tag, which msgspec describes without words.
        fields["type"] = {
            **fields["type"],
            "description": "Which message this is",
            "examples": fields["type"]["enum"],
        }
    described = {"properties": fields} if fields else {}
    return {**schema, **described, "description": _SOURCE.sub("", text)}


def _operation(operation: Operation, method: str, schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{method.lower()} {operation.address}",
        "responses": {
            str(status): _answer(operation, status, schema_of, has_body=method != "HEAD")
            for status in operation.answers
        },
    }
    if operation.query:
        described["parameters"] = [QUERY[name] for name in operation.query]
    if operation.body:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[operation.body]}},
        }
    return described


def _answer(
    operation: Operation, status: int, schema_of: Mapping[Any, Any], *, has_body: bool
) -> dict[str, Any]:
    sentence, kind = operation.answers[status]
    answer: dict[str, Any] = {"description": sentence}
    if headers := headers_of(operation.address, status):
        answer["headers"] = headers
    if not has_body:
        return answer
    if kind is not None:
        answer["content"] = {"application/json": {"schema": schema_of[kind]}}
    elif status in (200, 206):
        answer["content"] = {operation.content_type: _stream(schema_of) if operation.events else {}}
    return answer


def _stream(schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    """OpenAPI 3.1 has no word for a stream, so its messages are the schema of its text."""
    from asu_builder.web.live_documents import Event

    return {
        "schema": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": schema_of[Event],
        }
    }
