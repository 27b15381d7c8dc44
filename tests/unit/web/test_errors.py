"""The one table from what went wrong to what a client is told."""

import json

import pytest

from asu_builder.domain import errors
from asu_builder.domain.errors import (
    AsuError,
    Conflict,
    NotAllowed,
    NotAuthenticated,
    QueueFull,
    TooManyRequests,
    Unavailable,
)
from asu_builder.web.errors import INTERNAL, STATUS, answer_error

INNER = {
    errors.AsuError,
    errors.BuildFailed,
    errors.BuildInterrupted,
    errors.LeaseLost,
    errors.ServerMistake,
    errors.StillRead,
}
"""What never comes as far as a client; if it does, that is a bug and said to be one."""
EVERY_CLASS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AsuError)
]


def test_every_error_class_has_its_status() -> None:
    assert {error.__name__: status for error, (status, _) in STATUS.items()} == {
        "RequestMalformed": 422,
        "RequestRejected": 400,
        "NotAuthenticated": 401,
        "NotAllowed": 403,
        "BuildNotFound": 404,
        "Conflict": 409,
        "QueueFull": 429,
        "TooManyRequests": 429,
        "Unavailable": 503,
    }


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_an_error_is_either_told_or_known_to_stay_inside(kind: type[AsuError]) -> None:
    assert (kind in INNER) != any(base in STATUS for base in kind.__mro__)


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (NotAuthenticated("Who are you?"), 401, {b"www-authenticate": b"Bearer"}),
        (NotAllowed("Not you."), 403, {}),
        (Conflict("Others wait for it."), 409, {}),
        (TooManyRequests("Slowly.", retry_after=37), 429, {b"retry-after": b"37"}),
        (QueueFull(200, 30), 429, {b"retry-after": b"30"}),
        (Unavailable("No disk.", retry_after=7), 503, {b"retry-after": b"7"}),
    ],
)
def test_the_answer_says_the_status_the_sentence_and_what_to_do(
    error: AsuError, status: int, headers: dict[bytes, bytes]
) -> None:
    answer = answer_error(error)
    document = json.loads(answer.body)
    assert (answer.status, document["status"], document["detail"]) == (status, status, str(error))
    assert isinstance(document["title"], str)
    assert dict(answer.headers) == headers


def test_an_error_that_should_have_stayed_inside_says_nothing_of_itself() -> None:
    assert answer_error(errors.LeaseLost("secret")) is INTERNAL
