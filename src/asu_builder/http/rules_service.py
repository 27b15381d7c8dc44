"""`asu-package-changes`: the package rules as a service, behind the same door as the builder."""

import contextlib
import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from asu_builder.domain.errors import RequestMalformed
from asu_builder.http.api.body import explain
from asu_builder.http.api.wire import Problem, render_json, render_problem
from asu_builder.http.cache import Rendered, TtlCache
from asu_builder.http.door import Door
from asu_builder.http.errors import status_of
from asu_builder.http.openapi import conditional_operation, declared, describe, operation, says
from asu_builder.http.representations import JSON, on_bug, on_http_error, respond
from asu_builder.http.server import server_config
from asu_builder.http.threads import Threads
from asu_builder.settings import Settings, SettingsProblem
from package_changes.files import RulesFile
from package_changes.model import Applied, ClientChange, Context
from package_changes.rules import Rules

MAX_PACKAGES = 3000
_BYTES = 4 << 20
"""Of rendered documents; a rules file has at most one MiB."""
_MAX_NAME = 128
_VERSION = "1"
_WRONG_SETTING = 2
_USAGE = """\
asu-package-changes: serves package rules over HTTP. It takes variables and no arguments:
  PACKAGE_CHANGES_PATH  a rules file, watched while it serves (the built-in rules)
  PACKAGE_CHANGES_HOST  the address to listen on (127.0.0.1)
  PACKAGE_CHANGES_PORT  the port to listen on (8081)
"""

_LENGTH = {"minLength": 1, "maxLength": _MAX_NAME}
_Version = Annotated[str, says("A version", "25.12.0", **_LENGTH)]
_Names = Annotated[
    tuple[str, ...], says("Package names; -name removes one", ["luci", "-ppp"], maxItems=MAX_PACKAGES)
]
_NAMES = re.compile(r"(?:-?[A-Za-z0-9][A-Za-z0-9._+-]*\n)*", re.ASCII)
_DEFAULT_NAMES = re.compile(r"(?:-?~?[A-Za-z0-9][A-Za-z0-9._+-]*\n)*", re.ASCII)
"""Those of upstream: `~` stands before what is built for a device and not installed."""


class ApplyBody(msgspec.Struct, frozen=True):
    """A package list, and what it is for; unknown keys are ignored."""

    version: _Version
    target: Annotated[str, says("Target and subtarget", "mvebu/cortexa9", **_LENGTH)]
    profile: Annotated[str, says("The device's profile", "linksys_wrt3200acm", **_LENGTH)]
    packages: _Names = ()
    default_packages: _Names = ()
    diff_packages: bool = False
    from_version: _Version | None = None
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


_ENTRY = re.compile(r"^([a-z_]+)\[[^\]]*\]:")
_DECODER = msgspec.json.Decoder(ApplyBody)


