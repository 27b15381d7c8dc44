import pytest

from asu_builder.domain.errors import BuildNotFound, RequestRejected
from asu_builder.domain.request import whole_hash

ONE, OTHER, THIRD = ("abcd" + digit * 60 for digit in "012")


def begin_so(prefix: str) -> list[str]:
    """Three hashes, one of them with two jobs."""
    return [known for known in (ONE, ONE, OTHER, THIRD) if known.startswith(prefix)]


@pytest.mark.parametrize(
    "given", [ONE, "abcd0", "abcd00000000", "ABCD0", "abcd00000000…", "abcd0...", " abcd0\n"]
)
def test_a_hash_may_be_shortened_as_far_as_it_stays_the_only_one(given: str) -> None:
    assert whole_hash(given, begin_so) == ONE


def test_all_digits_are_taken_without_a_look() -> None:
    assert whole_hash("f" * 64, lambda prefix: pytest.fail("nobody need be asked")) == "f" * 64


def test_what_fits_several_names_them() -> None:
    with pytest.raises(
        RequestRejected, match=f"^3 hashes begin with abcd: {ONE}, {OTHER}, {THIRD}. Give more"
    ):
        whole_hash("abcd", begin_so)


@pytest.mark.parametrize("given", ["", "abc", "xyz1", "abcd/../e", "f" * 65, "--force"])
def test_what_is_no_beginning_of_a_hash_is_refused(given: str) -> None:
    with pytest.raises(RequestRejected, match="expected 4 to 64 hexadecimal digits"):
        whole_hash(given, begin_so)


def test_what_no_job_begins_with_is_not_found() -> None:
    with pytest.raises(BuildNotFound, match="begins with ffff"):
        whole_hash("ffff", begin_so)
