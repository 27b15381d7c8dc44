"""What all tests share: the run's folder, which tests run when, and who may run beside whom."""

import faulthandler
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from database_clock import CLOCK
from factories import NOON
from run_folder import RunFolder, base_folders

pytest_plugins = ["podman_service"]

TESTS = Path(__file__).parent
_RUN_FOLDER = pytest.StashKey[RunFolder]()
_LEFT_OUT = pytest.StashKey[dict[str, int]]()
_WHY = {
    "long": "takes minutes: `make test-long`",
    "timed": "compares durations and runs alone: `make test`",
    "process": "starts processes: `make test`",
    "waits": "waits for time to pass: `make test`",
}
_STDERR = 2
_HANG_SECONDS = 120
"""How much longer than its time a test may take before its whole worker is ended."""
_ORDER = ("browser", "e2e", "packaging", "integration", "contract", "project", "unit")
"""The slow folders first, so that no worker begins something long when the others have ended."""

settings.register_profile("usual", max_examples=50, deadline=None)
settings.register_profile("long", max_examples=400, deadline=None)
settings.load_profile("usual")


def pytest_configure(config: pytest.Config) -> None:
    """Makes the run's folder, which the workers of the run inherit as `TMPDIR`."""
    if not hasattr(config, "workerinput"):
        config.stash[_RUN_FOLDER] = RunFolder(*base_folders())
        # Shorter than pytest's own choice: sockets lie in it.
        config.option.basetemp = config.option.basetemp or config.stash[_RUN_FOLDER].path / "t"
    config.stash[_LEFT_OUT] = {}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Ends what tests have left; the files of a failed run stay until the next one begins."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash[_LEFT_OUT]
    elif (folder := session.config.stash.get(_RUN_FOLDER, None)) is not None:
        folder.close(keep=exitstatus == pytest.ExitCode.TESTS_FAILED)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Counts what the command leaves out, by the mark that says why."""
    reasons = [next((mark for mark in _WHY if item.get_closest_marker(mark)), "usual") for item in items]
    if items:
        items[0].config.stash[_LEFT_OUT].update(Counter(reasons))


@pytest.fixture(autouse=True)
def database_clock() -> None:
    """Each test finds the database's clock at noon."""
    CLOCK.moment = NOON


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """All workers collect the same tests: any of them knows what was left out."""
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what was left out, and which command runs it."""
    for reason, count in sorted(config.stash[_LEFT_OUT].items()):
        terminalreporter.write_line(f"left out: {count} tests, {_WHY.get(reason, 'run by `make test`')}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Ends the worker, with the stacks of all threads, when not even pytest-timeout can end a test.

    pytest-timeout runs between two steps of the interpreter, so it does not end what never comes back
    from a call of the C library. The other workers go on, and a new one takes the place.
    """
    marker = item.get_closest_marker("timeout")
    seconds = float(marker.args[0] if marker and marker.args else item.config.getini("timeout") or 0)
    if seconds:
        faulthandler.dump_traceback_later(seconds + _HANG_SECONDS, exit=True, file=_STDERR)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long folders come first."""
    items.sort(key=lambda item: _ORDER.index(folder) if (folder := _folder_of(item)) in _ORDER else -1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that share something started go to one worker, in the order of collection."""
    from groups import GroupScheduling

    config.option.loadscopereorder = False
    return GroupScheduling(config, log)


def _folder_of(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).parts[0]
