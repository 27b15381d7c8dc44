"""What must hold at the end, when everything is healed and the queue is empty."""

import json
import re
from collections import Counter

from chaos.server_faults import bring_up, stop
from chaos.traffic import Line, Traffic
from chaos.world import World
from factories import eventually

_TIDY_SECONDS = 120.0
_LOG_LIMIT = 5
_BAD_LINES = re.compile(
    r"^.*(?:Traceback \(most recent|database is locked|\bERROR\b|\bCRITICAL\b).*$", re.MULTILINE
)


def check_everything(world: World, traffic: Traffic) -> None:
    """Writes what does not hold to the ledger. The server is restarted once, which makes it tidy up."""
    _check_drained(world)
    _check_results(world, traffic)
    with world.servers.disturbed():
        again = world.servers.start_again()
        for server in world.servers.every:
            if server.is_running:
                stop(world, server)
        for server in again:
            bring_up(world, server)
    _check_left_behind(world)
    _check_once(world)
    _check_log(world)


def _check_drained(world: World) -> None:
    for asked in world.ledger.live():
        row = world.servers.current.rows(
            "SELECT state, stage, attempts, retries, worker, not_before - enqueued_at FROM build_jobs "
            f"WHERE request_hash = '{asked.request_hash}' ORDER BY id DESC LIMIT 1"
        )
        world.ledger.violation(f"{asked.request_hash[:12]} has no final answer; its job: {row}")
    left = world.servers.current.rows(
        "SELECT count(*) FROM build_jobs WHERE state IN ('pending', 'building')"
    )
    if left != [(0,)] and not world.ledger.live():
        world.ledger.violation(f"{left[0][0]} jobs are still live, though nobody waits for one")


def _check_results(world: World, traffic: Traffic) -> None:
    line = Line()
    for asked in world.ledger.all():
        answer = traffic.ask(line, "GET", f"/api/v1/build/{asked.request_hash}")
        if answer is None:
            world.ledger.violation(f"{asked.request_hash[:12]}: no answer at the end")
            continue
        world.ledger.seen(asked, answer)
        if asked.outcome == "done":
            traffic.download(line, asked)
            now = world.servers.publication(asked.request_hash)
            if asked.publication is not None and now != asked.publication:
                world.ledger.violation(f"{asked.request_hash[:12]} was published again after it was done")
    line.close()


def _check_left_behind(world: World) -> None:
    """Files and rows go together; no container, no scratch directory."""
    servers, server, ledger = world.servers, world.servers.current, world.ledger
    query = "SELECT DISTINCT request_hash FROM build_jobs WHERE state = 'completed'"

    def orphans() -> set[str]:
        return servers.published() - {name for (name,) in server.rows(query)}

    def tidy() -> bool:
        return not (servers.leftovers() or orphans() or _containers(world))

    if not eventually(tidy, seconds=_TIDY_SECONDS):
        for what, found in (
            ("scratch directories", servers.leftovers()),
            ("published directories without a completed job", sorted(orphans())),
            ("containers", _containers(world)),
        ):
            if found:
                ledger.violation(f"{len(found)} {what} left behind, such as {found[0]}")
    missing = {name for (name,) in server.rows(query)} - servers.published()
    if missing:
        ledger.violation(f"{len(missing)} completed jobs without files, such as {min(missing)}")


def _containers(world: World) -> list[str]:
    try:
        return world.around.engine.containers(world.servers.installation())
    except OSError:
        return ["(the engine does not answer)"]


def _check_once(world: World) -> None:
    server, ledger = world.servers.current, world.ledger
    completed = server.rows("SELECT request_hash FROM build_jobs WHERE state = 'completed'")
    twice = [name for (name,), count in Counter(completed).items() if count > 1]
    if twice:
        ledger.violation(f"{len(twice)} hashes were completed more than once, such as {twice[0]}")
    results = server.rows(
        "SELECT count(*) FROM build_results JOIN build_jobs ON id = job_id "
        "WHERE completed != (state = 'completed')"
    )
    if results != [(0,)]:
        ledger.violation(f"{results[0][0]} results do not fit their job's state")
    ((events,),) = server.rows("SELECT count(*) FROM build_stats WHERE kind = 'completed'")
    if events > len(completed):
        ledger.violation(f"{events} completions are counted for {len(completed)} completed jobs")
    for number, detail in _excessive(world):
        ledger.violation(f"job {number} had {detail} attempts")


def _excessive(world: World) -> list[tuple[int, int]]:
    return [
        (int(number), int(attempts))
        for number, attempts in world.servers.current.rows(
            "SELECT id, attempts FROM build_jobs WHERE attempts > 3"
        )
    ]


def _check_log(world: World) -> None:
    printed = world.servers.printed()
    found = Counter(
        re.sub(r"[0-9a-f]{64}|\d+", "…", match[0])
        for match in _BAD_LINES.finditer(printed)
        if not world.is_meant(match[0])
    )
    for line, count in found.most_common(_LOG_LIMIT):
        world.ledger.violation(f"in the log, {count} times: {line[:300]}")
    if "Traceback" in printed:
        end = printed.index("Traceback")
        world.ledger.violation(f"first traceback: {json.dumps(printed[end : end + 3000])}")
