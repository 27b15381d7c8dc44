"""`make bench` measures every row of its table of budgets, each beside its yardstick."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import require_tool

ROOT = Path(__file__).resolve().parents[2]
RATIOS = (
    "finished status, GET, CPU",
    "1225 clients, 2000 finished in turn, CPU a poll",
    "1225 clients, 200 waiting in turn, CPU a poll",
    "repeated POST, finished result, CPU",
    "/api/v1/stats, CPU",
    "unknown hash, one client, CPU",
    "enqueue, 1 connection, 20 packages, 0 finished jobs, CPU",
    "enqueue, 16 connections, 20 packages, 0 finished jobs, CPU",
    "position of the last of 200, CPU",
    "position of the last of 2,000, CPU",
    "position of the last of 20,000, CPU",
    "exec to first answer, CPU",
    "10 MB image, CPU a MB",
    "10 MB image in parts of 1 MB, CPU a MB",
)
VALUES = (
    "finished in the database, told to the poller",
    "memory of an idle WebSocket, one build",
    "memory of an idle server-sent events, one build",
    "5 s after a start, 500 results kept, CPU",
    "5 s after a start, 500 results kept, memory at most",
    "start after an hour's downtime, wall",
)

CLUSTER = (
    *(f"{step}, {count} sessions" for step in ("enqueue", "claim") for count in (1, 8, 64)),
    *(f"{step}, 8 sessions, 500 finished jobs" for step in ("enqueue", "claim")),
    "finished status on PostgreSQL, GET, CPU",
    *(f"stub builds, {count} worker processes of 4" for count in (1, 2, 4)),
    "accepted by one process, taken by another, p50",
    "accepted by one process, taken by another, p99",
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


def test_one_quick_round_measures_a_cluster() -> None:
    require_tool("postgresql", "setpriv")
    run = subprocess.run(
        [sys.executable, "-m", "bench", "cluster", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    lines = {line[:58].rstrip(): line[58:].split() for line in run.stdout.splitlines()}
    for name in CLUSTER:
        assert float(lines[name][1]) > 0, name


def test_one_quick_round_measures_every_row() -> None:
    require_tool("nginx")
    run = subprocess.run(
        [sys.executable, "-m", "bench", "--quick"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    lines = {line[:58].rstrip(): line[58:].split() for line in run.stdout.splitlines()}
    for name in (*RATIOS, *VALUES):
        numbers = lines[name]
        assert numbers[4] == "≤", name
        assert (numbers[3] == "×") is (name in RATIOS), name
        assert 0 < float(numbers[0]) <= float(numbers[1]) <= float(numbers[2]), name
