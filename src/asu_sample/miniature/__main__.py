"""Entry of the Makefile: `python3 -m miniature <goal>` in the ImageBuilder directory, variables in the
environment."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from . import configuration
from .console import GoalFailed, err
from .goals import Goals

_BUILDS = {"manifest", "image", "clean", "package_depends", "package_whatdepends", "package_list"}


def _terminate(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> int:
    """Run one goal; 0 or 2, whatever happened inside."""
    signal.signal(signal.SIGTERM, _terminate)
    directory = Path.cwd()
    configuration.record_dangerous(os.environ, directory)
    goals = Goals(directory, configuration.load(directory), configuration.read_arguments(os.environ))
    goal = sys.argv[1]
    try:
        if goal not in _BUILDS:
            goals.run(goal)
            return 0
        # Two real makes would corrupt each other's root file system; here the second one fails.
        with (directory / ".sample-lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                err("sample: another make is running in this directory")
                return 2
            goals.run(goal)
    except GoalFailed as failure:
        # The outermost `make: ***` line comes from the real make that started us.
        for depth, (line, inner, status) in enumerate(failure.trace):
            err(f"make[{len(failure.trace) - depth}]: *** [Makefile:{line}: {inner}] Error {status}")
        return 2
    except OSError as error:
        err(f"sample: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
