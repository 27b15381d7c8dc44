"""`asu-builder doctor` as somebody types it: a process, its answer, and what it left behind."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from e2e.forked import run_forked

BUSY_MACHINE = 120.0
"""Seconds for what a machine at rest does in less than twenty."""
OTHER_USER = 1234
"""An id without an entry anywhere."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one run has said."""

    status: int
    checks: Mapping[str, Mapping[str, str]]
    seconds: float

    def __getitem__(self, name: str) -> Mapping[str, str]:
        return self.checks[name]

    @property
    def errors(self) -> set[str]:
        """The names of what does not work."""
        return self._with("error")

    @property
    def warnings(self) -> set[str]:
        """The names of what could be better."""
        return self._with("warning")

    def _with(self, status: str) -> set[str]:
        return {name for name, check in self.checks.items() if check["status"] == status}


@dataclass
class Patient:
    """An installation to be looked at, with its directory and settings."""

    directory: Path
    settings: dict[str, object]
    below: Sequence[str] = ()
    """A command that runs the doctor's command."""
    environment: dict[str, str] = field(default_factory=dict)

    def examine(self, *options: str, build: bool = False) -> Report:
        """One run; nothing may be changed by it."""
        before = self._tree()
        report = self._report(*options, *([] if build else ["--no-build"]))
        assert self._tree() == before
        return report

    def examine_beside(self, *options: str) -> Report:
        """One run beside a service, which changes its files itself."""
        return self._report(*options, "--no-build")

    def _report(self, *options: str) -> Report:
        began = monotonic()
        done = self.run("--json", *options)
        seconds = monotonic() - began
        assert done.stderr == "", done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        checks = {check["name"]: check for check in document["checks"]}
        assert document["healthy"] is (done.returncode == 0), done.stdout
        for check in checks.values():
            assert check["sentence"], check
            assert check["status"] == "ok" or check["remedy"], check
        return Report(done.returncode, checks, seconds)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """One run as it is."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ASU_")}
        environment |= {f"ASU_{name.upper()}": str(value) for name, value in self.settings.items()}
        # No container engine of this machine, no settings of this user.
        environment["HOME"] = environment["XDG_RUNTIME_DIR"] = str(self.directory)
        environment |= self.environment
        environment.pop("CONTAINER_HOST", None)
        if not self.below and "PYTHONIOENCODING" not in environment:
            return run_forked(
                "asu_builder",
                "doctor",
                *arguments,
                environment=environment,
                directory=self.directory,
                seconds=150,
            )
        command = [*self.below, sys.executable, "-m", "asu_builder", "doctor", *arguments]
        return subprocess.run(
            command,
            env=environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    def _tree(self) -> dict[str, tuple[int, int]]:
        """Every file with its size and time of change."""
        seen = {}
        for path in self.directory.rglob("*"):
            facts = path.lstat()
            seen[str(path)] = (facts.st_size, facts.st_mtime_ns)
        return seen


def as_other_user(*options: str) -> list[str]:
    """What stands before a command that is to be another user, without any right of root's."""
    number = str(OTHER_USER)
    return ["bwrap", "--unshare-user", "--uid", number, "--gid", number, "--dev-bind", "/", "/", *options]
