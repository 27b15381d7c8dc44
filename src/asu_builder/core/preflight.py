"""What the package rules would do to a request, and which names are unknown; nothing is queued."""

from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct

from asu_builder.core.catalog import Catalog, Resolved
from asu_builder.domain.errors import BuildNotFound, Unavailable
from asu_builder.domain.packages import PackageSelection
from asu_builder.domain.reading import current_reading
from asu_builder.domain.release import Release
from asu_builder.domain.request import BuildRequest
from asu_builder.domain.search import closest, without_abi
from asu_builder.ports import PackageChanges

MAX_SUGGESTED = 10
"""Unknown names that get suggestions; each costs about a millisecond."""
_NEVER_LISTED = frozenset({"kernel", "libc"})
"""Every ImageBuilder carries them; no index lists them (facts on the ImageBuilder, §5)."""

OtherNames = Callable[[Release, str, str], Collection[str]]
"""Further names of the packages of a release, for a target and its architecture."""


class UnknownPackage(Struct, frozen=True):
    """A name that no index of this version and target has, and those that it may have meant."""

    name: str
    suggestions: tuple[str, ...]


class PreviewedSelection(Struct, frozen=True):
    """What make would be told. `unknown` is None when the indexes are not known here."""

    selection: PackageSelection
    unknown: tuple[UnknownPackage, ...] | None


class Preview:
    """Answers in milliseconds, from cached metadata alone."""

    def __init__(
        self,
        catalog: Catalog,
        package_changes: PackageChanges,
        *,
        other_names: OtherNames = lambda *_: (),
    ) -> None:
        self._names = other_names
        self._catalog = catalog
        self._package_changes = package_changes

    def look(self, request: BuildRequest) -> PreviewedSelection:
        """Raises what `Catalog.resolve` raises."""
        found = self._catalog.resolve(request)
        defaults = self._catalog.default_packages(found)
        baseline = self._catalog.baseline(found.request) if request.diff_packages else None
        selection = self._package_changes.apply(found.request, default_packages=defaults, baseline=baseline)
        return PreviewedSelection(selection, self._unknown(found, selection, defaults))

    def _unknown(
        self, found: Resolved, selection: PackageSelection, defaults: Sequence[str]
    ) -> tuple[UnknownPackage, ...] | None:
        known = self._known(found)
        if not known:
            return None
        asked = [name for name in selection.packages if not name.startswith("-")]
        missing = [name for name in asked if name not in known and name not in _NEVER_LISTED | set(defaults)]
        if missing:
            others = self._other_names(found)
            missing = [
                name for name in missing if name not in others and known.keys().isdisjoint(without_abi(name))
            ]
        names = list(known)
        return tuple(
            UnknownPackage(name, closest(name, names) if number < MAX_SUGGESTED else ())
            for number, name in enumerate(missing)
        )

    def _known(self, found: Resolved) -> Mapping[str, str]:
        try:
            _, own = self._catalog.target_packages(found.release, found.request.target)
            shared = self._catalog.architecture_packages(found.release, found.architecture)
        except (BuildNotFound, Unavailable):
            return {}
        reading = current_reading()
        if reading is not None and reading.left_out:
            return {}  # a package that is not found may be in what is lacking
        return {**shared, **own} if shared and own else {}

    def _other_names(self, found: Resolved) -> Collection[str]:
        try:
            return self._names(found.release, found.request.target, found.architecture)
        except Unavailable:
            return ()
