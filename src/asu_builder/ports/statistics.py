"""What happened, counted."""

from typing import Literal, Protocol

from asu_builder.domain.request import BuildRequest

EventKind = Literal["request", "cache_hit", "completed", "failed"]
TallyBy = Literal[
    "nothing", "version", "target", "profile", "reason", "diff_packages", "version_with_diff_packages"
]
"""With the last one only events with `diff_packages` count."""


class Statistics(Protocol):
    """Events, appended in batches off the request path; none are lost on a clean stop."""

    def flush(self) -> int:
        """Writes what was recorded so far; how many events."""
        ...

    def record(self, kind: str, request: BuildRequest, *, client: str = "", reason: str = "") -> None:
        """Notes one event: `request`, `cache_hit`, `completed` or `failed`."""
        ...
