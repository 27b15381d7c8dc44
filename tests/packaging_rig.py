"""Commands of the packaging tests."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(
    *command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 170
) -> "subprocess.CompletedProcess[str]":
    """A command that must succeed; its output is in the failure."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=env, cwd=cwd, timeout=timeout
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done
