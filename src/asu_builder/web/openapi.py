"""The OpenAPI description, made from the route table and msgspec's schemas."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from asu_builder.web.documents import Problem

_HASH_PARAMETER = {
    "name": "request_hash",
    "in": "path",
    "required": True,
    "description": "The 64 lower-case hexadecimal digits that name a request",
    "schema": {"type": "string"},
}
_NAME_PARAMETER = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "The file's name as in `images` of a finished build",
    "schema": {"type": "string"},
}
_PARAMETERS = {"request_hash": _HASH_PARAMETER, "name": _NAME_PARAMETER}


class Operation(msgspec.Struct, frozen=True):
    """What one address does, for people and for the schema.

    `answers` maps a status to a sentence and the type of the document; None for no JSON.
    """

    path: str
    methods: tuple[str, ...]
    summary: str
    answers: Mapping[int, tuple[str, Any]]
    body: Any = None
    query: Mapping[str, str] = {}
    content_type: str = "application/json"


def describe(operations: Iterable[Operation], *, version: str) -> dict[str, Any]:
    """The whole OpenAPI 3.1 document."""
    operations = tuple(operations)
    types = _types(operations)
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        entry = paths.setdefault(operation.path, {})
        for method in operation.methods:
            entry[method.lower()] = _operation(operation, method, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ASU Builder",
            "version": version,
            "description": "Attended sysupgrade: OpenWrt images with exactly the packages a router needs.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _types(operations: Iterable[Operation]) -> tuple[Any, ...]:
    found = [Problem]
    for operation in operations:
        found += [kind for _, kind in operation.answers.values() if kind is not None]
        found += [operation.body] if operation.body else []
    return tuple(dict.fromkeys(found))


def _operation(operation: Operation, method: str, schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{method.lower()} {operation.path}",
        "responses": {
            str(status): {"description": sentence}
            if method == "HEAD"
            else _answer(sentence, schema_of.get(kind), operation, status=status)
            for status, (sentence, kind) in operation.answers.items()
        },
    }
    parameters = [described for name, described in _PARAMETERS.items() if f"{{{name}}}" in operation.path]
    parameters += [
        {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in operation.query.items()
    ]
    if parameters:
        described["parameters"] = parameters
    if operation.body:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[operation.body]}},
        }
    return described


def _answer(sentence: str, schema: object, operation: Operation, *, status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": sentence}
    if schema is not None:
        answer["content"] = {"application/json": {"schema": schema}}
    elif status in (200, 206) and operation.content_type != "application/json":
        answer["content"] = {operation.content_type: {}}
    return answer
