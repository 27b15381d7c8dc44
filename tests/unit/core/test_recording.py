import logging
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from asu_builder.core.live import BuildLogWriter, Recorder
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.job import Job, JobState, Lease, PrintedLine, Stage
from asu_builder.domain.request import request_hash
from factories import NOON, a_request, eventually, sooner_than
from fake_log import FakeBuildLog

LEASE = Lease(1, "host/1", 1)
JOB = Job(1, request_hash(a_request()), a_request(), JobState.BUILDING, NOON)


class Studio:
    """A recorder, what it keeps, and whom it told."""

    def __init__(self) -> None:
        self.log = FakeBuildLog()
        self.rung: list[str] = []
        self.recorder = Recorder(self.log, now=lambda: NOON, notify=self.rung.append)

    def begin(self) -> BuildLogWriter:
        return self.recorder.begin(JOB, LEASE)

    def texts(self) -> list[str]:
        return [line.text for line in self.log.read(1)]


@pytest.fixture
def studio() -> Iterator[Studio]:
    made = Studio()
    yield made
    made.recorder.stop()


def test_lines_are_kept_soon_with_their_stage_and_whoever_watches_is_told(studio: Studio) -> None:
    recording = studio.begin()
    recording.on_output(1, b"early\n")
    recording.stage = Stage.BUILDING_IMAGE
    recording.on_output(2, b"late\n")
    assert eventually(lambda: len(studio.texts()) == 2)
    assert [(line.stage, line.text) for line in studio.log.read(1)] == [
        (Stage.INIT, "early"),
        (Stage.BUILDING_IMAGE, "late"),
    ]
    # Its beginning, its lines.
    assert eventually(lambda: studio.rung == [JOB.request_hash] * 2)
    studio.recorder.end(recording)


def test_the_end_of_a_build_has_its_last_line_and_waits_for_no_pause(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asu_builder.core.live.FLUSH_SECONDS", 600)
    monkeypatch.setattr("asu_builder.core.live._END_SECONDS", 60)
    for number in range(5):
        recording = studio.begin()
        recording.on_output(1, f"{number}\nwithout an end".encode())
        with sooner_than(60):
            studio.recorder.end(recording)
        assert studio.texts()[-2:] == [str(number), "without an end"]


def test_what_many_builds_print_is_written_together(studio: Studio) -> None:
    calls = 0
    append = studio.log.append

    def counted(lease: Lease, lines: Sequence[PrintedLine]) -> bool:
        nonlocal calls
        calls += 1
        return append(lease, lines)

    studio.log.append = counted  # type: ignore[method-assign]
    recording = studio.begin()
    for number in range(2000):
        recording.on_output(1, b"%d\n" % number)
    studio.recorder.end(recording)
    assert studio.texts() == [str(number) for number in range(2000)]
    assert calls <= 3


def test_a_log_that_is_full_is_not_collected_for(studio: Studio) -> None:
    studio.log.append = lambda lease, lines: False  # type: ignore[method-assign]
    recording = studio.begin()
    recording.on_output(1, b"x\n")
    assert eventually(lambda: recording.closed)
    recording.on_output(1, b"y\n")
    assert recording.pieces == []
    studio.recorder.end(recording)


def test_lines_that_cannot_be_written_are_dropped_with_one_warning(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    append, works = studio.log.append, threading.Event()

    def fail(lease: Lease, lines: Sequence[PrintedLine]) -> bool:
        if works.is_set():
            return append(lease, lines)
        raise Unavailable("The disk is full.")

    studio.log.append = fail  # type: ignore[method-assign]
    recording = studio.begin()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            recording.on_output(1, b"%d\n" % number)
            assert eventually(lambda: not recording.pieces)
            time.sleep(0.05)
        works.set()
        recording.on_output(1, b"at last\n")
        studio.recorder.end(recording)
    assert studio.texts() == ["at last"]
    assert [record.getMessage() for record in caplog.records] == [
        "Output of builds is not kept for now: The disk is full."
    ]


def test_a_writer_that_hangs_neither_slows_a_build_nor_fills_the_memory(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asu_builder.core.live._END_SECONDS", 0.2)
    gate = threading.Event()
    studio.log.append = lambda lease, lines: gate.wait(60)  # type: ignore[method-assign]
    recording = studio.begin()
    recording.on_output(1, b"x\n")
    assert eventually(lambda: not recording.pieces)
    for _ in range(1000):
        recording.on_output(1, b"y" * 65536)
    assert sum(len(chunk) for *_, chunk in recording.pieces) < 3 << 20
    studio.recorder.end(recording)
    assert not gate.is_set(), "the writer still hangs, and nothing has waited for it"
    gate.set()


def test_a_bug_in_keeping_lines_costs_lines_and_no_build(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(lease: Lease, lines: Sequence[PrintedLine]) -> bool:
        raise ZeroDivisionError

    studio.log.append, append = bug, studio.log.append  # type: ignore[method-assign]
    broken = studio.begin()
    broken.on_output(1, b"x\n")
    studio.recorder.end(broken)
    assert "keeping a build's output failed" in caplog.text
    studio.log.append = append  # type: ignore[method-assign]
    recording = studio.begin()
    recording.on_output(1, b"fine\n")
    studio.recorder.end(recording)
    assert studio.texts() == ["fine"]


def test_a_stop_writes_what_was_heard(studio: Studio) -> None:
    recording = studio.begin()
    recording.on_output(1, b"x\n")
    studio.recorder.stop()
    assert studio.texts() == ["x"]


def test_what_is_printed_while_the_last_round_is_written_is_kept_at_the_stop(studio: Studio) -> None:
    """A stop ends the thread behind its current round, and lines come in the middle of one."""
    recording = studio.begin()
    writing, go_on = threading.Event(), threading.Event()
    append = studio.log.append

    def slowly(lease: Lease, lines: Sequence[PrintedLine]) -> bool:
        writing.set()
        assert go_on.wait(60)
        return append(lease, lines)

    studio.log.append = slowly  # type: ignore[method-assign]
    recording.on_output(1, b"first\n")
    assert writing.wait(60)
    recording.on_output(1, b"last\n")
    stopping = threading.Thread(target=studio.recorder.stop)
    stopping.start()
    assert eventually(lambda: studio.recorder._stopping)
    go_on.set()
    stopping.join(60)
    assert studio.texts() == ["first", "last"]
