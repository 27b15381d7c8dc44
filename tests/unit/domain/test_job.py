from asu_builder.domain.errors import FailureReason, Fault
from asu_builder.domain.job import FINAL_STATES, NEXT_STATES, JobState
from asu_builder.domain.profiles_json import signature_length


def test_every_state_has_its_steps_and_three_are_final() -> None:
    assert set(NEXT_STATES) == set(JobState)
    assert {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED} == FINAL_STATES


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
