"""The helper process: it is lost in every way, the service goes on, and the next answer is right."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adb_writer import packages_text
from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.preflight import Feasibility, Foretold, PackageIndexes
from asu_builder.resolver.child import ChildResolver, Limits, make_pool
from asu_builder.resolver.pool import NamesOnly
from recorded_indexes import APK, OPKG, index_of, recorded, recorded_indexes, recorded_verdicts

pytestmark = pytest.mark.process
_PATIENCE = 3.0
"""Seconds for a process that does not answer; one that starts beside other tests needs up to two."""

Make = Callable[..., ChildResolver]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes resolvers, and sees to it that no process of theirs is left."""
    made: list[ChildResolver] = []

    def resolver(**limits: float) -> ChildResolver:
        # The machine may be busy with other tests.
        made.append(ChildResolver(Limits(**({"patience": 60.0} | limits))))  # type: ignore[arg-type]
        return made[-1]

    yield resolver
    running = [pid for one in made if (pid := one.pid())]
    for one in made:
        one.close()
    assert not any(map(runs, running))


def runs(pid: int) -> bool:
    """Whether a process is there; one that has ended and was not waited for is not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def until(true: Callable[[], bool]) -> bool:
    """Waits a few seconds for it."""
    end = time.monotonic() + 10
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def known_of(*packages: dict[str, str], name: str = "base") -> PackageIndexes:
    return PackageIndexes(OPKG, (index_of(name, packages_text(*packages), OPKG),))


def package(name: str, depends: str = "") -> dict[str, str]:
    fields = {"Package": name, "Version": "1", "Architecture": "all"}
    return fields | {"Depends": depends} if depends else fields


SMALL = known_of(package("vim", "libc"), package("libc"))


def chain(length: int) -> PackageIndexes:
    """Packages of which each needs the next: much to compute."""
    return known_of(
        *(package(f"link-{number}", f"link-{number + 1}") for number in range(length)),
        package(f"link-{length}"),
        name="chain",
    )


def is_right(foretold: Foretold) -> bool:
    return dict(foretold.packages) == {"vim": "1", "libc": "1"}


@recorded
@pytest.mark.parametrize("manager", [APK, OPKG])
def test_recorded_requests_are_answered_by_the_process(make: Make, manager: PackageManager) -> None:
    resolver = make()
    known = recorded_indexes(manager)
    for one in recorded_verdicts(manager)[:30]:
        foretold = resolver.resolve(known, one["request"])
        assert (foretold.verdict, foretold.indexes) == (one["verdict"], known.digest)


def test_nothing_runs_before_the_first_question_and_after_the_end(make: Make) -> None:
    resolver = make()
    assert resolver.pid() is None
    assert is_right(resolver.resolve(SMALL, ["vim"]))
    pid = resolver.pid()
    assert pid and runs(pid)
    resolver.close()
    assert not runs(pid)
    foretold = resolver.resolve(SMALL, ["vim"])
    assert (foretold.verdict, foretold.reason) == (Feasibility.UNKNOWN, "The service is ending.")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_one_that_was_killed_is_replaced_unnoticed(make: Make, number: signal.Signals) -> None:
    resolver = make()
    resolver.resolve(SMALL, ["vim"])
    pid = resolver.pid()
    assert pid
    os.kill(pid, number)
    assert until(lambda: not runs(pid))
    assert is_right(resolver.resolve(SMALL, ["vim"]))
    assert resolver.pid() != pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_one_that_crashes_over_a_question_costs_that_answer_only(make: Make, number: signal.Signals) -> None:
    resolver = make()
    resolver.resolve(SMALL, ["vim"])
    pid = resolver.pid()
    assert pid
    os.kill(pid, signal.SIGSTOP)
    foretold: list[Foretold] = []
    asking = threading.Thread(target=lambda: foretold.append(resolver.resolve(SMALL, ["vim"])))
    asking.start()
    time.sleep(0.05)
    os.kill(pid, number)
    os.kill(pid, signal.SIGCONT)
    asking.join()
    assert (foretold[0].verdict, foretold[0].reason) == (
        Feasibility.UNKNOWN,
        f"It could not be worked out: it ended with -{int(number)}.",
    )
    assert is_right(resolver.resolve(SMALL, ["vim"])) and not runs(pid)


def test_one_that_hangs_is_killed(make: Make) -> None:
    resolver = make(patience=_PATIENCE)
    resolver.resolve(SMALL, ["vim"])
    pid = resolver.pid()
    assert pid
    os.kill(pid, signal.SIGSTOP)
    foretold = resolver.resolve(SMALL, ["vim"])
    assert foretold.reason == "It could not be worked out: it did not answer in time."
    assert not runs(pid)
    assert is_right(resolver.resolve(SMALL, ["vim"]))


def test_one_that_computes_too_long_over_an_answer_is_ended(make: Make) -> None:
    resolver = make(answering=0.004)
    foretold = resolver.resolve(chain(20_000), ["link-0"])
    assert foretold.reason == "It could not be worked out: it took too long to compute."
    assert is_right(resolver.resolve(SMALL, ["vim"]))


def test_indexes_that_take_too_long_are_not_tried_again_at_once(make: Make) -> None:
    resolver = make(building=0.03)
    long = chain(20_000)
    assert resolver.resolve(long, ["link-0"]).reason.endswith("it took too long to compute.")
    assert resolver.pid() is None
    foretold = resolver.resolve(long, ["link-0"])
    assert foretold.reason == "These package indexes could not be read within the limits."
    assert resolver.pid() is None
    assert is_right(resolver.resolve(SMALL, ["vim"]))


def test_one_that_needs_too_much_memory_is_ended(make: Make) -> None:
    resolver = make(memory=80 << 20)
    foretold = resolver.resolve(chain(49_999), ["link-0"])
    assert foretold.reason == "It could not be worked out: it needed too much memory."
    assert is_right(resolver.resolve(SMALL, ["vim"]))


def test_fifty_thousand_packages_are_never_refused_wrongly(make: Make) -> None:
    foretold = make().resolve(chain(49_999), ["link-49990"])
    assert foretold.verdict is Feasibility.UNKNOWN or len(foretold.packages) == 10


def test_losses_in_a_row_are_followed_by_a_growing_pause() -> None:
    now = [0.0]
    resolver = ChildResolver(Limits(answering=0.004), clock=lambda: now[0])
    long = chain(20_000)
    try:
        for _ in range(2):
            assert resolver.resolve(long, ["link-0"]).verdict is Feasibility.UNKNOWN
        foretold = resolver.resolve(SMALL, ["vim"])
        assert foretold.reason == "It could not be worked out: it took too long to compute."
        assert resolver.pid() is None
        now[0] += 2
        assert is_right(resolver.resolve(SMALL, ["vim"]))
    finally:
        resolver.close()


def test_it_ends_when_nothing_is_asked(make: Make) -> None:
    resolver = make(idle=0.1)
    resolver.resolve(SMALL, ["vim"])
    pid = resolver.pid()
    assert pid is None or until(lambda: not runs(pid))
    assert is_right(resolver.resolve(SMALL, ["vim"]))


def test_more_questions_than_may_wait_are_not_known_at_once(make: Make) -> None:
    resolver = make(waiting=1)
    resolver.resolve(SMALL, ["vim"])
    pid = resolver.pid()
    assert pid
    os.kill(pid, signal.SIGSTOP)
    asking = [threading.Thread(target=resolver.resolve, args=(SMALL, ["vim"])) for _ in range(2)]
    for one in asking:
        one.start()
        time.sleep(0.1)
    foretold = resolver.resolve(SMALL, ["vim"])
    assert all(one.is_alive() for one in asking)
    assert foretold.reason == "Too many selections are being looked at."
    os.kill(pid, signal.SIGCONT)
    for one in asking:
        one.join()


_SERVICE = """
import sys, time
from asu_builder.resolver import LateResolver
early = [name for name in sys.modules if name.startswith("asu_builder.resolver.")]
from test_child import SMALL
late = LateResolver()
foretold = late.resolve(SMALL, ["vim"])
print(late._resolver.value.pid(), len(foretold.packages), len(early), "solv" in sys.modules, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_none_is_left_when_the_service_is_killed(stopped: bool) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    service = subprocess.Popen(
        [sys.executable, "-c", _SERVICE], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert service.stdout
        pid, packages, early, loaded = service.stdout.readline().split()
        assert (packages, early, loaded) == ("2", "0", "False") and runs(int(pid))
        if stopped:
            os.kill(int(pid), signal.SIGSTOP)
    finally:
        service.kill()
        service.communicate()
    assert until(lambda: not runs(int(pid)))


def test_it_inherits_neither_descriptors_nor_secrets(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASU_TOKENS", "secret-of-the-service")
    listening, resolver = socket.create_server(("127.0.0.1", 0)), make()
    with listening:
        os.set_inheritable(listening.fileno(), True)
        resolver.resolve(SMALL, ["vim"])
        pid = resolver.pid()
        descriptors = Path(f"/proc/{pid}/fd")
        kinds = {str(one.readlink()).partition(":")[0] for one in descriptors.iterdir()}
        assert kinds == {"pipe"}
        environment = Path(f"/proc/{pid}/environ").read_text()
        assert "secret" not in environment and "HOME" not in environment
        assert os.getsid(pid or 0) == pid


def test_bytes_are_asked_for_once_and_again_after_others_took_the_room(make: Make) -> None:
    reads: list[str] = []

    def counted(name: str) -> PackageIndexes:
        data = packages_text(package(name))
        index = index_of(name, data, OPKG)

        def read() -> bytes:
            reads.append(name)
            return data

        return PackageIndexes(OPKG, (PackageIndex(name, "", index.digest, OPKG, read),))

    one, other = counted("one"), counted("other")
    roomy, narrow = make(), make(worlds=0)
    for resolver in (roomy, narrow):
        for known, name in ((one, "one"), (one, "one"), (other, "other"), (one, "one")):
            assert resolver.resolve(known, [name]).verdict is Feasibility.FINE
    assert reads == ["one", "other", "one", "other", "one"]


def test_indexes_that_are_gone_or_not_readable_forbid_a_verdict(make: Make) -> None:
    resolver = make()
    gone = PackageIndexes(OPKG, (PackageIndex("base", "", "1" * 64, OPKG, lambda: None),))
    assert resolver.resolve(gone, ["vim"]).reason == "The package index base is not here any more."
    odd = PackageIndexes(APK, (index_of("base", b"ADB.", APK),))
    assert "base cannot be read" in resolver.resolve(odd, ["vim"]).reason
    nothing = PackageIndexes(OPKG, (), "The indexes of this version are not here yet.")
    assert resolver.resolve(nothing, ["vim"]).reason == nothing.lacking
    assert is_right(resolver.resolve(SMALL, ["vim"]))


def test_an_index_that_cannot_be_had_is_no_loss_of_the_process(make: Make) -> None:
    def fail() -> bytes:
        raise OSError("the disk is gone")

    resolver = make()
    failing = PackageIndexes(OPKG, (PackageIndex("base", "", "2" * 64, OPKG, fail),))
    assert resolver.resolve(failing, ["vim"]).verdict is Feasibility.UNKNOWN
    assert is_right(resolver.resolve(SMALL, ["vim"]))


def test_what_is_lacking_forbids_a_refusal_and_names_what_was_not_found(make: Make) -> None:
    lacking = PackageIndexes(OPKG, SMALL.indexes, "The feed luci is not readable.")
    foretold = make().resolve(lacking, ["vim", "vin"])
    assert (foretold.verdict, foretold.reason) == (Feasibility.UNKNOWN, "The feed luci is not readable.")
    assert foretold.problem.missing == ("vin",) and foretold.nearest == {"vin": ("vim",)}
    assert foretold.indexes == lacking.digest


def test_only_what_is_impossible_with_and_without_the_requests_repositories_is_refused(make: Make) -> None:
    resolver = make()
    breaking = packages_text(package("extra"), package("vim", "nothing-of-the-kind") | {"Version": "2"})
    foreign = index_of("mine", breaking, OPKG, is_foreign=True)
    both = PackageIndexes(OPKG, (*SMALL.indexes, foreign))
    assert dict(resolver.resolve(both, ["extra"]).packages) == {"extra": "1"}
    assert resolver.resolve(both, ["nothing"]).verdict is Feasibility.IMPOSSIBLE
    clash = packages_text(package("vim") | {"Version": "2", "Conflicts": "libc"})
    other = PackageIndexes(OPKG, (*SMALL.indexes, index_of("odd", clash, OPKG, is_foreign=True)))
    foretold = resolver.resolve(other, ["libc", "vim"])
    assert (foretold.verdict, set(foretold.problem.conflicts)) == (Feasibility.UNKNOWN, {"vim", "libc"})


def test_without_the_library_only_missing_names_of_apk_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "solv", None)
    monkeypatch.delitem(sys.modules, "asu_builder.resolver.apk", raising=False)
    world = make_pool(APK, [], 0)
    assert isinstance(world, NamesOnly)
    assert world.resolve(["vim"]).problem.missing == ("vim",)
    foretold = world.resolve([])
    assert foretold.verdict is Feasibility.UNKNOWN and "is not installed here" in foretold.reason


def test_many_threads_get_each_their_own_answer(make: Make) -> None:
    resolver = make()
    known = known_of(*(package(f"package-{number}") for number in range(20)))
    wrong: list[str] = []

    def ask(name: str) -> None:
        for _ in range(20):
            if list(resolver.resolve(known, [name]).packages) != [name]:
                wrong.append(name)

    asking = [threading.Thread(target=ask, args=(f"package-{number}",)) for number in range(8)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert not wrong
