"""How an endpoint is declared beside its handler, and the OpenAPI description made of all of them."""

import inspect
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from asu_builder.domain.errors import RequestRejected
from asu_builder.domain.request import VERSION

if TYPE_CHECKING:
    from starlette.requests import Request

HASH_PATTERN = "^[0-9a-f]{64}$"
A_HASH = "4be1a1f3c0d24f0e8d7c5b9a6f3e2d1c4be1a1f3c0d24f0e8d7c5b9a6f3e2d1c"
A_REVISION = "r28959-29397011cc"
A_SENTENCE = "Unsupported version: 24.10.99"
A_TIME = "2026-11-23T12:44:54.231091Z"


def says(text: str, *examples: object, **schema: object) -> msgspec.Meta:
    """What a field means, with examples and further words of JSON Schema. None of it is enforced."""
    return msgspec.Meta(description=text, examples=list(examples), extra_json_schema=schema or None)


_TARGET_PART = "^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$"
_FILE = "openwrt-24.10.4-4be1a1f3c0d2-ath79-generic-tplink_archer-c7-v5-squashfs-sysupgrade.bin"


def _parameter(
    name: str, text: str, example: object, *, where: str = "path", **schema: object
) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "description": text,
        "schema": {"type": "string", "examples": [example], **schema},
    }


PATH = {
    entry["name"]: entry
    for entry in (
        _parameter("request_hash", "The hash that names a request", A_HASH, pattern=HASH_PATTERN),
        _parameter("other", "The hash of the build to compare it with", A_HASH, pattern=HASH_PATTERN),
        _parameter(
            "name",
            "The file's name as in `images` of a finished build",
            _FILE,
            pattern="^[A-Za-z0-9][A-Za-z0-9._+~@:=,-]{0,254}$",
        ),
        _parameter(
            "path",
            "Upstream's directory of a version: the branch's `path` with the version put in. "
            "Its slashes are written as they are",
            "releases/24.10.4",
            pattern="^(snapshots|[A-Za-z0-9._/-]+)$",
        ),
        _parameter(
            "architecture", "The package architecture", "mips_24kc", pattern="^[A-Za-z0-9._+-]{1,64}$"
        ),
        _parameter("target", "The target", "ath79", pattern=_TARGET_PART),
        _parameter("subtarget", "The subtarget", "generic", pattern=_TARGET_PART),
        _parameter(
            "profile", "A profile or a name of its device", "tplink_archer-c7-v5", pattern="^[^/]{1,128}$"
        ),
        _parameter(
            "chart",
            "Which chart of the page of statistics",
            "builds-per-day",
            enum=["builds-per-day", "versions", "failures", "durations", "packages", "diff-packages"],
        ),
        _parameter("version", "A release, or a snapshot", "24.10.4", pattern=f"^{VERSION.pattern}$"),
    )
}
"""By the names of placeholders; slashes of `path` alone are part of it."""

_NUMBER = {"type": "integer", "minimum": 0}
QUERY = {
    key: _parameter(key.partition(" ")[0], text, example, where="query", **schema)
    | {"required": key in ("version searched", "target searched")}
    for key, text, example, schema in (
        ("n", "How many at most; more than the most that is given means the most", 30, _NUMBER),
        ("days", "How many days, today among them", 30, {"type": "integer", "enum": [7, 30, 90]}),
        ("branch", "How the versions' names begin", "24.10", {"maxLength": 32}),
        ("interval", "How wide a slot of the chart is", "week", {"enum": ["day", "week"]}),
        (
            "state",
            "Only jobs in this state",
            "failed",
            {"enum": ["pending", "building", "completed", "failed", "cancelled"]},
        ),
        ("version", "Only jobs of this version", "24.10.4", {}),
        ("target", "Only jobs of this target", "ath79/generic", {}),
        ("profile", "Only jobs of this profile", "tplink_archer-c7-v5", {}),
        ("caller", "Only jobs that take this token's or address's turns", "192.0.2.7", {}),
        ("request_hash", "Only jobs whose hash begins so", A_HASH[:12], {"pattern": "^[0-9a-f]{4,64}$"}),
        ("before", "Only jobs with a smaller number, for paging", 4711, _NUMBER),
        ("limit", "How many at most", 100, _NUMBER),
        ("after", "Only lines behind this one, by its seq", 0, _NUMBER),
        ("follow", "1 goes on to the end of the build", "0", {"enum": ["0", "1"]}),
        ("for", "With build: 503 when no build could run now", "build", {"enum": ["build"]}),
        ("version searched", "The version to search in", "24.10.4", {"maxLength": 64}),
        ("target searched", "The target to search in", "ath79/generic", {"maxLength": 64}),
        ("search", "Words in any order; nothing means the first ones", "archer c7", {"maxLength": 64}),
        ("limit searched", "How many at most; more than 100 means 100", 20, _NUMBER),
    )
}
"""By the names that operations use: those of the wire, with `searched` behind those of a search."""

