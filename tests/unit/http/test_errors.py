"""The one table from errors to responses."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import asu_builder
from asu_builder.domain import errors
from asu_builder.domain.errors import (
    AsuError,
    BuildFailed,
    Conflict,
    NotAllowed,
    NotAuthenticated,
    QueueFull,
    TooManyRequests,
    Unavailable,
)
from asu_builder.engines.podman.images import missing, pull_failed
from asu_builder.http.errors import ERRORS, INTERNAL, answer_error

INNER = {
    errors.AsuError,
    errors.BuildFailed,
    errors.BuildInterrupted,
    errors.LeaseLost,
    errors.ArchiveRefused,
    errors.ServerMistake,
    errors.StillRead,
}
"""What never comes as far as a client; if it does, that is a bug and said to be one."""
EVERY_CLASS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AsuError)
]


def test_every_error_class_has_its_status() -> None:
    assert {error.__name__: status for error, (status, _, _) in ERRORS.items()} == {
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
    assert (kind in INNER) != any(base in ERRORS for base in kind.__mro__)


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (NotAuthenticated("Who are you?"), 401, {b"www-authenticate": b"Bearer"}),
        (NotAllowed("Not you."), 403, {}),
        (Conflict("Others wait for it."), 409, {}),
        (TooManyRequests("Slowly.", retry_after=37), 429, {b"retry-after": b"37"}),
        (QueueFull(200, 30), 429, {b"retry-after": b"30"}),
        (Unavailable("No disk.", retry_after=7, plain=True), 503, {b"retry-after": b"7"}),
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


_SOURCE = Path(asu_builder.__file__).parent
_OPERATORS_OWN = re.compile(
    r"/(?!builder)|://|podman|docker|socket|systemctl|\b[a-z0-9-]+\.(?:org|com|io|internal|local)\b"
    r"|operator (?:has|should|must|to)\b|unpack|Traceback|Exception",
    re.IGNORECASE,
)
"""Addresses, paths, programs beside this one, and what only an operator can do."""
_SECRET = "unix:///run/podman.sock: HTTPConnectionPool(host='registry.internal', port=5000)"


def sentences(keep: Callable[[ast.Call], bool]) -> dict[str, str]:
    """The fixed parts of the texts in each call that is kept, by file and line."""
    found = {}
    for path in sorted(_SOURCE.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and keep(call):
                texts = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
                text = " ".join(text for text in texts if isinstance(text, str))
                found[f"{path.relative_to(_SOURCE)}:{call.lineno}"] = text
    return found


def named(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


@pytest.mark.parametrize("kind", [kind for kind in EVERY_CLASS if issubclass(kind, Unavailable)])
def test_everybody_reads_a_sentence_that_names_nothing_of_the_operators(kind: type[Unavailable]) -> None:
    told = json.loads(answer_error(kind(_SECRET)).body)["detail"]
    assert told == kind.public_sentence and told.endswith(".")
    assert not _OPERATORS_OWN.search(told)
    assert json.loads(answer_error(kind(_SECRET), details=True).body)["detail"] == _SECRET


def test_plain_sentences_are_for_everybody() -> None:
    plain = sentences(lambda call: any(keyword.arg == "plain" for keyword in call.keywords))
    assert len(plain) >= 3
    assert {place: text for place, text in plain.items() if _OPERATORS_OWN.search(text)} == {}


def test_stored_failures_are_for_everybody() -> None:
    stored = sentences(lambda call: named(call) in ("BuildFailed", "BuildFailure"))
    assert len(stored) >= 25
    assert {place: text for place, text in stored.items() if _OPERATORS_OWN.search(text)} == {}


@pytest.mark.parametrize(
    "reference",
    ["registry.internal:5000/openwrt/imagebuilder:x86-64-v25.12.0", "10.0.0.7/imagebuilder:x86-64-v25.12.0"],
)
def test_a_missing_imagebuilder_is_named_without_the_registry(
    reference: str, caplog: pytest.LogCaptureFixture
) -> None:
    detail = missing(reference).detail
    assert detail.startswith("Error: Image not found: imagebuilder:x86-64-v25.12.0. ")
    assert not _OPERATORS_OWN.search(detail)
    assert reference in caplog.text, "the operator reads all of it"
    for error in ("manifest unknown", "no space left on device", f"pinging {reference}: refused"):
        failed = pull_failed(reference, error)
        told = failed.detail if isinstance(failed, BuildFailed) else failed.public
        assert not _OPERATORS_OWN.search(told)
