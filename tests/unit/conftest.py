"""Unit tests start no process, so that `make test-fast` is fast: what must is marked `process`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_builder.database.connection import Database

_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"})
_unmarked: list[str] = []
"""The test that runs now, unless it may start processes."""


def _refuse(event: str, _: object) -> None:
    if event in _STARTS and _unmarked:
        raise RuntimeError(f"{_unmarked[0]} starts a process ({event}): mark it with `process`.")


# Never removed, as the interpreter has no way to: it does nothing between tests.
sys.addaudithook(_refuse)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "a.db")
    yield opened
    opened.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Watches the fixtures of each unmarked test."""
    yield from _watched(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Watches each unmarked test; not its end, which may be that of fixtures other folders have used."""
    yield from _watched(item)


def _watched(item: pytest.Item) -> Iterator[None]:
    if Path(__file__).parent in item.path.parents and item.get_closest_marker("process") is None:
        _unmarked.append(item.nodeid)
    try:
        yield
    finally:
        _unmarked.clear()
