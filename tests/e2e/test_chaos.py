"""The short run of the chaos suite; `make chaos` is the long one."""

import http.client
import json
import os
import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from chaos.clock import Clock, FaketimeMissing, find_library
from chaos.cluster_faults import IN_A_CLUSTER
from chaos.faults import ON_ONE_HOST
from chaos.ledger import Ledger
from chaos.links import Link, Manner
from chaos.plan import CLUSTER_KINDS, KINDS, Kind, plan
from chaos.run import run
from e2e.canned_server import canned
from e2e.service import Answer
from tools import require_tool, tool_missing

FAULTS, CLUSTER_FAULTS = 40, 20
FIRE_MINUTES = 1.0


def _require_surroundings() -> None:
    require_tool("podman")
    require_tool("registry", "docker-registry", "openssl")


def _require_everything() -> None:
    _require_surroundings()
    try:
        find_library()
    except FaketimeMissing as error:
        tool_missing("faketime", str(error))
    if os.geteuid():
        tool_missing("root", "a small disk is mounted for it")


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_forty_faults_lose_no_request_and_leave_nothing_behind() -> None:
    _require_everything()
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(1_000_000)))
    enough = FAULTS * 3 // 4
    outcome = run(seed=seed, faults=FAULTS, minutes=FIRE_MINUTES, at_least=enough, complete=False)
    sys.stdout.write(f"seed {seed}\n{outcome.text}\n")
    assert outcome.violations == (), f"seed {seed}"
    assert outcome.injected >= enough, f"seed {seed}: only {outcome.injected} faults"


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_cluster_loses_no_request_and_completes_none_twice() -> None:
    _require_surroundings()
    require_tool("postgresql", "setpriv")
    require_tool("s3", str(Path(sys.executable).with_name("weed")))
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(1_000_000)))
    enough = CLUSTER_FAULTS * 3 // 4
    outcome = run(
        seed=seed, faults=CLUSTER_FAULTS, minutes=0.5, at_least=enough, complete=False, cluster=True
    )
    sys.stdout.write(f"seed {seed}\n{outcome.text}\n")
    assert outcome.violations == (), f"seed {seed}"
    assert outcome.injected >= enough, f"seed {seed}: only {outcome.injected} faults"


_TELLS_ITS_CLOCK = """
import threading, time
while True:
    print(time.time(), flush=True)
    threading.Event().wait(0.05)
"""


