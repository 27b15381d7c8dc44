"""The rules as an HTTP service of their own, for any ASGI server."""

import contextlib
import re
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from package_changes.model import Applied, ClientChange, Context, Rule, Selection
from package_changes.rules import Rules
from package_changes.watch import RulesFile

MAX_PACKAGES = 3000
MAX_BODY = 1 << 20
"""Bytes."""

_NAMES = re.compile(r"(?:-?[A-Za-z0-9][A-Za-z0-9._+-]*\n)*", re.ASCII)
_DEFAULT_NAMES = re.compile(r"(?:-?~?[A-Za-z0-9][A-Za-z0-9._+-]*\n)*", re.ASCII)
"""Those of upstream: `~` stands before what is built for a device and not installed."""
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Names = Annotated[
    tuple[str, ...],
    msgspec.Meta(max_length=MAX_PACKAGES, description="Package names; -name removes one"),
]


class Malformed(Exception):
    """A body that cannot be meant; the sentence begins with the field's name."""


class ApplyBody(msgspec.Struct, frozen=True):
    """A package list, and what it is for; unknown keys are ignored."""

    version: Annotated[_Name, msgspec.Meta(examples=["25.12.0"])]
    target: Annotated[_Name, msgspec.Meta(examples=["mvebu/cortexa9"])]
    profile: Annotated[_Name, msgspec.Meta(examples=["linksys_wrt3200acm"])]
    packages: _Names = ()
    default_packages: _Names = ()
    diff_packages: bool = False
    from_version: _Name | None = None
    from_defaults: _Names | None = None
    from_revision: int | None = None


class AppliedDocument(msgspec.Struct, frozen=True):
    """What the rules make of it; `rules_digest` names all rules, `matching_digest` those that hold here."""

    packages: tuple[str, ...]
    applied: tuple[Applied, ...]
    warnings: tuple[str, ...]
    missing_defaults: tuple[str, ...]
    released: tuple[str, ...]
    rules_digest: str
    matching_digest: str


class HealthDocument(msgspec.Struct, frozen=True):
    """Which rules are in use; degraded while the file cannot be used and older rules stand in."""

    status: str
    rules: int
    source: str
    loaded_at: str
    digest: str
    problem: str | None


class RuleDocument(msgspec.Struct, frozen=True, rename={"audience": "for"}):
    """A rule; null where it has no condition."""

    name: str
    audience: str
    why: str
    versions: tuple[str, ...] | None
    targets: tuple[str, ...] | None
    profiles: tuple[str, ...] | None
    requested: tuple[str, ...] | None
    from_revision: int | None
    add: tuple[str, ...]
    remove: tuple[str, ...]
    rename: Mapping[str, str]
    mandatory: bool


class RulesDocument(msgspec.Struct, frozen=True):
    """All rules, and the changes that clients are told."""

    source: str
    digest: str
    branches: Mapping[str, int]
    rules: tuple[RuleDocument, ...]
    client_changes: tuple[ClientChange, ...]


class Problem(msgspec.Struct, frozen=True):
    """Every error."""

    status: int
    title: str
    detail: str


_DECODER = msgspec.json.Decoder(ApplyBody)
_AT = re.compile(r"(.*) - at `(?:key in )?\$\.?([^`\[]*)[^`]*`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")


