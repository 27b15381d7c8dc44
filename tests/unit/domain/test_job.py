from datetime import timedelta

import pytest

from asu_builder.domain.errors import FailureReason, Fault
from asu_builder.domain.job import FINAL_STATES, NEXT_STATES, JobState, Retention, RetentionPolicy
from asu_builder.domain.profiles_json import signature_length
from factories import a_failure, a_request, a_result

RETENTION = RetentionPolicy(timedelta(days=7), timedelta(days=1), timedelta(minutes=30), timedelta(hours=1))


def test_every_state_has_its_steps_and_three_are_final() -> None:
    assert set(NEXT_STATES) == set(JobState)
    assert {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED} == FINAL_STATES


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Retention(timedelta(days=1), timedelta(days=1))),
        ({"packages_versions": {"vim": "1"}}, Retention(timedelta(days=7))),
        ({"packages_versions": {"vim": "1"}, "defaults": "wifi password"}, Retention(timedelta(minutes=30))),
        ({"defaults": "wifi password"}, Retention(timedelta(minutes=30), timedelta(days=1))),
    ],
)
def test_images_with_a_private_script_are_kept_shortest(
    changes: dict[str, object], expected: Retention
) -> None:
    assert RETENTION.retention(a_request(**changes), a_result()) == expected


def test_failures_are_kept_for_their_own_time() -> None:
    assert RETENTION.retention(a_request(defaults="x"), a_failure()) == Retention(
        timedelta(hours=1), timedelta(hours=1)
    )


def test_every_reason_has_a_side_and_only_the_worlds_are_tried_again() -> None:
    for reason in FailureReason:
        assert reason.fault in Fault
        assert not reason.retried or reason.fault is Fault.WORLD


def test_a_signature_is_the_last_chunk_and_nothing_implausible() -> None:
    def trailer(kind: int, size: int, magic: bytes = b"FWx0") -> bytes:
        return magic + b"\0\0\0\0" + bytes([kind, 0, 0, 0]) + size.to_bytes(4, "big")

    assert signature_length(trailer(0, 176), 1000) == 176
    assert signature_length(trailer(1, 176), 1000) == 0
    assert signature_length(trailer(0, 176, b"XXXX"), 1000) == 0
    assert signature_length(trailer(0, 176), 100) == 0
    assert signature_length(trailer(0, 5), 1000) == 0
    assert signature_length(trailer(0, 5000), 100_000) == 0
    assert signature_length(b"short", 5) == 0
