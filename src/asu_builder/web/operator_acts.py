"""What an operator does, by the HTTP interface or by a form: the right, the act, what is forgotten."""

from collections.abc import Callable

from asu_builder.domain.access import Asker, Right
from asu_builder.domain.errors import BuildNotFound
from asu_builder.services.operator import Operator
from asu_builder.web.builds import is_request_hash
from asu_builder.web.threads import Threads


class OperatorActs:
    """Each act needs the right `operate`. Raises `NotAuthenticated`, `NotAllowed`, and as `Operator` does."""

    def __init__(self, operator: Operator, *, threads: Threads, forget: Callable[[str], None]) -> None:
        """`forget` drops what is remembered of a request's answers."""
        self._threads = threads
        self._forget = forget
        self._on_jobs = {"cancel": operator.cancel, "requeue": operator.requeue, "purge": operator.purge}
        self._on_workers = {"pause": operator.pause, "resume": operator.resume}

    async def on_job(self, asker: Asker, act: str, request_hash: str) -> None:
        """`cancel`, `requeue` or `purge` the newest job of a hash. Raises `BuildNotFound` or `Conflict`."""
        asker.require(Right.OPERATE)
        if not is_request_hash(request_hash):
            raise BuildNotFound("There is no job under this hash.")
        try:
            await self._threads.run(lambda: self._on_jobs[act](request_hash, who=asker.name))
        finally:
            self._forget(request_hash)

    async def on_workers(self, asker: Asker, act: str) -> None:
        """`pause` or `resume` the workers of every process."""
        asker.require(Right.OPERATE)
        await self._threads.run(lambda: self._on_workers[act](who=asker.name))