def test_a_leap_of_the_clock_is_seen_and_costs_no_look_at_a_file_each_time(tmp_path: Path) -> None:
    try:
        clock = Clock(tmp_path)
    except FaketimeMissing as error:
        tool_missing("faketime", str(error))
    assert "FAKETIME_NO_CACHE=1" not in clock.below()
    command = [*clock.below(), sys.executable, "-c", _TELLS_ITS_CLOCK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for hours in (0, 3, -2):
                clock.set(hours * 3600.0)
                assert any(round((float(line) - time.time()) / 3600) == hours for line in process.stdout)
        finally:
            process.kill()


def test_a_plan_follows_from_its_seed() -> None:
    names = [fault.kind.name for fault in plan(7, 60)]
    assert names == [fault.kind.name for fault in plan(7, 60)]
    assert names != [fault.kind.name for fault in plan(8, 60)]


@pytest.mark.parametrize("count", [40, 300])
@pytest.mark.parametrize("kinds", [KINDS, CLUSTER_KINDS])
def test_a_plan_holds_every_kind_of_fault_that_fits_it(count: int, kinds: tuple[Kind, ...]) -> None:
    chosen = plan(1, count, kinds=kinds)
    expected = {kind.name for kind in kinds if count >= 100 or not kind.only_long}
    assert {fault.kind.name for fault in chosen} == expected
    assert len(chosen) == count


def test_every_kind_of_fault_can_be_carried_out() -> None:
    assert ON_ONE_HOST.keys() == {kind.name for kind in KINDS}
    assert IN_A_CLUSTER.keys() == {kind.name for kind in CLUSTER_KINDS}


def test_a_lane_can_be_left_in_peace() -> None:
    expected = {kind.lane for kind in KINDS} - {"clock"}
    assert {fault.kind.lane for fault in plan(1, 60, without=["clock"])} == expected


def _answer(status: int, document: object, **headers: str) -> Answer:
    named = {
        "content-type": "application/json",
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    return Answer(status, named, json.dumps(document).encode())


def _failed(reason: str) -> Answer:
    return _answer(500, {"request_hash": "a" * 64, "reason": reason, "fault": "?", "detail": "?"})


_WAITS = _answer(202, {"request_hash": "a" * 64})
_DONE = _answer(200, {"request_hash": "a" * 64, "images": [{}], "manifest": {"vim": "1"}})


@pytest.mark.parametrize(
    ("later", "is_good", "found"),
    [
        ([_DONE, _DONE], True, ""),
        ([_failed("gave_up")], True, ""),
        ([_failed("world_unavailable")], True, ""),
        ([_failed("impossible_selection")], False, ""),
        ([_failed("impossible_selection")], True, "failed as impossible_selection"),
        ([_failed("deadline")], True, "failed as deadline"),
        ([_failed("internal")], True, "failed as internal"),
        ([_DONE], False, "cannot be built is done"),
        ([_answer(200, {"images": [], "manifest": {"vim": "1"}})], True, "without images"),
        ([_answer(404, {})], True, "lost"),
        ([_DONE, _WAITS], True, "final as done and is now answered with 202"),
        ([_failed("gave_up"), _DONE], True, "final as gave_up and is now done"),
    ],
)
def test_the_ledger_finds_what_must_not_be_answered(later: list[Answer], is_good: bool, found: str) -> None:
    ledger = Ledger()
    asked = ledger.accepted({}, _WAITS, is_good=is_good)
    assert asked is not None
    for answer in later:
        ledger.seen(asked, answer)
    assert len(ledger.violations) == bool(found)
    assert found in "".join(ledger.violations)


def test_the_ledger_knows_that_a_refusal_is_kept_by_one_process() -> None:
    ledger = Ledger()
    asked = ledger.accepted({}, _failed("impossible_selection"), is_good=False)
    assert asked is not None
    ledger.seen(asked, _answer(404, {}))
    assert ledger.violations == []
    ledger.seen(asked, _failed("deadline"))
    assert len(ledger.violations) == 1


@pytest.mark.parametrize(
    ("answer", "is_wrong"),
    [
        (_failed("deadline"), False),
        (_answer(503, {"detail": "?"}, retry_after="5"), False),
        (_answer(503, {"detail": "?"}), True),
        (_answer(503, {"detail": "?"}, retry_after="5", content_type="text/plain"), True),
        (_answer(500, {"detail": "Internal Server Error"}), True),
        (_answer(502, {"reason": "?"}), True),
    ],
)
def test_the_ledger_finds_server_errors_that_are_not_meant(answer: Answer, is_wrong: bool) -> None:
    ledger = Ledger()
    ledger.note("/api/v1/build", answer)
    assert len(ledger.violations) == is_wrong


@pytest.mark.parametrize(
    ("manner", "expected"),
    [
        ("fine", b"x" * 1000),
        ("slow", b"x" * 1000),
        ("truncated", http.client.IncompleteRead),
        ("dead", OSError),
        ("hanging", TimeoutError),
        ("broken", b"broken\n"),
        ("busy", b"<Error><Code>SlowDown</Code></Error>     "),
        ("held", TimeoutError),
    ],
)
def test_a_link_has_the_manners_it_is_told(manner: Manner, expected: object) -> None:
    with canned() as behind:
        behind.text = b"x" * 1000
        with Link(behind.server_address[1]) as link:
            link.truncate_after = 500
            link.become(manner)
            if isinstance(expected, bytes):
                assert _fetch(link.port) == expected
            else:
                assert isinstance(expected, type)
                with pytest.raises(expected):
                    _fetch(link.port, timeout=1 if manner in ("hanging", "held") else 60)
            link.become("fine")
            assert _fetch(link.port) == b"x" * 1000, "healed"


def test_a_link_that_is_held_cuts_nothing() -> None:
    with canned() as behind:
        behind.text = b"x" * 1000
        with Link(behind.server_address[1]) as link:
            connection = http.client.HTTPConnection("127.0.0.1", link.port, timeout=60)
            with closing(connection):
                link.become("held")
                connection.request("GET", "/")
                assert connection.sock is not None
                connection.sock.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    connection.sock.recv(1)
                link.become("fine")
                connection.sock.settimeout(60)
                with connection.getresponse() as answer:
                    assert answer.read() == behind.text


def _fetch(port: int, *, timeout: float = 60) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request("GET", "/")
        with connection.getresponse() as answer:
            return answer.read()
