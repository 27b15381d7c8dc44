"""PostgreSQL that is stopped, frozen, full or not ours: what is repeated, what is said, and who goes on."""

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest

from asu_builder.database import postgresql
from asu_builder.database.listening import Listener
from asu_builder.database.operator import SqlOperations
from asu_builder.database.postgresql import ServerDatabase
from asu_builder.database.postgresql_schema import MIGRATIONS, known_schema
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.database.statistics import SqlStatistics
from asu_builder.domain.errors import LeaseLost, Unavailable
from asu_builder.domain.job import JobState, Lease, Retention, Stage
from factories import NOON, a_request, a_result, a_submission, eventually
from postgresql import PostgresServer, empty_place, shared_server

T = TypeVar("T")
DAY = timedelta(days=1)
TESTS = Path(__file__).resolve().parents[1]
SECOND = timedelta(seconds=1)


@pytest.fixture
def place() -> str:
    """An empty database of the shared server."""
    return empty_place()


@pytest.fixture
def database(place: str) -> Iterator[ServerDatabase]:
    """It, by its own clock."""
    with closing(ServerDatabase(place)) as opened:
        yield opened


def end_sessions(place: str) -> int:
    """As a restart of the server does; how many."""
    schema = place.rpartition("%3D")[2]
    with psycopg.connect(shared_server().url(), autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND application_name = %s",
            (f"test {schema}",),
        ).fetchall()
    return len(ended)


def named(place: str) -> str:
    """The address with a name by which `end_sessions` finds its sessions."""
    return f"{place}&application_name=test%20{place.rpartition('%3D')[2]}"


def test_sessions_that_the_server_has_ended_cost_nothing(place: str) -> None:
    with closing(ServerDatabase(named(place))) as database:
        queue = SqlJobQueue(database)
        queue.submit(a_submission())
        assert end_sessions(place) >= 1
        assert queue.pending() == 1, "the first statement of a reader takes another connection"
        end_sessions(place)
        claimed = queue.claim("w/1", lease_for=DAY)
        assert claimed is not None, "and so does the first of a transaction"
        end_sessions(place)
        with database.reading(snapshot=True) as connection:
            assert connection.execute("SELECT count(*) FROM build_jobs").fetchone() == (1,)