def parse_body(body: bytes) -> Context:
    """The context that a body describes; `Malformed` names the field that is wrong."""
    try:
        sent = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise Malformed(_explain(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"body: expected a JSON object; {error}") from error
    _require_names("packages", sent.packages)
    _require_names("default_packages", sent.default_packages, _DEFAULT_NAMES)
    _require_names("from_defaults", sent.from_defaults or (), _DEFAULT_NAMES)
    return Context(
        version=sent.version,
        target=sent.target,
        # Devices report their name with a comma behind the vendor.
        profile=sent.profile.replace(",", "_"),
        packages=sent.packages,
        default_packages=sent.default_packages,
        diff_packages=sent.diff_packages,
        from_version=sent.from_version,
        from_defaults=sent.from_defaults,
        from_revision=sent.from_revision,
    )


def _explain(error: str) -> str:
    if match := _MISSING.search(error):
        return f"{match[1]}: is missing"
    if match := _AT.fullmatch(error):
        return f"{match[2] or 'body'}: {match[1][:1].lower()}{match[1][1:]}"
    return f"body: {error}"


def _require_names(field: str, names: Collection[str], allowed: re.Pattern[str] = _NAMES) -> None:
    """One match over all names joined is several times faster than one by one."""
    joined = "".join([f"{name}\n" for name in names])
    # A name with a line break of its own would pass as two.
    if allowed.fullmatch(joined) is None or joined.count("\n") != len(names):
        raise Malformed(
            f"{field}: expected package names of letters, digits and . _ + - (a - in front removes)"
        )


def render_selection(selection: Selection, rules: Rules, context: Context) -> AppliedDocument:
    """The answer to POST /apply."""
    return AppliedDocument(
        packages=selection.packages,
        applied=selection.applied,
        warnings=selection.warnings,
        missing_defaults=selection.missing_defaults,
        released=tuple(sorted(selection.released)),
        rules_digest=rules.digest,
        matching_digest=rules.matching_digest(context.version, context.target, context.profile),
    )


def render_health(file: RulesFile) -> HealthDocument:
    """The answer to GET /health."""
    rules = file.current()
    return HealthDocument(
        status="degraded" if file.problem else "ok",
        rules=rules.count,
        source=rules.source,
        loaded_at=file.loaded_at.isoformat(timespec="seconds"),
        digest=rules.digest,
        problem=file.problem,
    )


def render_rules(rules: Rules) -> RulesDocument:
    """The answer to GET /rules."""
    return RulesDocument(
        source=rules.source,
        digest=rules.digest,
        branches=rules.branches,
        rules=tuple(_render_rule(rule) for rule in rules),
        client_changes=rules.client_changes(),
    )


def _render_rule(rule: Rule) -> RuleDocument:
    return RuleDocument(
        name=rule.name,
        audience=rule.audience,
        why=rule.why,
        versions=rule.versions or None,
        targets=None if rule.targets is None else tuple(sorted(rule.targets)),
        profiles=None if rule.profiles is None else tuple(sorted(rule.profiles)),
        requested=tuple(map(str, rule.requested)) or None,
        from_revision=rule.from_revision,
        add=rule.add,
        remove=tuple(map(str, rule.remove)),
        rename={str(rename.source): str(rename.target) for rename in rule.rename},
        mandatory=rule.mandatory,
    )


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


_VERSION = "1"
_encode = msgspec.json.Encoder().encode


class ServiceSettingsProblem(Exception):
    """A setting that cannot be meant; the sentence names its variable."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Where the service listens, and whose rules it answers with; no path means the built-in ones."""

    path: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8081


def read_settings(variables: Mapping[str, str]) -> ServiceSettings:
    """The settings in the variables `PACKAGE_CHANGES_PATH`, `…_HOST` and `…_PORT`; "" means absent."""
    path = variables.get("PACKAGE_CHANGES_PATH", "")
    port = variables.get("PACKAGE_CHANGES_PORT", "") or "8081"
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise ServiceSettingsProblem("PACKAGE_CHANGES_PORT: expected a number from 1 to 65535")
    return ServiceSettings(
        path=Path(path) if path else None,
        host=variables.get("PACKAGE_CHANGES_HOST", "") or "127.0.0.1",
        port=int(port),
    )


def create_service(file: RulesFile) -> Starlette:
    """The application for an ASGI server; it watches the file while it lives."""

    async def apply(request: Request) -> Response:
        context = parse_body(await _read_body(request))
        rules = file.current()
        return _respond(render_selection(rules.apply(context), rules, context))

    async def health(_: Request) -> Response:
        return _respond(render_health(file), headers={"cache-control": "no-store"})

    async def rules(_: Request) -> Response:
        return _respond(render_rules(file.current()))

    async def text(_: Request) -> Response:
        """The rules as the file has them, for whoever wants to apply them alone."""
        found = file.current()
        return Response(found.text, headers={"etag": f'"{found.digest}"'}, media_type="application/yaml")

    async def openapi(_: Request) -> Response:
        return _respond(describe(_VERSION))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        file.start()
        try:
            yield
        finally:
            file.stop()

    return Starlette(
        routes=[
            Route("/apply", apply, methods=["POST"]),
            Route("/health", health),
            Route("/rules", rules),
            Route("/rules.yaml", text),
            Route("/openapi.json", openapi),
        ],
        exception_handlers={Malformed: _on_malformed, HTTPException: _on_http_error, Exception: _on_bug},
        lifespan=lifespan,
    )


async def _read_body(request: Request) -> bytes:
    pieces, length = [], 0
    async for piece in request.stream():
        length += len(piece)
        if length > MAX_BODY:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body: more than {MAX_BODY} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _respond(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(document), status, headers, media_type="application/json")


async def _on_malformed(_: Request, error: Exception) -> Response:
    return _respond(Problem(422, "Malformed request", str(error)), 422)


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    details = {404: "Nothing lives at this address.", 405: "This address does not know this method."}
    problem = Problem(status.value, status.phrase, details.get(status.value, error.detail))
    return _respond(problem, status.value, error.headers)


async def _on_bug(_: Request, __: Exception) -> Response:
    sentence = "The server made a mistake and has written it to its log. Please try again later."
    return _respond(Problem(500, "Internal error", sentence), 500)
