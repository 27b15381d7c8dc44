"""The service's OpenAPI description, made from its table of addresses and msgspec's schemas."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from package_changes.wire import AppliedDocument, ApplyBody, HealthDocument, Problem, RulesDocument


class Operation(NamedTuple):
    """What an address does; `answers` maps a status to a sentence and the type of the document."""

    method: str
    path: str
    summary: str
    answers: Mapping[int, tuple[str, Any]]
    body: Any = None


OPERATIONS = (
    Operation(
        "POST",
        "/apply",
        "What the rules make of a package list, and why.",
        {
            200: ("The list to build with", AppliedDocument),
            413: ("The body is too large", Problem),
            422: ("The body is no such request; detail begins with the field's name", Problem),
        },
        body=ApplyBody,
    ),
    Operation("GET", "/health", "Which rules are in use.", {200: ("The rules answer", HealthDocument)}),
    Operation("GET", "/rules", "All rules.", {200: ("The rules", RulesDocument)}),
    Operation("GET", "/rules.yaml", "All rules as their file has them.", {200: ("YAML", None)}),
    Operation("GET", "/openapi.json", "This description.", {200: ("OpenAPI 3.1", None)}),
)


def describe(version: str) -> dict[str, Any]:
    """The whole OpenAPI 3.1 document."""
    types = tuple(
        dict.fromkeys(
            kind
            for operation in OPERATIONS
            for kind in (operation.body, *(kind for _, kind in operation.answers.values()))
            if kind is not None
        )
    )
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, schemas, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ASU package changes",
            "version": version,
            "description": "Adapts package lists to what changed between OpenWrt versions.",
        },
        "paths": {
            operation.path: {operation.method.lower(): _operation(operation, schema_of)}
            for operation in OPERATIONS
        },
        "components": {"schemas": components},
    }


def _operation(operation: Operation, schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method.lower()} {operation.path}",
        "responses": {
            str(status): {
                "description": sentence,
                "content": {"application/json": {"schema": schema_of.get(kind, {})}},
            }
            for status, (sentence, kind) in operation.answers.items()
        },
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[operation.body]}},
        }
    return described