class _LostCommit:
    """Ends the session of the next commit: after it has taken place, or before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: str, *, after: bool) -> None:
        self.left = 1
        execute = psycopg.Connection.execute

        def losing(connection: psycopg.Connection, query: object, *rest: object, **options: object) -> object:
            if query != "COMMIT" or not self.left:
                return execute(connection, query, *rest, **options)  # type: ignore[call-overload]
            self.left -= 1
            if after:
                execute(connection, query)
            end_sessions(place)
            return execute(connection, "SELECT 1")

        monkeypatch.setattr(psycopg.Connection, "execute", losing)


@pytest.mark.parametrize("after", [True, False])
def test_a_submission_and_an_end_survive_the_loss_of_their_commit(
    place: str, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    with closing(ServerDatabase(named(place))) as database:
        queue = SqlJobQueue(database)
        lost = _LostCommit(monkeypatch, place, after=after)
        entry = queue.submit(a_submission())
        job = entry.job
        assert lost.left == 0
        assert entry.created, "its caller gets the secret by which it may be cancelled"
        assert queue.pending() == 1
        assert not queue.submit(a_submission()).created
        claimed = queue.claim("w/1", lease_for=DAY)
        assert claimed is not None and claimed[0].id == job.id
        lost.left = 1
        queue.finish(claimed[1], a_result(), Retention(DAY))
        assert lost.left == 0
        found = queue.find(job.request_hash)
        assert found is not None and found.state is JobState.COMPLETED
        with pytest.raises(LeaseLost):
            queue.finish(claimed[1], a_result(), Retention(DAY))


def test_what_may_not_be_run_twice_is_unavailable_when_its_connection_is_lost(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(ServerDatabase(named(place))) as database:
        queue = SqlJobQueue(database)
        queue.submit(a_submission())
        _LostCommit(monkeypatch, place, after=False)
        with pytest.raises(Unavailable):
            queue.claim("w/1", lease_for=DAY)
        assert queue.claim("w/1", lease_for=DAY) is not None, "it had not taken place"


def test_two_transactions_in_each_others_way_are_begun_again(database: ServerDatabase) -> None:
    seen: list[int] = []

    def body(connection: object, at: int) -> int:
        seen.append(at)
        if len(seen) < 3:
            raise psycopg.errors.SerializationFailure("could not serialize access")
        return at

    assert database.repeated(body) == seen[-1]
    assert len(seen) == 3


_FREEZES = """
import os, signal, sys
from asu_builder.database.postgresql import ServerDatabase
database = ServerDatabase(sys.argv[1])
with database.writing() as session:
    session.execute("UPDATE installation SET id = id")
    print("holds", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_others_go_on_when_a_process_freezes_with_the_lock_of_all(
    place: str, database: ServerDatabase
) -> None:
    queue = SqlJobQueue(database)
    queue.submit(a_submission())
    frozen = subprocess.Popen([sys.executable, "-c", _FREEZES, place], stdout=subprocess.PIPE)
    assert frozen.stdout is not None
    try:
        assert frozen.stdout.readline() == b"holds\n"
        began = time.monotonic()
        assert queue.claim("w/1", lease_for=DAY) is not None
        took = time.monotonic() - began
        assert 1 < took < 10
    finally:
        frozen.send_signal(signal.SIGCONT)
        frozen.kill()
        frozen.communicate()


def test_who_carries_a_lease_or_only_adds_waits_for_nobody(database: ServerDatabase) -> None:
    queue = SqlJobQueue(database)
    queue.submit(a_submission())
    claimed = queue.claim("w/1", lease_for=DAY)
    assert claimed is not None
    statistics = SqlStatistics(database, now=lambda: NOON)
    statistics.record("request", a_request())
    with database.writing():  # the lock of all that orders is held
        queue.renew(claimed[1], lease_for=DAY)
        queue.advance(claimed[1], Stage.BUILDING_IMAGE)
        statistics.flush()
        queue.finish(claimed[1], a_result(), Retention(DAY))


def test_two_installations_on_one_server_do_not_wait_for_each_other(place: str) -> None:
    with psycopg.connect(shared_server().url(), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS another")
    other = shared_server().url(schema="another")
    with closing(ServerDatabase(place)) as one, closing(ServerDatabase(other)) as two:
        assert one.key != two.key
        with one.writing(), two.writing() as session:
            assert session.execute("SELECT 1").fetchone() == (1,)


def test_only_what_must_not_be_lost_waits_for_the_disk(database: ServerDatabase) -> None:
    said = []
    for durable in (False, True):
        with database.writing(durable=durable) as session:
            said.append(session.execute("SHOW synchronous_commit").fetchone())
    assert said == [("off",), ("on",)]


def test_each_session_has_its_deadlines(database: ServerDatabase) -> None:
    with database.reading() as session:
        names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        deadlines = [session.execute(f"SHOW {name}").fetchone() for name in names]
        assert deadlines == [("8s",), ("20s",), ("5s",)]
        parameters = session.connection.info.get_parameters()
    assert parameters["keepalives_idle"] == "10" and parameters["connect_timeout"] == "5"


# What stops a start.


def refusal(url: str) -> str:
    with pytest.raises(Unavailable) as refused:
        ServerDatabase(url).close()
    return str(refused.value)


def test_what_cannot_be_used_is_said_in_a_sentence_without_the_password(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "database_url" in refusal("postgresql://user@/db?nonsense=1")
    nowhere = refusal(f"postgresql://user:s3cret@/db?host={tmp_path}")
    assert "No such file" in nowhere and "s3cret" not in nowhere
    assert "createdb" in refusal(shared_server().url("nothing-here"))
    with psycopg.connect(shared_server().url(), autocommit=True) as connection:
        connection.execute(
            "DROP ROLE IF EXISTS crowded; CREATE ROLE crowded LOGIN CONNECTION LIMIT 0;"
            "DROP ROLE IF EXISTS poor; CREATE ROLE poor LOGIN; CREATE SCHEMA IF NOT EXISTS rich;"
            "GRANT USAGE ON SCHEMA rich TO poor"
        )
    assert "too many connections" in refusal(shared_server().url(user="crowded"))
    assert "own" in refusal(shared_server().url(user="poor", schema="rich"))
    assert "search path" in refusal(shared_server().url(schema="not_made"))
    monkeypatch.setattr("time.time", lambda: time.monotonic() + 1_000)
    far = refusal(place)
    assert "clock" in far and "timedatectl" in far


def test_a_standby_and_a_wrong_password_stop_the_start() -> None:
    folder = Path(tempfile.mkdtemp())  # a short name: sockets lie in it
    folder.chmod(0o755)
    primary, standby = PostgresServer(folder / "p"), PostgresServer(folder / "s")
    primary.make()
    primary.start()
    try:
        url = primary.url()
        ServerDatabase(url).close()
        primary.copy_to(standby)
        standby.start()
        try:
            assert "standby" in refusal(standby.url())
        finally:
            standby.stop()
        primary.require_passwords()
        wrong = refusal(url.replace("asu@", "asu:wr0ng@"))
        assert "password" in wrong and "wr0ng" not in wrong
    finally:
        primary.stop()


# Schemas.


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """The scripts of an invented next version, which adds a column that this one can do without."""
    folder = tmp_path / "newer"
    shutil.copytree(MIGRATIONS, folder)
    number = known_schema() + 1
    (folder / f"{number:04}_invented.sql").write_text(
        f"-- oldest program: schema {known_schema()}\n"
        "ALTER TABLE build_jobs ADD COLUMN invented TEXT NOT NULL DEFAULT 'x';\n"
    )
    return folder


def test_versions_with_neighbouring_schemas_work_side_by_side(place: str, newer: Path) -> None:
    with closing(ServerDatabase(place)) as old:
        queue = SqlJobQueue(old)
        stop, ended = threading.Event(), []

        def work() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                queue.submit(a_submission(packages=(f"old{number}",)))
                claimed = queue.claim("old/1", lease_for=DAY)
                if claimed:
                    queue.finish(claimed[1], a_result(), Retention(DAY))
                    ended.append(claimed[0].id)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            assert eventually(lambda: len(ended) > 3)
            with closing(ServerDatabase(place, migrations=newer)) as new:
                others = SqlJobQueue(new)
                before = len(ended)
                for number in range(10):
                    others.submit(a_submission(packages=(f"new{number}",)))
                    claimed = others.claim("new/1", lease_for=DAY)
                    if claimed:
                        others.finish(claimed[1], a_result(), Retention(DAY))
                assert eventually(lambda: len(ended) > before + 3)
        finally:
            stop.set()
            thread.join()
        assert queue.pending() == 0 or queue.claim("old/1", lease_for=DAY)
    with closing(ServerDatabase(place)) as again, again.reading() as session:
        assert session.execute("SELECT count(DISTINCT invented) FROM build_jobs").fetchone() == (1,)
    drop(place)


def drop(place: str) -> None:
    """Leaves nothing of an invented schema to the next test."""
    schema = place.rpartition("%3D")[2]
    with psycopg.connect(shared_server().url(), autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema}")


def test_a_schema_that_has_let_this_version_go_stops_its_start(place: str, newer: Path) -> None:
    (script,) = newer.glob("*_invented.sql")
    known = known_schema()
    script.write_text(script.read_text().replace(f"schema {known}", f"schema {known + 1}", 1))
    ServerDatabase(place, migrations=newer).close()
    sentence = refusal(place)
    assert f"schema {known_schema() + 1}" in sentence and "newer version" in sentence
    drop(place)


def test_a_script_that_fails_leaves_the_former_schema(place: str, newer: Path) -> None:
    ServerDatabase(place).close()
    (script,) = newer.glob("*_invented.sql")
    script.write_text(script.read_text() + "SELECT nothing FROM nowhere;\n")
    with pytest.raises(Unavailable, match="as it was before"):
        ServerDatabase(place, migrations=newer)
    with closing(ServerDatabase(place)) as database, database.reading() as session:
        number = session.execute("SELECT max(number) FROM schema_numbers").fetchone()
        assert number == (known_schema(),)


def test_many_first_starts_at_once_make_one_schema_and_one_name(place: str) -> None:
    drop(place)
    names: list[str] = []

    def start() -> None:
        with closing(ServerDatabase(place)) as database:
            names.append(database.installation())

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 6 and len(set(names)) == 1


# Telling.


@pytest.fixture
def pair(place: str) -> Iterator[tuple[ServerDatabase, ServerDatabase, Listener, list[str]]]:
    """Two processes' worth of connections; the second listens, and what it was told of builds."""
    with closing(ServerDatabase(place)) as one, closing(ServerDatabase(named(place))) as two:
        news: list[str] = []
        listener = Listener(
            two,
            on_news=news.append,
            on_end=lambda name: news.append(f"end {name}"),
            on_refused=lambda line: news.append(f"refused {line}"),
        )
        listener.start()
        assert eventually(lambda: listener.pid > 0)
        yield one, two, listener, news
        listener.stop()


Pair = tuple[ServerDatabase, ServerDatabase, Listener, list[str]]


def waits(database: ServerDatabase, act: Callable[[], object]) -> float:
    """How long a thread that waits for a job sleeps after the act; at most ten seconds."""
    queue, woken = SqlJobQueue(database), []
    queue.claim("w/1", lease_for=SECOND)

    def sleep() -> None:
        queue.wait(timedelta(seconds=10))
        woken.append(time.monotonic())

    thread = threading.Thread(target=sleep)
    thread.start()
    began = time.monotonic()
    act()
    thread.join()
    return woken[0] - began


def test_a_job_submitted_in_one_process_wakes_another(pair: Pair) -> None:
    one, two, *_ = pair
    queue = SqlJobQueue(one)
    names = [a_submission(packages=(f"p{number}",)) for number in range(3)]
    times = [waits(two, partial(queue.submit, name)) for name in names]
    quickest = min(times)
    assert quickest < 0.5, times


def test_news_of_a_build_and_answers_taken_back_reach_others_and_not_their_teller(pair: Pair) -> None:
    one, _, listener, news = pair
    teller = Listener(one)
    own = teller.current()
    teller.tell_news("a" * 64)
    assert eventually(lambda: news == ["a" * 64])
    teller.note()
    assert teller.current() != own
    listener.tell_news("b" * 64)
    teller.tell_news("c" * 64)
    assert eventually(lambda: len(news) == 2)
    assert news == ["a" * 64, "c" * 64]
    for told in (teller.tell_refused, teller.tell_end):
        told("x" * 7500)  # as long as the longest refusal
    assert eventually(lambda: news[2:] == ["refused " + "x" * 7500, "end " + "x" * 7500])


def test_a_listener_whose_connection_was_ended_listens_again_and_looks_once(place: str, pair: Pair) -> None:
    one, _, listener, news = pair
    pid, before = listener.pid, listener.generation()
    assert before is not None
    end_sessions(place)
    assert eventually(lambda: listener.pid != pid)
    assert eventually(lambda: listener.generation() not in (before, None)), "something may have been missed"
    Listener(one).tell_news("a" * 64)
    assert eventually(lambda: "a" * 64 in news)


def test_every_end_of_an_answer_is_told_whoever_makes_it_and_nothing_else_is(pair: Pair) -> None:
    one, two, _, news = pair
    queue, operations, retention = SqlJobQueue(one), SqlOperations(one), SqlRetention(one)

    def completed(name: str) -> tuple[int, str]:
        job = queue.submit(a_submission(packages=(name,))).job
        claimed = queue.claim("w/1", lease_for=DAY)
        assert claimed is not None
        queue.renew(claimed[1], lease_for=DAY)
        queue.finish(claimed[1], a_result(), Retention(DAY))
        queue.touch([job.request_hash])
        return job.id, job.request_hash

    (_, purged), (number, expired), (_, deleted), (_, updated), (_, again) = map(completed, "abcde")
    Listener(one).tell_news("all of it")
    assert eventually(lambda: news == ["all of it"]), news
    acts: list[tuple[str, Callable[[], object]]] = [
        (purged, lambda: operations.purge(purged)),
        (expired, lambda: queue.expire(number)),
        (deleted, lambda: retention.delete(retention.doomed(deleted, unexpired=True))),
        (
            updated,
            lambda: run_sql(one, f"UPDATE build_jobs SET expires_at = 1 WHERE request_hash = '{updated}'"),
        ),
        (again, lambda: operations.requeue(again)),
    ]
    for name, act in acts:
        news.clear()
        act()
        assert eventually(lambda: news == [f"end {name}"]), news  # noqa: B023
    news.clear()
    SqlOperations(two).purge(again)
    with pytest.raises(ZeroDivisionError), one.writing() as session:
        session.execute("DELETE FROM build_jobs")
        raise ZeroDivisionError
    Listener(one).tell_news("the end")
    assert eventually(lambda: news == ["the end"]), (
        "there was nothing to purge, and what is rolled back is not told"
    )


def run_sql(database: ServerDatabase, statement: str) -> None:
    with database.writing() as session:
        session.execute(statement)


def test_one_process_leads_and_the_next_one_when_it_is_gone(place: str, pair: Pair) -> None:
    one, _, listener, _ = pair
    assert eventually(listener.held)
    other = Listener(one)
    other.start()
    try:
        assert not other.held()
        listener.release()
        assert eventually(other.held)
        assert not listener.held()
    finally:
        other.stop()


def test_a_half_open_connection_is_probed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, listener, _ = pair
    from asu_builder.database import listening

    monkeypatch.setattr(listening, "_PROBE_SECONDS", 0.2)
    seen = listener.probed_at
    assert eventually(lambda: listener.probed_at > seen + 0.3)
    assert postgresql.IDLE_IN_TRANSACTION_SECONDS <= 5


def patiently(act: Callable[[], T]) -> T:
    """As those do who are told that the database is unavailable: they come again."""
    results: list[T] = []

    def tried() -> bool:
        try:
            results.append(act())
        except Unavailable:
            return False
        return True

    assert eventually(tried)
    return results[0]


def test_a_server_that_crashes_under_load_loses_no_request_and_ends_none_twice() -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    server = PostgresServer(folder / "p")
    server.make()
    server.start()
    names = [a_submission(packages=(f"p{number}",)) for number in range(60)]
    ends: list[int] = []
    submitted = threading.Event()
    database = ServerDatabase(server.url())
    queue = SqlJobQueue(database)

    def submit() -> None:
        for name in names:
            patiently(partial(queue.submit, name))
            time.sleep(0.01)
        submitted.set()

    def finish(lease: Lease) -> bool:
        try:
            queue.finish(lease, a_result(), Retention(DAY))
        except LeaseLost:
            return False
        return True

    def work(worker: str) -> None:
        while not (submitted.is_set() and patiently(queue.pending) == 0):
            # What was claimed in a transaction that was lost comes back when its lease is over.
            patiently(partial(queue.recover, failure_ttl=DAY))
            claimed = patiently(partial(queue.claim, worker, lease_for=2 * SECOND))
            if claimed is not None:
                job, lease = claimed
                if patiently(partial(finish, lease)):
                    ends.append(job.id)

    def left() -> int:
        patiently(partial(queue.recover, failure_ttl=DAY))
        return len(queue.live_leases()) + queue.pending()

    threads = [
        threading.Thread(target=submit),
        *(threading.Thread(target=work, args=(f"w/{n}",)) for n in "12"),
    ]
    try:
        for thread in threads:
            thread.start()
        for mode in ("immediate", "fast"):
            count = len(ends)
            assert eventually(lambda: len(ends) > count + 5 or submitted.is_set())  # noqa: B023
            server.stop(mode)
            server.start()
        for thread in threads:
            thread.join()
        while left():
            work("w/3")
        with database.reading() as session:
            rows = session.execute(
                "SELECT count(*), count(DISTINCT request_hash), count(*) FILTER (WHERE state = 'completed')"
                " FROM build_jobs"
            ).fetchone()
        assert rows == (60, 60, 60)
        assert len(ends) == len(set(ends)) == 60
    finally:
        database.close()
        server.stop()