_STEP = {
    "description": "The step in a word: queued, the name of a stage, done or failed",
    "schema": {"type": "string", "examples": ["queued", "building_image"]},
}
_POSITION = {
    "description": "How many jobs are ahead, 0 once it is being built",
    "schema": {"type": "string", "pattern": "^[0-9]+$", "examples": ["0"]},
}
_TIMING = {
    "description": "Milliseconds: wait before its start, build from there to its end, app for this answer; "
    "of a finished build also pull, set_up, download, install, image, collect, sign and publish",
    "schema": {"type": "string", "examples": ["wait;dur=1200, build;dur=9300, pull;dur=4, set_up;dur=310"]},
}
_RETRY_AFTER = {
    "description": "After how many seconds to try again",
    "schema": {"type": "string", "pattern": "^[0-9]+$", "examples": ["10"]},
}
_ETAG = {
    "description": "Names these very bytes; another one where they are sent as gzip",
    "schema": {"type": "string", "examples": ['"3f1c4f0a9d2b7e5586d0c1a24b9f7e13"']},
}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of what the client has",
    "schema": {"type": "string", "examples": ['"3f1c4f0a9d2b7e5586d0c1a24b9f7e13"']},
}


_ABOUT_A_BUILD = ("/api/v1/build", "/api/v1/build/{request_hash}")


def headers_of(operation: "Operation", status: int) -> dict[str, Any]:
    """The headers that mean something to clients of this answer."""
    if status in (429, 503):
        # A health report may be a 503 too, and is not worth a wait.
        return {} if operation.address == "/health" else {"Retry-After": _RETRY_AFTER}
    if 304 in operation.answers and status in (200, 206):
        return {"ETag": _ETAG}
    if operation.address in _ABOUT_A_BUILD and status in (200, 202, 500):
        return {"X-Imagebuilder-Status": _STEP, "X-Queue-Position": _POSITION, "Server-Timing": _TIMING}
    return {}


_CONVERTER = r":\w+}"
_PLACEHOLDER = r"{(\w+)}"
_SOURCE = r"\s*\(facts on [^)]*\)"
_PREFLIGHT = {
    "summary": "What a browser asks before it asks from another origin.",
    "responses": {"204": {"description": "The methods and headers that are allowed"}},
}


class Operation(msgspec.Struct, frozen=True):
    """What one address does, for people and for the schema.

    `answers` maps a status to a sentence and the type of the document; None for no JSON. `query`
    holds names in `QUERY`. `events` says that the answer is a stream of events.
    """

    path: str
    methods: tuple[str, ...]
    summary: str
    answers: Mapping[int, tuple[str, Any]]
    body: Any = None
    query: tuple[str, ...] = ()
    content_type: str = "application/json"
    events: Any = None
    subject: str = ""
    """What it is about, for a table of contents; operations of one class share it."""

    @property
    def address(self) -> str:
        """The path as OpenAPI writes it: a placeholder's name alone."""
        return re.sub(_CONVERTER, "}", self.path)


Handler = TypeVar("Handler", bound=Callable[..., Any])


def operation(
    *paths: str, answers: Mapping[int, tuple[str, Any]], method: str = "GET", **more: Any
) -> Callable[[Handler], Handler]:
    """Declares what a method of a class answers at these paths; `more` are fields of `Operation`.

    The summary is the first paragraph of the method's docstring. What answers GET answers HEAD too.
    """
    methods = ("GET", "HEAD") if method == "GET" else (method,)

    def declare(handler: Handler) -> Handler:
        summary = inspect.cleandoc(handler.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        handler.__dict__["operations"] = [
            Operation(path, methods, summary, answers, **more) for path in paths
        ]
        return handler

    return declare


def conditional_operation(
    *paths: str, answers: Mapping[int, tuple[str, Any]], **more: Any
) -> Callable[[Handler], Handler]:
    """The same for a GET whose answer has an ETag, and is 304 when If-None-Match names it."""
    return operation(*paths, answers={**answers, 304: ("The client has it already", None)}, **more)


def declared(subject: object) -> Iterator[tuple[Operation, Callable[["Request"], Any]]]:
    """The operations of a class or of its instance, with their handlers, in the order of the source."""
    kind = subject if isinstance(subject, type) else type(subject)
    for name, member in vars(kind).items():
        for found in getattr(member, "operations", ()):
            yield found, getattr(subject, name)


def describe(
    operations: Iterable[Operation],
    *,
    version: str,
    title: str = "ASU Builder",
    text: str = "Attended sysupgrade: OpenWrt images with exactly the packages a router needs.",
    preflight: bool = True,
) -> dict[str, Any]:
    """The whole OpenAPI 3.1 document; `preflight` for a service that other origins may ask."""
    operations = tuple(operations)
    kinds: list[Any] = []
    for each in operations:
        kinds += [kind for _, kind in each.answers.values()] + [each.events, each.body]
    types = tuple(dict.fromkeys(kind for kind in kinds if kind is not None))
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, schemas, strict=True))
    tidied = {name: _tidied(schema) for name, schema in components.items()}
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        entry = paths.setdefault(each.address, {})
        if parameters := [PATH[name] for name in re.findall(_PLACEHOLDER, each.address)]:
            entry["parameters"] = parameters
        for method in each.methods:
            entry[method.lower()] = _described(each, method, schema_of, tidied)
        if preflight:
            entry["options"] = {**_PREFLIGHT, "operationId": f"options {each.address}"}
    subjects = dict.fromkeys(each.subject for each in operations if each.subject)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": text},
        **({"tags": [{"name": subject} for subject in subjects]} if subjects else {}),
        "paths": paths,
        "components": {"schemas": tidied},
    }


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    """A value that a schema allows, made of the examples of its fields; `schemas` are those it refers to."""
    if examples := schema.get("examples"):
        return examples[0]
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    for name in ("enum", "anyOf", "oneOf"):
        if choices := schema.get(name):
            return choices[0] if name == "enum" else example_of(choices[0], schemas)
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return {name: example_of(field, schemas) for name, field in schema.get("properties", {}).items()}
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items") or {}]
        return [example_of(item, schemas) for item in items] if items != [{}] else []
    simple: dict[Any, Any] = {"integer": 0, "number": 0.0, "boolean": False, "null": None, "string": ""}
    return A_TIME if schema.get("format") == "date-time" else simple.get(kind)


