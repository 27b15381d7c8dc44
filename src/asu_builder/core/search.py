"""What people choose from as they type: devices and packages of a version, and what rules make of a list."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

from msgspec import Struct, structs

from asu_builder.core.catalog import Catalog, Resolved, resolve_profile
from asu_builder.core.preflight import Preflight
from asu_builder.domain.errors import BuildNotFound, RequestRejected, TooManyRequests, Unavailable
from asu_builder.domain.packages import PackageSelection
from asu_builder.domain.preflight import Feasibility, Foretold
from asu_builder.domain.reading import current_reading
from asu_builder.domain.release import Release
from asu_builder.domain.request import BuildRequest
from asu_builder.domain.search import Device, DeviceIndex, Found, Title, closest, without_abi

_VERSIONS = 4
"""Versions whose devices are kept prepared; each takes about a megabyte for 2,500 devices."""
_ALIKE = 0.9
"""From 0 to 1: profiles of one vendor are rather alike without meaning each other."""
MAX_SUGGESTED = 10
"""Unknown names that get suggestions; each costs about a millisecond."""
_MEANT = 4
"""Names that are proposed in place of one."""
_NEVER_LISTED = frozenset({"kernel", "libc"})
"""Every ImageBuilder carries them; no index lists them (facts on the ImageBuilder, §5)."""

OtherNames = Callable[[Release, str, str], Collection[str]]
"""Further names of the packages of a release, for a target and its architecture."""


class DescribedDevice(Struct, frozen=True):
    """One profile with what its images hold before anybody asks for anything."""

    title: str
    target: str
    profile: str
    default_packages: tuple[str, ...]
    device_packages: tuple[str, ...]
    """Beside the default ones; `-name` takes one of them away."""
    supported_devices: tuple[str, ...]


class FoundPackages(Struct, frozen=True):
    """Names and versions, the best first; `more` says whether there are others."""

    packages: tuple[tuple[str, str], ...]
    more: bool


class Search:
    """Answers in milliseconds, from cached metadata alone; safe to use from any thread.

    Everything raises `RequestRejected` for a version that is not offered, and `Unavailable` when
    upstream was never asked and is slow.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._prepared: OrderedDict[str, tuple[Sequence[Device], DeviceIndex]] = OrderedDict()

    def devices(self, version: str, text: str, limit: int) -> Found:
        """The devices of a version that have every word of `text` among their names; the first for ""."""
        devices = self._catalog.devices(version)
        with self._lock:
            kept = self._prepared.get(version)
            # The same value means that nothing has changed.
            if kept is None or kept[0] is not devices:
                kept = self._prepared[version] = (devices, DeviceIndex(devices))
            self._prepared.move_to_end(version)
            while len(self._prepared) > _VERSIONS:
                self._prepared.popitem(last=False)
        return kept[1].search(text, limit)

    def elsewhere(self, text: str, versions: Sequence[str]) -> list[tuple[str, Device]]:
        """For each of these versions that has a device called so, the best one; alike names do not count.

        A version whose list is not known now is left out.
        """
        devices = []
        for version in versions:
            with contextlib.suppress(RequestRejected, Unavailable, TooManyRequests):
                found = self.devices(version, text, 1)
                if found.devices and not found.guessed:
                    devices.append((version, found.devices[0]))
        return devices

    def device(self, version: str, target: str, profile: str) -> DescribedDevice:
        """One device by its profile or a name that it reports.

        Raises `BuildNotFound`; `RequestRejected` for a name of several profiles.
        """
        described = self._catalog.target_profiles(version, target)
        name = resolve_profile(profile, described)
        if name is None:
            sentence = f"{version} has no profile {profile} for {target}."
            meant = closest(profile[:128].replace(",", "_"), list(described.profiles), alike=_ALIKE)
            raise BuildNotFound(f"{sentence} Did you mean {' or '.join(meant)}?" if meant else sentence)
        titles = described.titles.get(name) or (Title(name),)
        return DescribedDevice(
            str(titles[0]) or name,
            target,
            name,
            tuple(described.default_packages),
            tuple(described.device_packages.get(name, ())),
            tuple(described.profiles[name]),
        )

    def packages(self, version: str, target: str, text: str, limit: int) -> FoundPackages:
        """Packages that have every word of `text` in their names: those that begin with it come first.

        Those of the target's architecture and its own. Raises `BuildNotFound` for an unknown target.
        """
        release = self._catalog.release(version)
        architecture, own = self._catalog.target_packages(release, target)
        known = {**self._catalog.architecture_packages(release, architecture), **own}
        words = text.casefold().split()
        names = [name for name in known if all(word in name.casefold() for word in words)]
        first = words[0] if words else ""
        names.sort(key=lambda name: (not name.casefold().startswith(first), name))
        return FoundPackages(tuple((name, known[name]) for name in names[:limit]), len(names) > limit)

    def existing(self, version: str, target: str, names: Collection[str]) -> frozenset[str] | None:
        """Those of `names` that the indexes of a version and target list; None where these are not known."""
        with contextlib.suppress(BuildNotFound, Unavailable, TooManyRequests):
            release = self._catalog.release(version)
            architecture, own = self._catalog.target_packages(release, target)
            shared = self._catalog.architecture_packages(release, architecture)
            if own and shared:
                return frozenset(name for name in names if name in own or name in shared)
        return None


