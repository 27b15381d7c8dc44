"""An engine that hangs, answers errors or starts nothing: bounded waits, and the circuit breaker."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest
from msgspec.structs import replace

from asu_builder.domain.errors import (
    BuildFailed,
    BuildInterrupted,
    EngineUnavailable,
    FailureReason,
    Unavailable,
)
from asu_builder.engines.guard import BACKLOG, Limits
from asu_builder.engines.podman.calls import ContainerCalls, ContainerWatch
from asu_builder.engines.podman.runtime import PodmanRuntime
from asu_builder.engines.podman.service import INSTALLATION, UNTIL, Engine, PodmanOptions, Timeouts
from asu_builder.ports import Container
from asu_builder.settings import Settings
from factories import eventually, never, sooner_than
from fake_engine import BREAKS, HANGS, Answer, FakeEngine, refusing
from runtime_rig import a_spec

pytestmark = pytest.mark.waits

_SOON = timedelta(seconds=0.5)
QUICK = Timeouts(
    call=_SOON,
    question=_SOON,
    check=_SOON,
    watch=timedelta(0),
    kill=timedelta(0),
    silence=timedelta(seconds=1),
)


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "s") as running:
        yield running


@pytest.fixture
def options(engine: FakeEngine) -> PodmanOptions:
    return PodmanOptions(
        Settings(
            container_socket_path=str(engine.socket),
            imagebuilder_registry="localhost/sample",
            build_network="none",
        ),
        installation="ours",
        timeouts=QUICK,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def runtime(options: PodmanOptions, clock: Clock) -> PodmanRuntime:
    return PodmanRuntime(options, clock=clock)


def build(runtime: PodmanRuntime, output: Path) -> None:
    """Opens a container and runs one command in it."""
    with runtime.open(a_spec(), stop=Event()) as container:
        container.run(["true"], output=output)


def unavailable(act: Callable[[], object]) -> EngineUnavailable:
    """The error that says that the engine is to blame."""
    with pytest.raises(EngineUnavailable) as caught:
        act()
    return caught.value


def test_a_build_on_an_engine_that_is_well_passes(runtime: PodmanRuntime, tmp_path: Path) -> None:
    build(runtime, tmp_path)
    assert (tmp_path / "1.stdout").read_text() == "hi\n"
    assert runtime.check().status == "ok"


# --- every wait is bounded ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        "GET /images/.*/json",
        "POST /containers/create",
        "POST /containers/.*/start",
        "GET /containers/.*/json",
        "POST /containers/.*/exec",
        "POST /exec/.*/start",
        "GET /exec/.*/json",
    ],
)
def test_a_call_that_is_never_answered_ends_the_build_in_time(
    runtime: PodmanRuntime, engine: FakeEngine, tmp_path: Path, call: str
) -> None:
    engine.faults[call] = HANGS
    with sooner_than(45):
        error = unavailable(lambda: build(runtime, tmp_path))
    assert "did not answer in time" in str(error)
    assert engine.asked(call) >= 1


def test_an_engine_that_accepts_and_never_answers_holds_nobody(
    runtime: PodmanRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.hang()
    with sooner_than(45):
        unavailable(lambda: build(runtime, tmp_path))
    with sooner_than(45):
        assert runtime.check().status == "error"
    with sooner_than(45):
        unavailable(lambda: runtime.sweep(keep=lambda labels: False))


@pytest.mark.parametrize("step", ["run", "exists", "write", "read", "collect"])
def test_each_step_of_a_build_ends_when_the_engine_hangs(
    runtime: PodmanRuntime, engine: FakeEngine, tmp_path: Path, step: str
) -> None:
    acts: dict[str, Callable[[Container], object]] = {
        "run": lambda container: container.run(["true"], output=tmp_path),
        "exists": lambda container: container.exists("Makefile"),
        "write": lambda container: container.write_files({"big": "x" * (8 << 20)}),
        "read": lambda container: container.read_bytes("Makefile"),
        "collect": lambda container: container.collect("/builder/out", tmp_path),
    }

    def hang_in_the_middle() -> None:
        with runtime.open(a_spec(), stop=Event()) as container:
            engine.hang()
            acts[step](container)

    with sooner_than(45):
        error = unavailable(hang_in_the_middle)
    assert "did not answer in time" in str(error)


def test_sweeping_stops_at_the_first_container_that_gets_no_answer(
    runtime: PodmanRuntime, engine: FakeEngine
) -> None:
    containers = [{"Id": f"c{number}", "Labels": {INSTALLATION: "ours"}} for number in range(20)]
    engine.faults = {"GET /containers/json": Answer(body=containers), "DELETE .*": HANGS}
    with sooner_than(45):
        unavailable(lambda: runtime.sweep(keep=lambda labels: False))
    assert engine.asked("DELETE .*") == 1


def test_a_container_that_cannot_be_removed_does_not_keep_the_others(
    runtime: PodmanRuntime, engine: FakeEngine
) -> None:
    containers = [{"Id": f"c{number}", "Labels": {INSTALLATION: "ours"}} for number in range(3)]
    engine.faults = {"GET /containers/json": Answer(body=containers), "DELETE .*/c1": refusing("busy")}
    assert runtime.sweep(keep=lambda labels: False) == 2


def test_sweeping_takes_nothing_of_another_installation_even_if_the_engine_lists_it(
    runtime: PodmanRuntime, engine: FakeEngine
) -> None:
    labels = [{INSTALLATION: "ours"}, {INSTALLATION: "ours-too"}, {INSTALLATION: ""}, {}, None]
    containers = [{"Id": f"c{number}", "Labels": each} for number, each in enumerate(labels)]
    engine.faults["GET /containers/json"] = Answer(body=containers)
    assert runtime.sweep(keep=lambda labels: False) == 1
    assert engine.asked("DELETE .*") == engine.asked("DELETE /containers/c0") == 1


def test_sweeping_leaves_a_container_without_a_job_until_its_time_is_over(
    runtime: PodmanRuntime, engine: FakeEngine
) -> None:
    now = int(time.time())
    until = [now + 3600, now - 3600, "", "soon", "9" * 400]
    containers = [
        {"Id": f"c{number}", "Labels": {INSTALLATION: "ours", UNTIL: str(each)}}
        for number, each in enumerate(until)
    ]
    engine.faults["GET /containers/json"] = Answer(body=containers)
    assert runtime.sweep(keep=lambda labels: False) == 3
    assert not engine.asked("DELETE /containers/c0") and engine.asked("DELETE /containers/c1")


# --- the end of a container, and its removal -----------------------------------------------------------

_RUNNING = Answer(body={"Id": "c1", "Config": {"Env": []}, "State": {"Running": True}})


def test_a_build_waits_for_the_end_of_its_container_and_not_for_its_removal(
    options: PodmanOptions, engine: FakeEngine, tmp_path: Path
) -> None:
    runtime = PodmanRuntime(replace(options, timeouts=replace(QUICK, call=timedelta(minutes=5))))
    engine.faults["DELETE .*"] = HANGS
    with sooner_than(45):
        build(runtime, tmp_path)
    assert engine.asked("POST /containers/.*/kill") == 1
    assert eventually(lambda: engine.asked("DELETE .*") == 1)


def test_a_container_is_left_when_it_does_not_run_any_more(
    options: PodmanOptions, engine: FakeEngine, tmp_path: Path
) -> None:
    runtime = PodmanRuntime(replace(options, timeouts=replace(QUICK, question=timedelta(minutes=5))))
    left = Event()

    def build_and_leave() -> None:
        with runtime.open(a_spec(), stop=Event()) as container:
            container.run(["true"], output=tmp_path)
            engine.faults["GET /containers/.*/json"] = _RUNNING
        left.set()

    builder = Thread(target=build_and_leave)
    builder.start()
    assert eventually(lambda: engine.asked("POST /containers/.*/kill") == 1)
    assert never(left.is_set, seconds=0.5)
    assert engine.asked("DELETE .*") == 0
    engine.recover()
    builder.join(60)
    assert left.is_set()
    assert eventually(lambda: engine.asked("DELETE .*") == 1)


def test_a_container_that_cannot_be_ended_holds_nobody_and_is_removed_all_the_same(
    runtime: PodmanRuntime, engine: FakeEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine.faults["GET /containers/.*/json"] = _RUNNING
    with sooner_than(45):
        build(runtime, tmp_path)
    assert "was killed and runs on" in caplog.text
    assert eventually(lambda: engine.asked("DELETE .*") == 1)


@pytest.mark.parametrize("answer", [HANGS, BREAKS, refusing("not running", 409), refusing("no such", 404)])
def test_whatever_is_answered_to_the_kill_the_container_is_removed(
    runtime: PodmanRuntime, engine: FakeEngine, tmp_path: Path, answer: Answer
) -> None:
    engine.faults["POST /containers/.*/kill"] = answer
    with sooner_than(45):
        build(runtime, tmp_path)
    assert eventually(lambda: engine.asked("DELETE .*") == 1)
    assert eventually(runtime.close)


def test_who_has_got_no_answer_to_a_kill_does_not_ask_again(
    silent_make: PodmanRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    with sooner_than(45), pytest.raises(EngineUnavailable):
        with silent_make.open(a_spec(), stop=Event()) as container:
            engine.faults["GET .*|POST .*/kill"] = HANGS
            container.run(["make"], output=tmp_path)
    assert engine.asked("POST /containers/.*/kill") == 1


def test_what_is_being_removed_is_not_swept(
    options: PodmanOptions, engine: FakeEngine, tmp_path: Path
) -> None:
    runtime = PodmanRuntime(replace(options, timeouts=replace(QUICK, call=timedelta(minutes=5))))
    engine.faults["DELETE .*"] = HANGS
    build(runtime, tmp_path)
    assert eventually(lambda: engine.asked("DELETE .*") == 1)
    (call,) = [call for call in engine.calls if call.startswith("DELETE")]
    going = {"Id": "c0", "Names": [call.rpartition("/")[2]], "Labels": {INSTALLATION: "ours"}}
    left = {"Id": "c1", "Names": ["asu-of-a-former-life"], "Labels": {INSTALLATION: "ours"}}
    nameless = {"Id": "c2", "Names": None, "Labels": {INSTALLATION: "ours"}}
    engine.faults = {"GET /containers/json": Answer(body=[going, left, nameless])}
    assert runtime.sweep(keep=lambda labels: False) == 2
    assert engine.asked("DELETE /containers/c0") == 0


def test_no_container_is_begun_while_too_many_wait_to_be_removed(
    options: PodmanOptions, engine: FakeEngine, tmp_path: Path
) -> None:
    runtime = PodmanRuntime(replace(options, timeouts=replace(QUICK, call=timedelta(minutes=5))))
    engine.faults["DELETE .*"] = HANGS
    build(runtime, tmp_path)
    assert eventually(lambda: engine.asked("DELETE .*") == 1)
    for _ in range(BACKLOG):
        build(runtime, tmp_path)
    stop = Event()
    created = engine.asked("POST /containers/create")
    with ThreadPoolExecutor(1) as worker:
        opening = worker.submit(lambda: runtime.open(a_spec(), stop=stop).__enter__())
        assert never(lambda: engine.asked("POST /containers/create") > created, seconds=0.5)
        stop.set()
        with pytest.raises(BuildInterrupted):
            opening.result(60)
    assert engine.asked("POST /containers/create") == created


# --- an engine that goes silent in mid-command -------------------------------------------------------


@pytest.fixture
def silent_make(options: PodmanOptions, engine: FakeEngine) -> PodmanRuntime:
    """A runtime on an engine where commands run and print nothing, not even that they have begun."""
    engine.faults["POST /exec/.*/start"] = HANGS
    return PodmanRuntime(replace(options, timeouts=replace(QUICK, call=timedelta(seconds=90))))


def test_an_engine_that_goes_silent_during_a_command_ends_the_build_as_its_own_fault(
    silent_make: PodmanRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    with sooner_than(45), pytest.raises(EngineUnavailable, match="did not answer in time"):
        with silent_make.open(a_spec(), stop=Event()) as container:
            engine.faults["(GET|DELETE) .*"] = HANGS
            container.run(["make"], output=tmp_path)


def test_a_deadline_reached_while_the_engine_is_silent_is_not_the_user_s(
    options: PodmanOptions, engine: FakeEngine, tmp_path: Path
) -> None:
    patient = replace(QUICK, call=timedelta(seconds=90), silence=timedelta(minutes=1))
    runtime = PodmanRuntime(replace(options, timeouts=patient))
    engine.faults["POST /exec/.*/start"] = HANGS
    with sooner_than(45), pytest.raises(EngineUnavailable, match="did not answer in time"):
        with runtime.open(a_spec(deadline=timedelta(seconds=1)), stop=Event()) as container:
            engine.faults["(GET|DELETE) .*"] = HANGS
            container.run(["make"], output=tmp_path)


def test_a_deadline_reached_on_an_engine_that_answers_is_the_user_s(
    silent_make: PodmanRuntime, tmp_path: Path
) -> None:
    with sooner_than(45), pytest.raises(BuildFailed) as failure:
        with silent_make.open(a_spec(deadline=timedelta(seconds=1)), stop=Event()) as container:
            container.run(["make"], output=tmp_path)
    assert failure.value.reason == FailureReason.DEADLINE


@pytest.mark.parametrize("status", [404, 500])
def test_a_container_that_is_gone_ends_the_build_at_once(
    silent_make: PodmanRuntime, engine: FakeEngine, tmp_path: Path, status: int
) -> None:
    with sooner_than(45), pytest.raises(EngineUnavailable, match="removed by somebody else"):
        with silent_make.open(a_spec(), stop=Event()) as container:
            engine.faults["GET /containers/.*/json"] = refusing("no such container", status)
            container.run(["make"], output=tmp_path)


def test_no_file_in_a_container_that_is_gone_is_no_answer(
    runtime: PodmanRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    with pytest.raises(EngineUnavailable, match="removed by somebody else"):
        with runtime.open(a_spec(), stop=Event()) as container:
            assert not container.exists("Makefile")
            engine.faults[".* /containers/.*"] = refusing("no such container", 404)
            container.exists("Makefile")


def test_an_output_that_a_restarted_service_may_have_cut_is_not_believed(
    runtime: PodmanRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.faults["POST /containers/.*/wait"] = BREAKS
    engine.faults["GET /exec/.*/json"] = Answer(body={"Running": False, "ExitCode": 0}, after=0.2)
    with pytest.raises(EngineUnavailable, match="connection to a running command was lost"):
        build(runtime, tmp_path)


def test_a_wait_that_is_answered_proves_nothing_against_the_service(
    runtime: PodmanRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.faults["POST /containers/.*/wait"] = refusing("no such condition", 400)
    build(runtime, tmp_path)


# --- the circuit breaker -------------------------------------------------------------------------------


def test_an_engine_that_starts_nothing_is_left_alone_though_it_answers_pings(
    runtime: PodmanRuntime, engine: FakeEngine, clock: Clock, tmp_path: Path
) -> None:
    engine.faults["POST /containers/.*/start"] = refusing("crun: out of processes")
    first = unavailable(lambda: build(runtime, tmp_path))
    assert (str(first), first.retry_after) == ("Podman failed: crun: out of processes.", 2)
    result = runtime.check()
    assert result.status == "error"
    assert result.sentence == "Podman failed: crun: out of processes. It is tried again in 2 s."

    asked = engine.calls.total()
    second = unavailable(lambda: build(runtime, tmp_path))
    assert (str(second), second.retry_after) == (str(first), 2)
    assert engine.calls.total() == asked, "it was asked though it had just failed"

    clock.now += 2
    assert runtime.check().status == "warning"
    assert unavailable(lambda: build(runtime, tmp_path)).retry_after == 4
    assert runtime.check().status == "error"

    engine.recover()
    clock.now += 4
    build(runtime, tmp_path)
    assert runtime.check().status == "ok"


@pytest.mark.parametrize(
    "call", ["POST /containers/create", "POST /containers/.*/exec", "POST /exec/.*/start"]
)
def test_whichever_step_fails_the_spans_grow_and_work_resumes_by_itself(
    runtime: PodmanRuntime, engine: FakeEngine, clock: Clock, tmp_path: Path, call: str
) -> None:
    engine.faults[call] = refusing("no")
    spans = []
    for _ in range(7):
        spans.append(unavailable(lambda: build(runtime, tmp_path)).retry_after)
        clock.now += spans[-1]
    assert spans == [2, 4, 8, 16, 32, 60, 60]
    engine.recover()
    build(runtime, tmp_path)
    assert runtime.check().status == "ok"


def test_of_several_workers_one_tries(
    runtime: PodmanRuntime, engine: FakeEngine, clock: Clock, tmp_path: Path
) -> None:
    engine.faults["POST /containers/create"] = refusing("no")
    unavailable(lambda: build(runtime, tmp_path))
    clock.now += 2
    tried = engine.asked("POST /containers/create")
    engine.faults["POST /containers/create"] = HANGS
    with ThreadPoolExecutor(4) as workers:
        errors = list(workers.map(lambda _: unavailable(lambda: build(runtime, tmp_path)), range(4)))
    assert engine.asked("POST /containers/create") == tried + 1
    assert sum(str(error) == "Podman failed: no." for error in errors) == 3


def test_a_ping_that_works_again_after_silence_closes_the_breaker_at_once(
    runtime: PodmanRuntime, engine: FakeEngine, clock: Clock, tmp_path: Path
) -> None:
    engine.faults["GET /_ping"] = HANGS
    for _ in range(4):
        assert runtime.check().status == "error"
        clock.now += 10
    engine.recover()
    unavailable(lambda: runtime.open(a_spec(), stop=Event()).__enter__())
    assert runtime.check().status == "ok"
    build(runtime, tmp_path)


def test_a_build_that_ends_for_its_own_reasons_leaves_the_trial_to_the_next(
    runtime: PodmanRuntime, engine: FakeEngine, clock: Clock, tmp_path: Path
) -> None:
    engine.faults["POST /containers/create"] = refusing("no")
    unavailable(lambda: build(runtime, tmp_path))
    engine.recover()
    clock.now += 2
    stop = Event()
    stop.set()
    with pytest.raises(BuildInterrupted):
        with runtime.open(a_spec(), stop=stop):
            pass
    engine.faults["GET /images/.*/json"] = refusing("no such image", 404)
    with pytest.raises(BuildFailed):
        build(runtime, tmp_path)
    assert runtime.check().status == "warning"
    engine.recover()
    build(runtime, tmp_path)
    assert runtime.check().status == "ok"


def test_an_old_build_s_end_says_nothing_about_the_engine_now(
    runtime: PodmanRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    with runtime.open(a_spec(), stop=Event()) as container:
        container.run(["true"], output=tmp_path)
        engine.faults["POST /containers/create"] = refusing("no")
        unavailable(lambda: build(runtime, tmp_path))
    assert runtime.check().status == "error"


def test_a_file_that_is_not_there_is_no_sign_of_an_ill_engine(
    runtime: PodmanRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.faults["GET /containers/.*/archive"] = refusing("no such file", 404)
    with pytest.raises(Unavailable) as caught:
        with runtime.open(a_spec(), stop=Event()) as container:
            container.read_bytes("repositories")
    assert not isinstance(caught.value, EngineUnavailable)
    assert runtime.check().status == "ok"


# --- how much a build has written --------------------------------------------------------------------


class Measured(ContainerCalls):
    """A container whose measuring takes as long as a test wants, on the test's clock."""

    busy_seconds = 60.0

    def __init__(self, engine: FakeEngine, clock: Clock) -> None:
        super().__init__(Engine(str(engine.socket)), "c1")
        self._clock = clock
        self.takes = 0.0
        self.size = 0
        self.measured = 0
        self.fails = False

    def disk_use(self) -> int:
        self.measured += 1
        self._clock.now += self.takes
        if self.fails:
            raise EngineUnavailable("too slow")
        return self.size


