import pytest

from asu_builder.cli.exit_codes import MEANINGS, ExitCode, code_of_build, code_of_error
from asu_builder.domain import errors
from asu_builder.domain.errors import AsuError, FailureReason

INNER = {AsuError, errors.LeaseLost, errors.BuildInterrupted, errors.ArchiveRefused}
"""What never comes as far as a terminal; if it does, that is our mistake."""
CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AsuError)]


def test_each_code_has_a_meaning() -> None:
    assert list(MEANINGS) == list(ExitCode)


@pytest.mark.parametrize("kind", CLASSES)
def test_each_error_is_somebodys(kind: type[AsuError]) -> None:
    error = kind.__new__(kind)
    ours = kind in INNER or kind is errors.ServerMistake
    assert (code_of_error(error) is ExitCode.MISTAKE) == ours


@pytest.mark.parametrize("reason", list(FailureReason))
def test_a_failed_build_ends_with_the_code_of_whose_side_it_is_on(reason: FailureReason) -> None:
    expected = {"user": ExitCode.BUILD_FAILED, "world": ExitCode.UNAVAILABLE, "ours": ExitCode.MISTAKE}
    assert code_of_build(500, {"fault": reason.fault, "reason": reason}) is expected[reason.fault]


@pytest.mark.parametrize(
    ("status", "document", "expected"),
    [
        (200, {}, ExitCode.DONE),
        (500, {"reason": "cancelled", "fault": "user"}, ExitCode.CANCELLED),
        (500, {"detail": "an old server's words"}, ExitCode.BUILD_FAILED),
        (500, {"fault": "a later server's word"}, ExitCode.MISTAKE),
    ],
)
def test_the_end_of_a_build_has_its_code(status: int, document: dict[str, str], expected: ExitCode) -> None:
    assert code_of_build(status, document) is expected