class UnknownPackage(Struct, frozen=True):
    """A name that no index of this version and target has, and those that it may have meant."""

    name: str
    suggestions: tuple[str, ...]


class PreviewedSelection(Struct, frozen=True):
    """What make would be told, and what would come of it.

    `unknown` is None when it is not known here which packages there are.
    """

    selection: PackageSelection
    unknown: tuple[UnknownPackage, ...] | None
    foretold: Foretold


class Preview:
    """What the package rules and the package manager would make of a request; nothing is queued.

    Answers from cached metadata alone. Waits for another process, some milliseconds as a rule.
    """

    def __init__(
        self, catalog: Catalog, preflight: Preflight, *, other_names: OtherNames = lambda *_: ()
    ) -> None:
        self._other_names = other_names
        self._catalog = catalog
        self._preflight = preflight

    def look(self, request: BuildRequest) -> PreviewedSelection:
        """Raises what `Catalog.resolve` raises."""
        found = self._catalog.resolve(request)
        selection, foretold = self._preflight.foretell(found)
        if foretold.verdict is Feasibility.FINE:
            return PreviewedSelection(selection, (), foretold)
        if foretold.verdict is Feasibility.IMPOSSIBLE:
            problem = foretold.problem
            # A name that several packages provide must be replaced by one of these.
            unknown = tuple(
                UnknownPackage(name, (problem.providers.get(name) or foretold.nearest.get(name, ()))[:_MEANT])
                for name in problem.missing
                if name in selection.packages or not problem.needed_by.get(name)
            )
            return PreviewedSelection(selection, unknown, foretold)
        return PreviewedSelection(selection, self._unlisted(found, selection), foretold)

    def in_version(self, request: BuildRequest, version: str) -> BuildRequest:
        """The same request for another version. Raises what `Catalog.resolve` raises.

        Where it lists every package, those that are default ones here give way to those of that version.
        """
        # The revision is that of one version only.
        other = structs.replace(request, version=version, version_code="")
        if not request.diff_packages or request.packages_versions:
            return other
        usual, theirs = (self._usual(each) for each in (request, other))
        removed = set(usual).difference(request.wanted)
        names = [name for name in theirs if name not in removed]
        names += [name for name in request.wanted if name not in usual]
        return structs.replace(other, packages=tuple(dict.fromkeys(names)))

    def _usual(self, request: BuildRequest) -> list[str]:
        """The default packages of a request's device, without those that the device takes away."""
        names = self._catalog.default_packages(self._catalog.resolve(request))
        return [name for name in names if not name.startswith("-") and f"-{name}" not in names]

    def culprit(self, request: BuildRequest, missing: str) -> str:
        """A package of the request because of which `missing` is needed, however far away; "" for none.

        Beside `look`, for what no package of the request needs itself. Takes as many looks as there are
        doublings in the number of packages. Raises what `Catalog.resolve` raises.
        """
        found = self._catalog.resolve(request)
        known = self._preflight.indexes(found)
        usual = set(self._catalog.default_packages(found))
        names = [name for name in found.request.wanted if name not in usual and not name.startswith("-")]

        def is_needed_with(count: int) -> bool:
            fewer = structs.replace(found, request=found.request.without(names[count:]))
            return missing in self._preflight.foretell(fewer, known=known).foretold.problem.missing

        if not names or is_needed_with(0):
            return ""
        # The first so many without which all is well, and with which it is not.
        fine, bad = 0, len(names)
        while bad - fine > 1:
            middle = (fine + bad) // 2
            fine, bad = (fine, middle) if is_needed_with(middle) else (middle, bad)
        return names[bad - 1]

    def _unlisted(self, found: Resolved, selection: PackageSelection) -> tuple[UnknownPackage, ...] | None:
        """The names that no list of names has, where nothing more can be said; None without the lists."""
        release, target, architecture = found.release, found.request.target, found.architecture
        try:
            _, own = self._catalog.target_packages(release, target)
            shared = self._catalog.architecture_packages(release, architecture)
        except (BuildNotFound, Unavailable):
            return None
        reading = current_reading()
        if not (shared and own) or (reading is not None and reading.left_out):
            # A package that is not found may be in what is lacking.
            return None
        known = {**shared, **own}
        expected = _NEVER_LISTED.union(self._catalog.default_packages(found))
        asked = [name for name in selection.packages if not name.startswith("-")]
        missing = [name for name in asked if name not in known and name not in expected]
        if missing:
            others: Collection[str] = ()
            with contextlib.suppress(Unavailable):
                others = self._other_names(release, target, architecture)
            missing = [
                name for name in missing if name not in others and known.keys().isdisjoint(without_abi(name))
            ]
        names = list(known)
        return tuple(
            UnknownPackage(name, closest(name, names) if number < MAX_SUGGESTED else ())
            for number, name in enumerate(missing)
        )
