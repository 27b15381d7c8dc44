"""What is kept of finished jobs, and what goes."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol

Remove = Callable[[Callable[[], bool]], bool]
"""Takes images away if it is told yes; whether it was."""


class RetentionLedger(Protocol):
    """Finished jobs and the images that belong to them: files and rows go together."""

    def expired(self, *, now: datetime) -> Sequence[str]:
        """Hashes with a final job that is past its time, some hundred at most."""
        ...

    def forget(self, request_hash: str, *, remove: Remove, now: datetime, unexpired: bool = False) -> bool:
        """Deletes the expired (or, if wished, all) final jobs of this hash; whether none is left.

        `remove` takes the images away, and is told how to make sure, when nothing can be published
        any more, that no other job carries the hash. It is called outside of any transaction, because
        a disk may be slow, and before the jobs go; when it raises, they stay. What was asked is kept
        for audit, its `defaults` and keys only as digests.
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

    def forget_requests(self, *, before: datetime, most_bytes: int) -> int:
        """Deletes what was asked for the first time before this, and what is too much beside the newest.

        Requests that a job still carries stay. Some hundred at most; how many. Old acts of operators
        go too.
        """
        ...

    def forget_statistics(self, *, before: datetime, now: datetime) -> int:
        """Deletes statistics events older than this; how many, a few thousand at most.

        Counts of days that lie wholly before it go too, and of days before today those of packages
        that hardly anybody wanted.
        """
        ...