@pytest.fixture
def measured(engine: FakeEngine, clock: Clock) -> Measured:
    return Measured(engine, clock)


@pytest.fixture
def watch(measured: Measured, clock: Clock) -> ContainerWatch:
    watch = ContainerWatch(Engine(""), measured, limits=Limits(disk=100), clock=clock)
    watch.is_started = True
    return watch


@pytest.mark.parametrize("fails", [False, True])
def test_a_container_is_measured_for_a_tenth_of_the_time_at_most(
    watch: ContainerWatch, measured: Measured, clock: Clock, engine: FakeEngine, fails: bool
) -> None:
    measured.takes, measured.fails = 2.0, fails
    began = clock.now
    while clock.now < began + 100:
        assert watch.look() is None
        clock.now += 1
    assert 4 <= measured.measured <= 5
    assert engine.asked("GET /containers/c1/json") >= 80, "it is asked for a sign of life instead"


def test_one_that_is_measured_at_once_is_measured_at_every_look(
    watch: ContainerWatch, measured: Measured
) -> None:
    for _ in range(3):
        assert watch.look() is None
    measured.size = 101
    failure = watch.look()
    assert isinstance(failure, BuildFailed) and failure.reason == FailureReason.DISK_LIMIT
    assert measured.measured == 4


def test_what_has_only_just_begun_is_not_disturbed(watch: ContainerWatch, measured: Measured) -> None:
    measured.busy_seconds = 0.5
    measured.size = 101
    assert watch.look() is None
    assert measured.measured == 0
