"""The operator's hand on a server, over HTTP; it needs a token with the rights `read` and `operate`."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec

from asu_builder.client.server import Server
from asu_builder.domain.errors import BuildNotFound
from asu_builder.ports import JobFilter


class ServerOperator:
    """Everything raises what the server refuses with, in our words."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def jobs(self, wanted: JobFilter) -> Sequence[dict[str, Any]]:
        """Jobs, newest first, as the interface tells them."""
        asked = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value}
        return list(self._server.fetch("GET", f"/api/v1/jobs?{urlencode(asked)}").document["jobs"])

    def show(self, request_hash: str) -> Any:
        """The newest job of a hash and what a poll of it answers. Raises `BuildNotFound`."""
        found = self.jobs(JobFilter(request_hash=request_hash, limit=1))
        if not found:
            raise BuildNotFound("There is no job under this hash.")
        build = self._server.ask("GET", f"/api/v1/build/{request_hash}").document
        return {**found[0], "build": build}

    def cancel(self, request_hash: str) -> None:
        """Ends the live job of this hash. Raises `BuildNotFound` or `Conflict`."""
        self._server.fetch("DELETE", f"/api/v1/build/{request_hash}")

    def requeue(self, request_hash: str) -> None:
        """Builds once more what has ended, or gives a running build back to the queue."""
        self._server.fetch("POST", f"/api/v1/jobs/{request_hash}/requeue")

    def purge(self, request_hash: str) -> None:
        """Forgets a result or a failure now, with its images."""
        self._server.fetch("DELETE", f"/api/v1/results/{request_hash}")

    def pause(self) -> None:
        """Lets no worker claim a job."""
        self._server.fetch("POST", "/api/v1/workers/pause")

    def resume(self) -> None:
        """Lets workers claim jobs again."""
        self._server.fetch("POST", "/api/v1/workers/resume")

    def acts(self, limit: int) -> Sequence[dict[str, Any]]:
        """What operators did, newest first."""
        return list(self._server.fetch("GET", f"/api/v1/acts?limit={limit}").document["acts"])
