"""The rules as an HTTP service of their own, for any ASGI server."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from package_changes.interface import describe
from package_changes.watch import RulesFile
from package_changes.wire import (
    MAX_BODY,
    Malformed,
    Problem,
    parse_body,
    render_health,
    render_rules,
    render_selection,
)

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
