"""What every adapter of `ports.PreflightRecords` must do."""

import random
import sqlite3
from collections.abc import Iterator
from datetime import timedelta

import pytest

from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.preflight import SqlPreflightRecords
from asu_builder.domain.package_index import PackageManager
from asu_builder.domain.preflight import CarriedPackages, PreflightMode, TargetRecord
from asu_builder.ports import PreflightRecords
from database_clock import at_time
from factories import NOON, Clock
from postgresql import on_sqlite, opened

RELEASE, TARGET = "releases/25.12.0", "pico/nine"
SECOND = timedelta(seconds=1)


def a_carried(identity: str = "sha256:1", **changes: object) -> CarriedPackages:
    values: dict[str, object] = {
        "identity": identity,
        "revision": "r1-a",
        "manager": PackageManager.APK,
        "index": b"ADBd\x00\xff of " + identity.encode(),
        "repositories": ("https://downloads.example.org/releases/25.12.0/packages.adb",),
        "pins": {"libc": "1.2.5-r5"},
    }
    return CarriedPackages(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    """Seconds pass when a test says so."""
    return Clock()


@pytest.fixture
def records(database: SqlDatabase, clock: Clock) -> PreflightRecords:
    """The one adapter of the port, as one process has it."""
    return SqlPreflightRecords(database, clock=lambda: clock().timestamp())


@pytest.fixture
def others(place: str, database: SqlDatabase, clock: Clock) -> Iterator[PreflightRecords]:
    """The same as another process has it."""
    other = opened(place)
    yield SqlPreflightRecords(other, clock=lambda: clock().timestamp())
    other.close()


def test_what_was_learnt_is_known_and_survives_the_process(
    records: PreflightRecords, others: PreflightRecords
) -> None:
    assert records.carried(RELEASE, TARGET) is None
    opkg = a_carried("directory", manager=PackageManager.OPKG, repositories=(), pins={})
    records.learn(RELEASE, TARGET, a_carried())
    records.learn("snapshots", TARGET, opkg)
    for either in (records, others):
        assert either.carried(RELEASE, TARGET) == a_carried()
        assert either.carried("snapshots", TARGET) == opkg
        assert either.carried(RELEASE, "x86/64") is None


def test_what_is_learnt_anew_takes_the_place_of_the_old_at_once(records: PreflightRecords) -> None:
    for identity in ("sha256:1", "sha256:2", "sha256:1"):
        records.learn(RELEASE, TARGET, a_carried(identity))
        assert records.carried(RELEASE, TARGET) == a_carried(identity)


def test_another_process_knows_it_some_seconds_later(
    records: PreflightRecords, others: PreflightRecords, clock: Clock
) -> None:
    assert others.carried(RELEASE, TARGET) is None
    # The clock of the database stands still: the two are told apart all the same.
    for identity in ("sha256:1", "sha256:2"):
        records.learn(RELEASE, TARGET, a_carried(identity))
        clock.forward(6 * SECOND)
        assert others.carried(RELEASE, TARGET) == a_carried(identity)


@on_sqlite
def test_memory_answers_without_the_database(
    database: SqlDatabase, records: PreflightRecords, clock: Clock
) -> None:
    records.learn(RELEASE, TARGET, a_carried())
    assert records.carried(RELEASE, "x86/64") is None
    statements: list[str] = []
    with database.reading() as connection:  # the one that the next reader gets, too
        assert isinstance(connection, sqlite3.Connection)
        connection.set_trace_callback(statements.append)
    assert records.carried(RELEASE, TARGET) == a_carried()
    assert records.carried(RELEASE, "x86/64") is None
    assert statements == []
    clock.forward(6 * SECOND)
    assert records.carried(RELEASE, TARGET) == a_carried()
    assert not any("package_index" in statement for statement in statements)
    assert any("learnt_at" in statement for statement in statements)


def test_the_oldest_goes_when_it_is_too_much(database: SqlDatabase) -> None:
    few = SqlPreflightRecords(database, most_rows=3)
    for number in range(5):
        at_time(few, NOON + number * SECOND).learn(f"releases/{number}", TARGET, a_carried())
    fresh = SqlPreflightRecords(database)
    known = [number for number in range(5) if fresh.carried(f"releases/{number}", TARGET)]
    assert known == [2, 3, 4]
    # Random bytes do not shrink.
    large = a_carried(index=random.Random(1).randbytes(40_000))
    small = SqlPreflightRecords(database, most_bytes=100_000)
    for number in range(5, 8):
        at_time(small, NOON + number * SECOND).learn(f"releases/{number}", TARGET, large)
    fresh = SqlPreflightRecords(database)
    known = [number for number in range(8) if fresh.carried(f"releases/{number}", TARGET)]
    assert known == [6, 7]


PLACE = RELEASE, TARGET


def a_record(**changes: object) -> TargetRecord:
    values: dict[str, object] = {
        "release_path": RELEASE,
        "target": TARGET,
        "mode": PreflightMode.ENFORCE,
        "since": NOON,
    }
    return TargetRecord(**{**values, **changes})  # type: ignore[arg-type]


def test_a_disagreement_puts_its_target_alone_on_advise(records: PreflightRecords) -> None:
    assert records.targets() == {}
    at_time(records, NOON).note_sample(*PLACE)
    assert records.targets() == {PLACE: a_record(sampled=1)}
    hour = timedelta(hours=1)
    at_time(records, NOON + hour).note_sample(RELEASE, "x86/64")
    at_time(records, NOON + hour).note_sample(*PLACE, disagreement="the first")
    at_time(records, NOON + 2 * hour).note_sample(*PLACE, disagreement="the second")
    at_time(records, NOON + 3 * hour).note_sample(*PLACE)
    assert records.targets()[PLACE] == a_record(
        mode=PreflightMode.ADVISE,
        since=NOON + hour,
        sampled=4,
        disagreements=2,
        last_disagreement="the second",
    )
    assert records.targets()[RELEASE, "x86/64"].mode is PreflightMode.ENFORCE


def test_an_operator_takes_it_back_and_what_was_counted_stays(records: PreflightRecords) -> None:
    assert not records.enforce(*PLACE)
    at_time(records, NOON).note_sample(*PLACE, disagreement="wrong")
    later = NOON + timedelta(days=1)
    assert at_time(records, later).enforce(*PLACE)
    assert not records.enforce(*PLACE), "it was on enforce already"
    expected = a_record(since=later, sampled=1, disagreements=1, last_disagreement="wrong")
    assert records.targets() == {PLACE: expected}


def test_another_process_knows_the_modes_some_seconds_later(
    records: PreflightRecords, others: PreflightRecords, clock: Clock
) -> None:
    assert others.targets() == {}
    records.note_sample(*PLACE, disagreement="wrong")
    assert others.targets() == {}, "not each request reads the database"
    clock.forward(6 * SECOND)
    assert others.targets() == records.targets() != {}
    assert others.enforce(*PLACE)
    clock.forward(6 * SECOND)
    assert records.targets()[PLACE].mode is PreflightMode.ENFORCE
