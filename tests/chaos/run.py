"""One run: a world, its clients, the faults, the checks, the counts."""

import argparse
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import FrameType

from chaos.checks import check_everything
from chaos.clock import FaketimeMissing
from chaos.cluster import open_cluster
from chaos.cluster_faults import IN_A_CLUSTER
from chaos.faults import ON_ONE_HOST, Injection
from chaos.plan import CLUSTER_KINDS, KINDS, LANES, SHORT, Fault, lanes, plan
from chaos.report import render
from chaos.traffic import Traffic
from chaos.world import VERSIONS, NotRoot, World, open_world

_DRAIN_SECONDS = 300.0
"""How long the queue may go without a final answer before it is empty."""
_JOB_TIMEOUT, _LONG_JOB_TIMEOUT = 900, 60
"""Seconds a build may take. In a long run an engine hangs for longer than that; in a short one none does."""
_INJECTED_AT_LEAST = 0.95
_LONGER = 5
"""How many times the minutes a run may last until enough faults were injected."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run went: its counts as text, and everything that must not have happened."""

    text: str
    violations: Sequence[str]
    injected: int


def run(
    *,
    seed: int,
    faults: int,
    minutes: float,
    at_least: int = 0,
    without: Sequence[str] = (),
    complete: bool = True,
    cluster: bool = False,
) -> Outcome:
    """Injects `faults` faults chosen by `seed`, for at most `minutes`, then heals, drains and checks.

    A slow machine is given longer, until `at_least` so many were injected.

    Lanes named in `without` are left in peace, to find out what a violation comes from.
    With `complete`, a plan that could not be carried out in time is a violation too. A `cluster` is many
    processes on a database server and object storage; else there is one server.
    """
    chosen = plan(seed, faults, kinds=CLUSTER_KINDS if cluster else KINDS, without=without)
    timeout = _LONG_JOB_TIMEOUT if faults >= SHORT and not cluster else _JOB_TIMEOUT
    opened: AbstractContextManager[World]
    opened = open_cluster(job_timeout=timeout) if cluster else open_world(job_timeout=timeout)
    inject = IN_A_CLUSTER if cluster else ON_ONE_HOST
    with opened as world:
        injection = Injection(world, lanes(chosen), inject)
        return _run(
            world, injection, chosen, seed=seed, minutes=minutes, at_least=at_least, complete=complete
        )


def _run(
    world: World,
    injection: Injection,
    faults: Sequence[Fault],
    *,
    seed: int,
    minutes: float,
    at_least: int,
    complete: bool,
) -> Outcome:
    begun = monotonic()
    traffic = Traffic(world.servers, world.ledger, seed=seed, versions=VERSIONS)
    traffic.start()
    try:
        world.ledger.wait_for_progress(seconds=30)
        injection.run(seconds=60 * minutes, at_least=at_least, longest=60 * minutes * _LONGER)
        under_fire = monotonic() - begun
        traffic.drain(seconds=_DRAIN_SECONDS)
        drained = monotonic() - begun
    finally:
        traffic.finish()
    injected = sum(injection.injected.values())
    # A few find nothing to break at their moment.
    if complete and injected < _INJECTED_AT_LEAST * len(faults):
        missed = ", ".join(f"{name} {count}" for name, count in injection.missed.items())
        world.ledger.violation(
            f"only {injected} of {len(faults)} faults were injected; missed: {missed or 'none'}"
        )
    check_everything(world, traffic)
    text = render(world, injection, seconds=(under_fire, drained, monotonic() - begun))
    if world.ledger.violations:
        kept = Path(tempfile.gettempdir(), f"chaos-{seed}.log")
        kept.write_text("\n".join([*sorted(injection.timeline), "", world.servers.printed()]))
        text += f"\nWhen the faults came and what the server logged: {kept}"
    return Outcome(text, tuple(world.ledger.violations), injected)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when nothing was violated, 1 when something was, 2 when it cannot run here."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="chooses the faults")
    parser.add_argument("--faults", type=int, default=300, help="how many, 300 by default")
    parser.add_argument("--minutes", type=float, default=20.0, help="no fault begins later, 20 by default")
    parser.add_argument("--cluster", action="store_true", help="many processes on PostgreSQL and S3")
    parser.add_argument("--without", nargs="*", default=[], choices=LANES, help="lanes to leave in peace")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    _say(f"seed {chosen.seed}, {chosen.faults} faults, at most {chosen.minutes:g} minutes")
    try:
        outcome = run(
            seed=chosen.seed,
            faults=chosen.faults,
            minutes=chosen.minutes,
            without=chosen.without,
            cluster=chosen.cluster,
        )
    except (NotRoot, FaketimeMissing) as error:
        _say(str(error))
        return 2
    except KeyboardInterrupt:
        _say("Interrupted; everything was taken away.")
        return 130
    _say(outcome.text)
    return 1 if outcome.violations else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
