import pytest
from msgspec.structs import replace

from asu_builder.core.live import AT_ONCE, LiveBuilds, Notifier
from asu_builder.core.submit import BuildView
from asu_builder.domain.errors import BuildNotFound
from asu_builder.domain.job import JobState
from fake_builds import FakeBuilds
from fake_log import FakeBuildLog


@pytest.fixture
def builds() -> FakeBuilds:
    return FakeBuilds()


@pytest.fixture
def log() -> FakeBuildLog:
    return FakeBuildLog()


@pytest.fixture
def live(builds: FakeBuilds, log: FakeBuildLog) -> LiveBuilds:
    return LiveBuilds(builds, log, Notifier())


def test_a_look_has_the_state_and_what_was_printed_since(
    live: LiveBuilds, builds: FakeBuilds, log: FakeBuildLog
) -> None:
    name = builds.build()
    log.print(1, "a", "b", "c")
    look = live.look(name, after=1)
    assert look.view.job.state is JobState.BUILDING
    assert [line.text for line in look.lines] == ["b", "c"]
    assert (look.after, look.last) == (1, 3)
    assert live.look(name, after=3, job_id=1).lines == ()


def test_a_look_that_brings_nothing_reads_no_lines(
    live: LiveBuilds, builds: FakeBuilds, log: FakeBuildLog
) -> None:
    name = builds.build()
    log.print(1, "a")
    for _ in range(10):
        live.look(name, after=1, job_id=1)
    assert log.reads == 0


def test_many_lines_come_in_portions(live: LiveBuilds, builds: FakeBuilds, log: FakeBuildLog) -> None:
    name = builds.build()
    log.print(1, *map(str, range(2 * AT_ONCE + 1)))
    assert len(live.look(name).lines) == AT_ONCE
    assert [line.seq for line in live.look(name, after=2 * AT_ONCE).lines] == [2 * AT_ONCE + 1]
    assert len(live.whole(name)) == 2 * AT_ONCE + 1


def test_another_job_under_the_same_hash_is_told_from_its_first_line(
    live: LiveBuilds, builds: FakeBuilds, log: FakeBuildLog
) -> None:
    name = builds.build()
    log.print(1, *"abcdef")
    builds.jobs[name] = BuildView(replace(builds.jobs[name].job, id=2))
    log.print(2, "anew", "and", "more")
    assert [line.text for line in live.look(name, after=2, job_id=1).lines] == ["anew", "and", "more"]
    # Whoever comes back after it, with a number that it has not reached.
    assert live.look(name, after=6).after == 0
    assert [line.text for line in live.whole(name, after=6)] == ["anew", "and", "more"]
    assert [line.text for line in live.whole(name, after=2)] == ["more"]


def test_nothing_is_told_of_what_nobody_knows(live: LiveBuilds) -> None:
    with pytest.raises(BuildNotFound):
        live.look("0" * 64)
    with pytest.raises(BuildNotFound):
        live.whole("0" * 64)


def test_a_look_counts_as_interest(live: LiveBuilds, builds: FakeBuilds) -> None:
    name = builds.build()
    live.look(name)
    assert builds.looks == 1


def test_a_bell_is_heard_by_all_who_listen() -> None:
    notifier = Notifier()
    notifier.notify("nobody")
    on_output: list[str] = []
    notifier.listen(on_output.append)
    notifier.listen(lambda name: on_output.append(name.upper()))
    notifier.notify("abc")
    assert on_output == ["abc", "ABC"]
