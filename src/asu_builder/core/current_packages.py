"""Requests about the packages of this moment: `as_of`, and `on_missing: drop`."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from asu_builder.core.catalog import Catalog, Resolved
from asu_builder.core.preflight import Foresight, Preflight
from asu_builder.domain.access import Caller
from asu_builder.domain.errors import AsuError, RequestRejected, TooManyRequests
from asu_builder.domain.job import BuildResult
from asu_builder.domain.preflight import Feasibility, PackageIndexes, differing_packages
from asu_builder.domain.reading import Reading, read_whole
from asu_builder.domain.request import TODAY, BuildRequest
from asu_builder.ports import Operations, RetentionRepository

_log = logging.getLogger(__name__)

_PATIENCE = 2.0
"""Seconds that a build waits for the indexes to be asked for again, which it can do without."""


class Settled(NamedTuple):
    """A request whose `as_of` is a digest, and whose names that are gone are left out."""

    found: Resolved
    refusal: AsuError | None
    """Why no new build may be made of it; a result that is there answers nevertheless."""


class CurrentPackages:
    """Settles what a request about today's packages means; safe to use from any thread."""

    def __init__(
        self,
        catalog: Catalog,
        preflight: Preflight,
        *,
        limit: Callable[[str], TooManyRequests | None] = lambda _: None,
    ) -> None:
        """`limit` admits one more look, as a preview takes it, of a caller without a token."""
        self._catalog = catalog
        self._preflight = preflight
        self._limit = limit

    def settle(self, found: Resolved, caller: Caller) -> Settled:
        """What the request means now.

        Raises `Unavailable` where today's indexes are not known, and `TooManyRequests`.
        """
        request = found.request
        asked = request.as_of
        if request.on_missing == "drop":
            request = self._without_missing(found, caller)
        if not asked and not request.dropped:
            return Settled(replace(found, request=request), None)
        today = self._preflight.today(found)
        refusal = None
        if asked not in ("", TODAY, today):
            sentence = "as_of: the package indexes have changed since. Ask for today's with as_of: today."
            refusal = RequestRejected(sentence, field="as_of")
        as_of = asked if refusal else today
        return Settled(replace(found, request=replace(request, as_of=as_of)), refusal)

    def is_unchanged(self, settled: Settled, result: BuildResult, caller: Caller) -> bool:
        """Whether a result of the same request is what would be built by the indexes of its `as_of`.

        Raises `TooManyRequests`.
        """
        found, refusal = settled
        if result.indexes and result.indexes == found.request.as_of:
            return True
        if refusal:  # of other indexes than today's nothing can be foretold
            return False
        self._admit(caller)
        foretold = self._preflight.foretell(found).foretold
        if foretold.verdict is not Feasibility.FINE:
            return False
        return not differing_packages(foretold.packages, result.manifest)

    def digest_of(self, request: BuildRequest) -> str:
        """The digest of today's indexes for a request; "" if it is not known within some seconds."""
        try:
            return read_whole(
                lambda: self._preflight.today(self._catalog.resolve(request)), Reading(patience=_PATIENCE)
            )
        except AsuError as error:
            _log.debug("The package indexes of a build are not known: %s", error)
            return ""

    def indexes_of(self, request: BuildRequest) -> PackageIndexes | None:
        """The indexes that a request's packages may come from, as far as known; None if even that is not."""
        try:
            return read_whole(
                lambda: self._preflight.indexes(self._catalog.resolve(request)), Reading(patience=_PATIENCE)
            )
        except AsuError as error:
            _log.info("No index of a build's packages is known: %s", error)
            return None

    def end_outdated(self, retention: RetentionRepository, operations: Operations) -> Sequence[str]:
        """Ends the time of results that names were left out of, once the indexes are others; their hashes.

        What was missing may be there by now.
        """
        ended = []
        for request_hash, request in retention.with_dropped():
            today = self.digest_of(request)
            if today and today != request.as_of:
                operations.purge(request_hash)
                ended.append(request_hash)
        return ended

    def _admit(self, caller: Caller) -> None:
        """Raises `TooManyRequests`: what nothing is remembered of costs computing each time."""
        refusal = self._limit(caller.name) if caller.token is None else None
        if refusal is not None:
            raise refusal

    def _without_missing(self, found: Resolved, caller: Caller) -> BuildRequest:
        """The request without the names that surely do not exist, of those that only the request brings."""
        plain = replace(found.request, on_missing="fail")
        known = self._preflight.indexes(found)
        if known.lacking:
            return plain
        self._admit(caller)
        foresight = self._preflight.foretell(found, known=known)
        dropped = self._droppable(found, foresight)
        if not dropped:
            return plain
        return replace(plain.without(dropped), on_missing="drop", dropped=dropped)

    def _droppable(self, found: Resolved, foresight: Foresight) -> dict[str, str]:
        selection, foretold = foresight
        if foretold.verdict is not Feasibility.IMPOSSIBLE:
            return {}
        needed = {*self._catalog.default_packages(found)}
        for applied in selection.record.applied:
            needed |= {*applied.added, *applied.renamed.values()}
        problem = foretold.problem
        return {
            name: next(iter(foretold.nearest.get(name, ())), "")
            for name in problem.missing
            # One of several providers can be named: it exists.
            if name in found.request.wanted and name not in needed and not problem.providers.get(name)
        }
