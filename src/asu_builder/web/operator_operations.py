"""The operator's part of the route table."""

from asu_builder.web.documents import Problem
from asu_builder.web.openapi import Operation
from asu_builder.web.operator_documents import (
    ActList,
    ConfigurationDocument,
    DoneDocument,
    JobList,
    WorkersDocument,
)

READ = ("GET", "HEAD")

_REFUSED = {
    401: ("No known token was sent", Problem),
    403: ("The token lacks the right", Problem),
}
UNKNOWN_JOB = {
    401: ("An unknown token was sent", Problem),
    404: ("Nobody knows this request, or it has expired", Problem),
}

OPERATOR = (
    Operation(
        "/api/v1/jobs",
        READ,
        "Every job, newest first. Needs a token with the right read.",
        {200: ("The jobs", JobList), 400: ("A filter makes no sense", Problem), **_REFUSED},
        query=("state", "version", "target", "profile", "asker", "request_hash", "before", "limit"),
    ),
    Operation(
        "/api/v1/jobs/{request_hash}/requeue",
        ("POST",),
        "Build once more what has ended, or give a running build back to the queue. Needs operate.",
        {
            200: ("It waits", DoneDocument),
            **_REFUSED,
            404: ("Nobody has asked for this", Problem),
            409: ("It waits already", Problem),
        },
    ),
    Operation(
        "/api/v1/results/{request_hash}",
        ("DELETE",),
        "Forget a result or a failure now, with its images. Needs operate.",
        {
            200: ("It is forgotten", DoneDocument),
            **_REFUSED,
            404: ("There is none", Problem),
            409: ("Somebody downloads from it: it answers no more, its images go later", Problem),
        },
    ),
    Operation(
        "/api/v1/workers",
        READ,
        "Whether the workers are paused. Needs read.",
        {200: ("How they are", WorkersDocument), **_REFUSED},
    ),
    *(
        Operation(
            f"/api/v1/workers/{act}",
            ("POST",),
            sentence,
            {200: ("How they are", WorkersDocument), **_REFUSED},
        )
        for act, sentence in (
            ("pause", "Let no worker of any process claim a job; what is built goes on. Needs operate."),
            ("resume", "Let workers claim jobs again. Needs operate."),
        )
    ),
    Operation(
        "/api/v1/acts",
        READ,
        "What operators did, newest first. Needs read.",
        {200: ("The acts", ActList), 400: ("limit is no number", Problem), **_REFUSED},
        query=("limit",),
    ),
    Operation(
        "/api/v1/configuration",
        READ,
        "The settings in effect and where each was chosen, without secrets. Needs read.",
        {200: ("The settings", ConfigurationDocument), **_REFUSED},
    ),
)
