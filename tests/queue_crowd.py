"""Many threads that use one queue at once: submitters, workers, keepers, operators; and what they saw.

A process of its own: `python -m queue_crowd PLACE IMAGES NAME SEED STEPS BEGAN` prints its history, one
event in JSON a line. Chance decides what each thread does; how they meet is the machine's affair.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

from asu_builder.core.housekeeping import delete_with_files
from asu_builder.database.operator import SqlOperations
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.domain.errors import FailureReason, LeaseLost, QueueFull, StillRead
from asu_builder.domain.job import IdlePolicy, JobFilter, Lease, Priority, Retention, Stage
from asu_builder.files import locked
from factories import NOON, a_failure, a_result, a_submission
from postgresql import opened

HASHES = 12
PACE = 20
"""How many seconds of the queue pass in one of ours: leases lapse while the test runs."""
LEASE = timedelta(seconds=2)
KEEP = timedelta(seconds=1)
PATIENCE = IdlePolicy(deprioritized_after=timedelta(seconds=1), expires_after=timedelta(seconds=3))


@dataclass(frozen=True)
class Event:
    """One call: from and to when (the machine's nanoseconds), about which job, whether it took effect."""

    began: int
    ended: int
    act: str
    job: int = 0
    token: int = 0
    taken: bool = True


REQUESTS = tuple(a_submission(packages=(f"p{number}",)) for number in range(HASHES))


class QueueSummary:
    """The threads of one process. `images` is a directory in which a file per hash stands for its images."""

    def __init__(self, place: str, images: Path, name: str, *, seed: int, began: float) -> None:
        """`place` is the database's path or address; at `began`, by `time.monotonic`, all crowds begin."""
        self._began = began
        self._database = opened(place, clock=self._now)
        self._queue = SqlJobQueue(self._database)
        self._retention = SqlRetention(self._database)
        self._operations = SqlOperations(self._database)
        self._images = images
        self._name = name
        self._seed = seed
        self._history: list[Event] = []
        self._lost: list[tuple[Lease, str]] = []

    def run(self, steps: int) -> Sequence[Event]:
        """Lets every thread take so many steps; what happened. Raises what any of them was not to meet."""
        parts = [self._submit, self._submit, self._work, self._work, self._work, self._keep, self._operate]
        failures: list[BaseException] = []
        threads = [
            threading.Thread(target=self._play, args=(part, number, steps, failures))
            for number, part in enumerate([*parts, self._poll])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._database.close()
        if failures:
            raise failures[0]
        return self._history

    def _play(
        self, part: Callable[[Random, int], None], number: int, steps: int, failures: list[BaseException]
    ) -> None:
        chance = Random(f"{self._seed} {self._name} {number}")
        try:
            for _ in range(steps):
                part(chance, number)
                time.sleep(chance.choice((0, 0, 0.001, 0.004)))
        except BaseException as failure:  # noqa: BLE001 - raised again where all have ended
            failures.append(failure)

    def _now(self) -> datetime:
        return NOON + (time.monotonic() - self._began) * PACE * timedelta(seconds=1)

    def _note(self, act: str, call: Callable[[], object], *, job: int = 0, token: int = 0) -> bool:
        """Whether the call took effect, after noting it."""
        began = time.monotonic_ns()
        try:
            taken = call() is not False
        except (LeaseLost, StillRead):
            taken = False
        self._history.append(Event(began, time.monotonic_ns(), act, job, token, taken))
        return taken

    def _note_jobs(self, act: str, jobs: Sequence[int], began: int) -> None:
        self._history.extend(Event(began, time.monotonic_ns(), act, job) for job in jobs)

    def _submit(self, chance: Random, _: int) -> None:
        which = chance.randrange(HASHES)
        caller, priority = chance.choice("abc"), chance.choice(list(Priority))
        submission = a_submission(packages=(f"p{which}",), caller=caller, priority=priority)
        began = time.monotonic_ns()
        try:
            entry = self._queue.submit(submission, max_pending=HASHES // 2)
        except QueueFull:
            return
        self._note_jobs("created" if entry.created else "joined", [entry.job.id], began)

    def _work(self, chance: Random, number: int) -> None:
        if self._lost and chance.random() < 0.05:
            self._write(chance, *chance.choice(self._lost[-5:]))
        began = time.monotonic_ns()
        claimed = self._queue.claim(f"{self._name}/{number}", lease_for=LEASE)
        if claimed is None:
            return
        job, lease = claimed
        self._history.append(Event(began, time.monotonic_ns(), "claim", job.id, lease.token))
        stage = chance.choice(list(Stage))
        self._note("advance", lambda: self._queue.advance(lease, stage), job=job.id, token=lease.token)
        if chance.random() < 0.2:
            self._lost.append((lease, job.request_hash))  # never heard of again, or much later
            return
        while self._write(chance, lease, job.request_hash):
            pass
        if chance.random() < 0.3:
            self._write(chance, lease, job.request_hash)

    def _write(self, chance: Random, lease: Lease, request_hash: str) -> bool:
        """One write under the lease; whether it still held and the build goes on."""
        queue = self._queue
        act = chance.choice(["renew", "complete", "complete", "fail", "release"])
        reason = chance.choice([FailureReason.MAKE_FAILED, FailureReason.WORLD_UNAVAILABLE])

        def write() -> None:
            if act == "renew":
                queue.renew(lease, lease_for=LEASE)
            elif act == "release":
                retry = chance.choice(["", "Error: it is down"])
                queue.release(lease, delay=KEEP / 4, retry=retry)
            elif act == "fail":
                queue.finish(lease, a_failure(reason), Retention(KEEP, KEEP))
            else:
                # Images are published before the job is completed; meanwhile nobody may take them away.
                with locked(self._images):
                    (self._images / request_hash).touch()
                time.sleep(0.003)
                queue.finish(lease, a_result(stored_bytes=1), Retention(KEEP))

        return self._note(act, write, job=lease.job_id, token=lease.token) and act == "renew"

    def _keep(self, chance: Random, _: int) -> None:
        began = time.monotonic_ns()
        found = self._queue.recover(failure_ttl=KEEP)
        self._note_jobs("returned", [0] * found.returned, began)
        self._note_jobs("gave up", [job.id for job in found.gave_up], began)
        began = time.monotonic_ns()
        gone = self._queue.expire_abandoned(PATIENCE, failure_ttl=KEEP)
        self._note_jobs("expired", [job.id for job in gone], began)
        for request_hash in self._retention.expired():
            self._forget(chance, request_hash, unexpired=False)
        for request_hash, _size in self._retention.least_used(unused_for=KEEP / 2)[:1]:
            self._forget(chance, request_hash, unexpired=True)

    def _forget(self, chance: Random, request_hash: str, *, unexpired: bool) -> None:
        read = chance.random() < 0.2

        def remove(confirm: Callable[[], bool]) -> bool:
            if read:
                raise StillRead
            with locked(self._images):
                if confirm():
                    (self._images / request_hash).unlink(missing_ok=True)
                    return True
                return False

        self._note(
            "forget",
            lambda: delete_with_files(self._retention, request_hash, remove=remove, unexpired=unexpired),
        )

    def _operate(self, chance: Random, _: int) -> None:
        act = chance.choice(["cancel", "give back", "purge", "requeue", "pause", *["nothing"] * 20])
        jobs = self._operations.jobs(JobFilter(limit=5))
        if not jobs:
            return
        job = chance.choice(jobs)
        if act == "cancel":
            self._note(act, lambda: self._queue.cancel(job.id, failure_ttl=KEEP), job=job.id)
        elif act == "give back":
            self._note(act, lambda: self._operations.give_back(job.id), job=job.id)
        elif act == "purge":
            self._operations.purge(job.request_hash)
        elif act == "requeue":
            began = time.monotonic_ns()
            anew = self._operations.requeue(job.request_hash)
            self._note_jobs("created", [anew.id] if anew else [], began)
        elif act == "pause":
            self._operations.pause(self._name)
            self._operations.resume()

    def _poll(self, chance: Random, _: int) -> None:
        hashes = [request.request_hash for request in REQUESTS]
        self._queue.touch(chance.sample(hashes, 2))
        job = self._queue.find(chance.choice(hashes))
        if job is not None:
            self._queue.position(job.id)


def main(place: str, images: str, name: str, *numbers: str) -> None:
    """Runs one crowd and prints its history."""
    seed, steps, began = int(numbers[0]), int(numbers[1]), float(numbers[2])
    history = QueueSummary(place, Path(images), name, seed=seed, began=began).run(steps)
    sys.stdout.writelines(f"{json.dumps(asdict(event))}\n" for event in history)


if __name__ == "__main__":
    main(*sys.argv[1:])
