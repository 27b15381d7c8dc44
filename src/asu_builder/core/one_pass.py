"""Builds whose packages are known beforehand: they need no `make manifest` before `make image`."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from asu_builder.core.metrics import OTHER_PACKAGES, PreflightCounts
from asu_builder.core.preflight import CarriedBy, Preflight
from asu_builder.domain.errors import AsuError, some
from asu_builder.domain.make import wrong_versions
from asu_builder.domain.package_index import PackageManager
from asu_builder.domain.packages import PackageSelection
from asu_builder.domain.preflight import (
    Feasibility,
    Foretold,
    PackageIndexes,
    differing_packages,
    manifest_of,
)
from asu_builder.domain.release import Release
from asu_builder.domain.request import BuildRequest

_log = logging.getLogger(__name__)

_MOST_NOTED = 1000


class Expected(NamedTuple):
    """What an image will surely hold, so that the ImageBuilder need not be asked before."""

    foretold: Foretold
    place: tuple[str, str, str]
    """The release's path, the target, and `PackageIndexes.digest` of their indexes."""


class OnePass:
    """Says where `make image` alone will do, and compares what it has installed. For any thread.

    Where an image turns out to have other packages than were expected, no other of this release and target
    is built so in this process, until the package indexes change.
    """

    def __init__(
        self,
        preflight: Preflight,
        indexes_of: Callable[[BuildRequest], PackageIndexes | None],
        carried_by: CarriedBy,
        counts: PreflightCounts,
    ) -> None:
        """`indexes_of` tells what a request's packages may come from, `counts` where it was wrong."""
        self._preflight = preflight
        self._indexes_of = indexes_of
        self._carried_by = carried_by
        self._counts = counts
        self._lock = threading.Lock()
        self._surprising: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._compared: OrderedDict[int, None] = OrderedDict()

    def expect(
        self,
        request: BuildRequest,
        release: Release,
        selection: PackageSelection,
        *,
        defaults: Sequence[str],
        identity: str,
    ) -> Expected | None:
        """What this ImageBuilder would install; None where it is to be asked itself, with `make manifest`.

        That is so unless the indexes surely allow the selection, in the versions that the request names.
        """
        try:
            known = self._indexes_of(request)
            carried = self._carried_by(release.path, request.target)
            if known is None or known.lacking or carried is None or carried.identity != identity:
                return None
            if known.manager is PackageManager.APK and not carried.pins:
                return None
            own = tuple(index for index in known.indexes if not index.is_foreign)
            place = release.path, request.target, replace(known, indexes=own).digest
            if place in self._surprising:
                return None
            foretold = self._preflight.resolve(known, selection.packages, defaults, carried)
        except AsuError as error:
            _log.debug("The packages of a build are not known beforehand: %s", error)
            return None
        if foretold.verdict is not Feasibility.FINE or wrong_versions(
            request, manifest_of(foretold.packages, foretold), selection.released
        ):
            return None
        return Expected(foretold, place)

    def compare(self, job_id: int, expected: Expected, installed: Mapping[str, str]) -> None:
        """Takes down whether an image has the packages that were expected; names are with ABI suffixes."""
        differing = differing_packages(expected.foretold.packages, installed)
        with self._lock:
            _note(self._compared, job_id)
            if differing:
                _note(self._surprising, expected.place)
        if differing:
            self._counts.note_disagreed(OTHER_PACKAGES)
            _log.warning("The image has other packages than foretold: %s", some(differing))

    def has_compared(self, job_id: int) -> bool:
        """Whether the build of one of the latest jobs was compared."""
        return job_id in self._compared


def _note(noted: OrderedDict[Any, None], key: object) -> None:
    noted[key] = None
    if len(noted) > _MOST_NOTED:
        noted.popitem(last=False)