def parse_body(body: bytes) -> Context:
    """The context that a body describes. Raises `RequestMalformed`, which names the field."""
    try:
        sent = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise RequestMalformed(_ENTRY.sub(r"\1:", explain(str(error)), count=1)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestMalformed("body: expected a JSON object") from error
    for field in ("version", "target", "profile", "from_version"):
        value = getattr(sent, field)
        if value is not None and not 1 <= len(value) <= _MAX_NAME:
            raise RequestMalformed(f"{field}: expected 1 to {_MAX_NAME} characters")
    for field, allowed in (
        ("packages", _NAMES),
        ("default_packages", _DEFAULT_NAMES),
        ("from_defaults", _DEFAULT_NAMES),
    ):
        names = getattr(sent, field) or ()
        if len(names) > MAX_PACKAGES:
            raise RequestMalformed(f"{field}: expected at most {MAX_PACKAGES} names")
        # One match over all names joined is several times faster than one by one.
        joined = "".join([f"{name}\n" for name in names])
        # A name that holds a line break would pass as two.
        if allowed.fullmatch(joined) is None or joined.count("\n") != len(names):
            raise RequestMalformed(
                f"{field}: expected package names of letters, digits and . _ + - (a - in front removes)"
            )
    # Devices report their name with a comma behind the vendor.
    return Context(**msgspec.structs.asdict(sent) | {"profile": sent.profile.replace(",", "_")})


class RulesEndpoints:
    """What the service answers, from the rules of a file as they are now."""

    def __init__(self, file: RulesFile, threads: Threads) -> None:
        self._file = file
        self._documents = TtlCache(threads, budget=_BYTES, largest=_BYTES, clock=time.monotonic)

    @operation(
        "/apply",
        method="POST",
        body=ApplyBody,
        answers={
            200: ("The list to build with", AppliedDocument),
            413: ("The body is too large", Problem),
            422: ("The body is no such request; detail begins with the field's name", Problem),
        },
    )
    async def apply(self, request: Request) -> Response:
        """What the rules make of a package list, and why."""
        try:
            context = parse_body(await request.body())
        except RequestMalformed as error:
            return respond(render_problem(*status_of(error), str(error)))
        rules = self._file.current()
        found = rules.apply(context)
        document = AppliedDocument(
            packages=found.packages,
            applied=found.applied,
            warnings=found.warnings,
            missing_defaults=found.missing_defaults,
            released=tuple(sorted(found.released)),
            rules_digest=rules.digest,
            matching_digest=rules.matching_digest(context.version, context.target, context.profile),
        )
        return respond(render_json(document))

    @operation("/health", answers={200: ("The rules answer", HealthDocument)})
    async def health(self, _: Request) -> Response:
        """Which rules are in use."""
        rules = self._file.current()
        document = HealthDocument(
            status="degraded" if self._file.problem else "ok",
            rules=rules.count,
            source=rules.source,
            loaded_at=self._file.loaded_at.isoformat(timespec="seconds"),
            digest=rules.digest,
            problem=self._file.problem,
        )
        response = respond(render_json(document))
        response.headers["cache-control"] = "no-store"
        return response

    @conditional_operation("/rules", answers={200: ("The rules", RulesDocument)})
    async def rules(self, request: Request) -> Response:
        """All rules."""

        def render() -> bytes:
            rules: Rules = self._file.current()
            described = tuple(
                RuleDocument(
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
                for rule in rules
            )
            document = RulesDocument(
                rules.source, rules.digest, rules.branches, described, rules.client_changes()
            )
            return msgspec.json.encode(document)

        return await self._answer(request, render)

    @conditional_operation("/rules.yaml", answers={200: ("YAML", None)}, content_type="application/yaml")
    async def text(self, request: Request) -> Response:
        """All rules as their file has them."""
        return await self._answer(
            request, lambda: self._file.current().text.encode(), content_type=b"application/yaml"
        )

    @conditional_operation("/openapi.json", answers={200: ("OpenAPI 3.1", None)})
    async def openapi(self, request: Request) -> Response:
        """This description."""

        def render() -> bytes:
            document = describe(
                [found for found, _ in declared(self)],
                version=_VERSION,
                title="ASU package changes",
                text="Adapts package lists to what changed between OpenWrt versions.",
                preflight=False,
            )
            return msgspec.json.encode(document)

        return await self._answer(request, render)

    async def _answer(
        self, request: Request, render: Callable[[], bytes], *, content_type: bytes = JSON
    ) -> Response:
        """A document that stays the same until the file is loaded again."""
        key = f"{self._file.loaded_at.isoformat()} {request.scope['path']}"
        return await self._documents.answer(
            request, key, lambda: Rendered(render(), math.inf, content_type=content_type)
        )


def create_service(file: RulesFile) -> Starlette:
    """The application for an ASGI server, which limits bodies; it watches the file while it lives."""

    threads = Threads(1, name="rules")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        file.start()
        try:
            yield
        finally:
            file.stop()
            threads.close()

    return Starlette(
        routes=[
            Route(found.path, handler, methods=list(found.methods))
            for found, handler in declared(RulesEndpoints(file, threads))
        ],
        exception_handlers={HTTPException: on_http_error, Exception: on_bug},
        lifespan=lifespan,
    )


class ServiceSettings(msgspec.Struct, frozen=True):
    """Where the service listens, and whose rules it answers with; no path means the built-in ones."""

    path: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8081


def read_settings(variables: Mapping[str, str]) -> ServiceSettings:
    """The settings in the variables `PACKAGE_CHANGES_PATH`, `…_HOST` and `…_PORT`; "" means absent.

    Raises `SettingsProblem`.
    """
    path = variables.get("PACKAGE_CHANGES_PATH", "")
    port = variables.get("PACKAGE_CHANGES_PORT", "") or "8081"
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise SettingsProblem("PACKAGE_CHANGES_PORT: expected a number from 1 to 65535")
    host = variables.get("PACKAGE_CHANGES_HOST", "") or "127.0.0.1"
    return ServiceSettings(Path(path) if path else None, host, int(port))


def rules_config(settings: ServiceSettings, limits: Settings | None = None) -> uvicorn.Config:
    """uvicorn's options for the service; `limits` are those of the builder unless others are given."""
    door = Door(limits, large_bodies=lambda path: path == "/apply")
    app = create_service(RulesFile(settings.path))
    return server_config(app, settings.host, settings.port, door=door)


def main() -> None:
    """Runs the service until it is told to stop (SIGTERM or Ctrl-C)."""
    if sys.argv[1:]:
        wanted = sys.argv[1] in ("-h", "--help")
        (sys.stdout if wanted else sys.stderr).write(_USAGE)
        sys.exit(0 if wanted else _WRONG_SETTING)
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%SZ",
    )
    try:
        settings = read_settings(os.environ)
    except SettingsProblem as problem:
        sys.stderr.write(f"asu-package-changes: {problem}\n")
        sys.exit(_WRONG_SETTING)
    # uvicorn passes the signal that ended it to the former handler; without one, a normal end is a crash.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(rules_config(settings)).run()


if __name__ == "__main__":
    main()
