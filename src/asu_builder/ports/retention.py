"""What is kept of finished jobs, and what goes."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol


class RetentionLedger(Protocol):
    """Finished jobs and the images that belong to them: files and rows go together."""

    def expired(self, *, now: datetime) -> Sequence[str]:
        """Hashes with a final job that is past its time, some hundred at most."""
        ...

    def forget(
        self, request_hash: str, *, remove: Callable[[], None], now: datetime, unexpired: bool = False
    ) -> bool:
        """Deletes the expired (or, if wished, all) final jobs of this hash; whether none is left.

        `remove` takes the images away; it is called when no other job carries the hash, in the
        same transaction, so that nobody can complete a job for it in between; when it raises, the
        jobs stay. What was asked is kept for audit, its `defaults` and keys only as digests.
        """
        ...

    def unknown(self, request_hashes: Sequence[str]) -> Sequence[str]:
        """Those that no job carries, in the same order."""
        ...

    def completed(self) -> Iterable[str]:
        """Hashes of every completed job, read while they are asked for."""
        ...

    def stored_bytes(self) -> int:
        """What the images of all completed jobs take together."""
        ...

    def least_used(self, *, used_before: datetime) -> Sequence[tuple[str, int]]:
        """Completed hashes that nobody has used since, longest unused first, with their bytes."""
        ...

    def forget_statistics(self, *, before: datetime, now: datetime) -> int:
        """Deletes statistics events older than this; how many, a few thousand at most.

        Counts of days that lie wholly before it go too, and of days before today those of packages
        that hardly anybody wanted.
        """
        ...
