"""The route table: every address, its methods, and what it may answer."""

from collections.abc import Mapping

from asu_builder.http.api.body import BuildRequestBody
from asu_builder.http.api.changes import PreviewDocument
from asu_builder.http.api.documents import Accepted, Done, Failed, HealthDocument, Problem, QueueLength
from asu_builder.http.api.messages import LIVE
from asu_builder.http.api.metadata import BranchDocument, Latest, Overview, Revision, TargetIndex
from asu_builder.http.api.operator import OPERATOR, UNKNOWN_JOB
from asu_builder.http.api.search import SEARCH
from asu_builder.http.api.statistics import STATISTICS
from asu_builder.http.openapi import Operation

_BUILD_ANSWERS = {
    200: ("The images are there", Done),
    202: ("The job waits or is being built; ask again in some seconds", Accepted),
    500: ("The build failed, for good", Failed),
    503: ("A part of the service does not answer; Retry-After says when to try again", Problem),
}

_READ = ("GET", "HEAD")

_LATER = {503: ("Upstream was never asked for this and is slow; Retry-After says when to ask again", Problem)}
_UNKNOWN = {404: ("There is no such version, target or architecture", Problem), **_LATER}


def _documents(
    paths: tuple[str, ...], summary: str, answers: Mapping[int, tuple[str, object]]
) -> tuple[Operation, ...]:
    return tuple(Operation(path, _READ, summary, answers) for path in paths)


_METADATA = (
    *_documents(
        ("/json/v1/overview.json", "/api/v1/overview", "/api/overview", "/overview"),
        "Everything a client needs to choose a version: branches, versions, targets, limits.",
        {200: ("The overview", Overview), **_LATER},
    ),
    *_documents(
        ("/json/v1/latest.json", "/api/v1/latest"),
        "The upcoming release if there is any, the stable and the old stable one.",
        {200: ("The latest releases", Latest), **_LATER},
    ),
    Operation(
        "/json/v1/branches.json",
        _READ,
        "The branches as a list.",
        {200: ("The branches, newest first", list[BranchDocument]), **_LATER},
    ),
    Operation(
        "/json/v1/{path:path}/packages/{architecture}-index.json",
        _READ,
        "Package names and versions of an architecture, merged over its feeds.",
        {200: ("Name to version", dict[str, str]), **_UNKNOWN},
    ),
    Operation(
        "/json/v1/{path:path}/targets/{target}/{subtarget}/index.json",
        _READ,
        "Package names and versions of a target, its kernel modules among them.",
        {200: ("The index", TargetIndex), **_UNKNOWN},
    ),
    Operation(
        "/json/v1/{path:path}/targets/{target}/{subtarget}/{profile}.json",
        _READ,
        "Upstream's description of one profile, by its name or an alias; {} when there is none.",
        {200: ("profiles.json with the profile's keys lifted to the top", dict), **_UNKNOWN},
    ),
    Operation(
        "/api/v1/revision/{version}/{target}/{subtarget}",
        _READ,
        "Upstream's current revision of a target.",
        {
            200: ("The revision", Revision),
            400: ("There is no such version", Problem),
            404: ("The version has no such target", Problem),
            **_LATER,
        },
    ),
)

OPERATIONS = (
    Operation(
        "/api/v1/build",
        ("POST",),
        "Ask for images. The same request has the same answer, and is built once for all who ask.",
        {
            **_BUILD_ANSWERS,
            400: ("The request cannot be served here", Problem),
            408: ("The body did not arrive in time", Problem),
            413: ("The body is too large", Problem),
            422: ("The body is no build request; detail names the field", Problem),
            401: ("An unknown token was sent", Problem),
            429: ("The queue is full, or this address asks too often; Retry-After says when", Problem),
        },
        body=BuildRequestBody,
    ),
    Operation(
        "/api/v1/build/{request_hash}",
        _READ,
        "How far a build is. The headers X-Imagebuilder-Status and X-Queue-Position say it in short.",
        {**_BUILD_ANSWERS, 404: ("Nobody knows this request, or it has expired", Problem)},
    ),
    Operation(
        "/api/v1/build/{request_hash}",
        ("DELETE",),
        "Cancel a build that waits or runs. Needs an operator's token, or in the header X-Cancel-Token the "
        "secret that the request which started it was answered with.",
        {
            200: ("It is cancelled; the document is that of a cancelled build", Failed),
            403: ("Neither an operator's token nor the right secret was sent", Problem),
            **UNKNOWN_JOB,
            409: ("It has ended before, or others wait for it too", Problem),
        },
    ),
    *LIVE,
    *OPERATOR,
    Operation(
        "/api/v1/packages/preview",
        ("POST",),
        "What the package rules would do to a build request, and which names nobody knows. Queues nothing.",
        {
            200: ("What make would be told", PreviewDocument),
            400: ("The request cannot be served here", Problem),
            401: ("An unknown token was sent", Problem),
            413: ("The body is too large", Problem),
            422: ("The body is no build request; detail names the field", Problem),
            429: ("This address asks too often; Retry-After says when to try again", Problem),
            **_LATER,
        },
        body=BuildRequestBody,
    ),
    Operation(
        "/api/v1/stats",
        _READ,
        "How many jobs wait.",
        {200: ("The length of the queue", QueueLength), 503: ("The database does not answer", Problem)},
    ),
    Operation(
        "/health",
        _READ,
        "How the service is, part by part.",
        {
            200: ("Polls are answered", HealthDocument),
            503: ("Polls cannot be answered, or with for=build no build could run", HealthDocument),
        },
        query=("for",),
    ),
    Operation(
        "/metrics",
        _READ,
        "The service in numbers, for Prometheus.",
        {200: ("Prometheus' text format", None)},
        content_type="text/plain",
    ),
    Operation(
        "/store/{request_hash}/{name}",
        _READ,
        "Download an image, whole or in part.",
        {
            200: ("The file", None),
            206: ("The part that Range asks for", None),
            304: ("The file is the one that If-None-Match names", None),
            404: ("There is no such file", Problem),
            416: ("The file is shorter than that", Problem),
        },
        content_type="application/octet-stream",
    ),
    *_METADATA,
    *SEARCH,
    *STATISTICS,
    Operation("/openapi.json", _READ, "This description.", {200: ("OpenAPI 3.1", None)}),
)
