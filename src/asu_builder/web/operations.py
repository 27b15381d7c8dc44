"""The route table: every address, its methods, and what it may answer."""

from asu_builder.web.documents import Accepted, Done, Failed, HealthDocument, Problem, QueueLength
from asu_builder.web.incoming import BuildRequestBody
from asu_builder.web.openapi import Operation

_BUILD_ANSWERS = {
    200: ("The images are there", Done),
    202: ("The job waits or is being built; ask again in some seconds", Accepted),
    500: ("The build failed, for good", Failed),
    503: ("A part of the service does not answer; Retry-After says when to try again", Problem),
}

_READ = ("GET", "HEAD")
_PAGE = {200: ("A page", None)}

OPERATIONS = (
    Operation(
        "/api/v1/build",
        ("POST",),
        "Ask for images. The same request has the same answer, and is built once for all who ask.",
        {
            **_BUILD_ANSWERS,
            400: ("The request cannot be served here", Problem),
            413: ("The body is too large", Problem),
            422: ("The body is no build request; detail names the field", Problem),
            429: ("The queue is full; Retry-After says when to try again", Problem),
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
        query={"for": "build: answer 503 when no build could run now"},
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
    Operation("/openapi.json", _READ, "This description.", {200: ("OpenAPI 3.1", None)}),
    Operation("/docs", _READ, "The interface, for people.", _PAGE, content_type="text/html"),
    Operation("/", _READ, "What this is.", _PAGE, content_type="text/html"),
)
