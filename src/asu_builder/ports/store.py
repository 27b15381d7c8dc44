"""Where published images lie."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from asu_builder.domain.check_result import CheckResult


class Store(Protocol):
    """Published images: one directory per request hash, never rewritten."""

    def publish(self, request_hash: str, scratch: Path) -> int:
        """Makes a scratch directory the published one: synced, in one step; its size in bytes.

        Only the holder of the job's lease may call this: then a directory of that name belongs
        to no completed job (expired, or left by a crash before *completed*) and is taken away.
        """
        ...

    def scratch(self) -> AbstractContextManager[Path]:
        """A fresh directory on the store's own file system, gone afterwards if not published.

        Raises as `require_root` does.
        """
        ...

    def locate(self, request_hash: str, name: str) -> Path | None:
        """The published plain file, or None; never anything outside the store."""
        ...

    def holds(self, request_hash: str) -> bool:
        """Whether this hash is published."""
        ...

    def owns(self, request_hash: str) -> bool:
        """Whether this installation has published it; what another has put there is not ours to touch."""
        ...

    def hold(self, request_hash: str) -> AbstractContextManager[None]:
        """Keeps every process from removing the directory, for the time of a download."""
        ...

    def remove(self, request_hash: str, *, confirm: Callable[[], bool] = ...) -> bool:
        """Takes a published directory away, and is done too if there is none.

        `confirm` is asked last, while nothing can be published, and must not wait; unless it says yes,
        nothing is taken and False is the answer. Raises `StillRead` while it is held, and as
        `require_root` does.
        """
        ...

    def published(self) -> Iterable[str]:
        """The names in the store that are hashes, in no order, of any installation."""
        ...

    def require_root(self) -> None:
        """Passes where this is the store that results were put into; else raises `StoreUnavailable`.

        To be asked before anything is called lost: a disk that is not mounted leaves an empty directory.
        """
        ...

    def missing(self) -> str:
        """Why this is not the store that results were put into, as last seen; "" while it is.

        Looks at no disk, so it may be asked for each answer.
        """
        ...

    def adopt(self) -> None:
        """Takes this for the store from now on, whatever lies in it; the operator has decided so."""
        ...

    def room(self) -> int:
        """Bytes of free disk above the floor; without any, new builds are not taken.

        Raises `StoreUnavailable` where the disk cannot be asked, which does not mean that it is full.
        """
        ...

    def sweep(self) -> int:
        """Removes scratch directories that no living process holds; how many."""
        ...

    def check(self) -> CheckResult:
        """Whether images can be written now."""
        ...