def command_of(each: Operation, method: str, body: Any = None) -> str:
    """A line for a shell that tries an operation, with the examples of its parameters."""
    address = re.sub(_PLACEHOLDER, lambda found: str(PATH[found[1]]["schema"]["examples"][0]), each.address)
    needed = [QUERY[name] for name in each.query if QUERY[name]["required"]]
    if needed:
        address += "?" + "&".join(f"{entry['name']}={entry['schema']['examples'][0]}" for entry in needed)
    parts = ["curl"]
    if method == "HEAD":
        parts.append("--head")
    elif method != "GET":
        parts += ["--request", method]
    if body is not None:
        parts += ["--json", shlex.quote(json.dumps(body))]
    return " ".join([*parts, shlex.quote(f"$SERVER{address}").replace("'", '"')])


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
    return {**schema, **described, "description": re.sub(_SOURCE, "", text)}


def _described(
    each: Operation, method: str, schema_of: Mapping[Any, Any], schemas: Mapping[str, Any]
) -> dict[str, Any]:
    answers: dict[str, dict[str, Any]] = {}
    for status, (sentence, kind) in each.answers.items():
        answer: dict[str, Any] = {"description": sentence}
        answers[str(status)] = answer
        if headers := headers_of(each, status):
            answer["headers"] = headers
        if method == "HEAD":
            continue
        if kind is not None:
            example = example_of(schema_of[kind], schemas)
            answer["content"] = {"application/json": {"schema": schema_of[kind], "example": example}}
        elif status in (200, 206):
            # OpenAPI 3.1 has no word for a stream, so its messages are the schema of its text.
            text = {"type": "string", "contentMediaType": "application/json"}
            schema = {**text, "contentSchema": schema_of[each.events]} if each.events else None
            answer["content"] = {each.content_type: {"schema": schema} if schema else {}}
    described: dict[str, Any] = {
        "summary": each.summary,
        "operationId": f"{method.lower()} {each.address}",
        "responses": answers,
    }
    if each.subject:
        described["tags"] = [each.subject]
    parameters = [QUERY[name] for name in each.query]
    if 304 in each.answers:
        parameters.append(_IF_NONE_MATCH)
    if parameters:
        described["parameters"] = parameters
    example = None
    if each.body:
        example = example_of(schema_of[each.body], schemas)
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[each.body], "example": example}},
        }
    described["x-codeSamples"] = [{"lang": "Shell", "source": command_of(each, method, example)}]
    return described


def number(request: "Request", name: str, *, otherwise: int, highest: int, lowest: int = 1) -> int:
    """A number between `lowest` and `highest`, whichever is nearer when it is outside.

    Raises `RequestRejected` for what is no number.
    """
    text = request.query_params.get(name, "")
    if not text:
        return otherwise
    if not (text.isascii() and text.isdigit()):
        raise RequestRejected(f"{name}: expected a number from {lowest} to {highest}")
    return max(lowest, min(int(text[:20]), highest))


def one_of(request: "Request", name: str, choices: Sequence[int], *, otherwise: int) -> int:
    """One of some numbers. Raises `RequestRejected` for any other."""
    text = request.query_params.get(name, "") or str(otherwise)
    if text not in map(str, choices):
        raise RequestRejected(f"{name}: expected one of {', '.join(map(str, choices))}")
    return int(text)
