"""What the download server's documents mean. Layout: facts on the ImageBuilder, §5."""

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from asu_builder.database.dialect import SqlDatabase
from asu_builder.domain.addresses import parse_address
from asu_builder.domain.errors import AsuError, Unavailable
from asu_builder.domain.health import CheckResult
from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.preflight import PackageIndexes
from asu_builder.domain.reading import current_reading
from asu_builder.domain.release import Release, TargetProfiles, VersionList
from asu_builder.domain.search import Device, name_devices
from asu_builder.ports import SharedCopies
from asu_builder.upstream import formats
from asu_builder.upstream.documents import RepositoryDocuments, UpstreamDocuments
from asu_builder.upstream.formats import (
    check_adb,
    check_foreign_packages,
    check_packages,
    lift_profile,
    parse_feeds,
    parse_index,
    parse_overview,
    parse_profiles_json,
    parse_targets,
    parse_versions,
)
from asu_builder.upstream.index_files import FILES, IndexFiles, PackageLists, as_index
from asu_builder.upstream.lenient import LeftOut, Notes
from asu_builder.upstream.memory import DocumentMemory
from asu_builder.upstream.server import UpstreamServer

_log = logging.getLogger(__name__)

_BELIEVED_SECONDS = 900.0
"""An index that nothing asks for any more says nothing about how upstream is now."""
_MOST = 256
_SHOWN = 3


class Incomplete:
    """The indexes as they were last made; safe to use from any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._indexes: OrderedDict[str, tuple[tuple[str, ...], float]] = OrderedDict()

    def note(self, index: str, lacking: tuple[str, ...]) -> None:
        """An index was made, without these feeds."""
        with self._lock:
            former, _ = self._indexes.pop(index, ((), 0.0))
            if lacking:
                self._indexes[index] = (lacking, self._clock())
                while len(self._indexes) > _MOST:
                    self._indexes.popitem(last=False)
        if lacking and lacking != former:
            _log.warning("%s: made without feeds that cannot be read: %s", index, ", ".join(lacking))

    def sentence(self) -> str:
        """Which indexes lack what, in a sentence; "" when none does."""
        oldest = self._clock() - _BELIEVED_SECONDS
        with self._lock:
            lacking = {index: feeds for index, (feeds, noted) in self._indexes.items() if noted > oldest}
        if not lacking:
            return ""
        named = "; ".join(f"{index} ({', '.join(feeds)})" for index, feeds in list(lacking.items())[:_SHOWN])
        more = f"; and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        return f"Package indexes lack feeds that the download server does not deliver: {named}{more}."


_ASKED_TARGETS = 8
"""A version with more targets has its unknown ones not asked for: their documents are large."""
_VERSIONS = 4
"""Versions without a list whose devices are put together once and kept."""


class UnlistedDevices:
    """The devices of versions without `.overview.json`, from the profiles of their known targets.

    Of a version with few targets, as a small mirror has, the others are asked for behind.
    """

    def __init__(self, documents: UpstreamDocuments, left_out: LeftOut) -> None:
        self._documents = documents
        self._left_out = left_out
        self._lock = threading.Lock()
        self._made: OrderedDict[str, tuple[tuple[TargetProfiles, ...], tuple[Device, ...]]] = OrderedDict()

    def devices(self, release: Release, targets: Mapping[str, str]) -> tuple[Device, ...]:
        """The devices; the very same value until the known profiles change."""
        known: dict[str, TargetProfiles] = {}
        for target in targets:
            described = self._described(release, target, asked=len(targets) <= _ASKED_TARGETS)
            if described is not None:
                known[target] = described
        sources = tuple(known.values())
        with self._lock:
            made = self._made.get(release.path)
            # Compared one by one by identity: a document that did not change is the same value.
            if made is None or [*map(id, made[0])] != [*map(id, sources)]:
                devices = tuple(
                    device
                    for target, described in known.items()
                    for profile, aliases in described.profiles.items()
                    for device in name_devices(profile, target, described.titles.get(profile, ()), aliases)
                )
                made = (sources, devices)
            self._made[release.path] = made
            self._made.move_to_end(release.path)
            while len(self._made) > _VERSIONS:
                self._made.popitem(last=False)
        return made[1]

    def _described(self, release: Release, target: str, *, asked: bool) -> TargetProfiles | None:
        path = f"{release.path}/targets/{target}/profiles.json"
        parse = self._left_out.noting(path, parse_profiles_json)
        if asked:
            with contextlib.suppress(Unavailable):
                return self._documents.get(path, parse, wait=False)
        return self._documents.known(path, parse)


Parsed = TypeVar("Parsed")


_FIRST_WITH_APK = (25, 12)


_USUAL_FEEDS = ("base", "luci", "packages", "routing", "telephony")
"""Of an architecture whose mirror has no `feeds.conf`."""


class HttpUpstream:
    """Reads a server of the layout of downloads.openwrt.org; safe to use from any thread."""

    def __init__(
        self,
        url: str,
        database: SqlDatabase,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
        redirect_hosts: Sequence[str] = (),
        copies: SharedCopies | None = None,
    ) -> None:
        """`now` is the time on the wall, `clock` counts seconds and never leaps.

        The server may send us to `redirect_hosts` beside itself. `copies` are those of `DocumentMemory`.
        """
        self._documents = UpstreamDocuments(
            UpstreamServer(url, redirect_hosts=redirect_hosts, clock=clock),
            DocumentMemory(database, now=now, clock=clock, copies=copies),
            now=now,
            clock=clock,
        )
        self._repositories = RepositoryDocuments(url, database, now=now, clock=clock, copies=copies)
        self._lists = PackageLists(self._documents)
        self._left_out = LeftOut()
        self._incomplete = Incomplete(clock)
        self._unlisted = UnlistedDevices(self._documents, self._left_out)

    def check(self) -> CheckResult:
        """Degraded when the download server does not answer, so that answers come from memory, or
        when part of what it has cannot be read."""
        result = self._documents.asking.check()
        lacking = " ".join(filter(None, (self._incomplete.sentence(), self._left_out.sentence())))
        return CheckResult("warning", lacking) if lacking and result.status == "ok" else result

    def versions(self) -> VersionList:
        return self._read(".versions.json", parse_versions) or VersionList((), ())

    def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
        return self._read(f"{release.path}/.targets.json", parse_targets, wait=wait)

    def devices(self, release: Release) -> Sequence[Device] | None:
        listed = self._read(f"{release.path}/.overview.json", parse_overview)
        if listed is not None:
            return listed
        targets = self.targets(release)
        return None if targets is None else self._unlisted.devices(release, targets)

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        return self._read(f"{release.path}/targets/{target}/profiles.json", parse_profiles_json)

    def described_profile(self, release: Release, target: str, profile: str) -> bytes | None:
        if self.target_profiles(release, target) is None:
            return None
        body = self._documents.stored(f"{release.path}/targets/{target}/profiles.json")
        if body is None:
            raise Unavailable("The description of this target could not be stored here. Try again later.")
        architecture = (self.targets(release) or {}).get(target, "")
        known = {
            "target": target,
            "arch_packages": architecture,
            "version_number": release.version,
            "version_code": "",
        }
        return lift_profile(body, profile, known)

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str] | None:
        base = f"{release.path}/packages/{architecture}"
        feeds = self._read(f"{base}/feeds.conf", parse_feeds)
        directories = {feed: f"{base}/{feed}" for feed in feeds or _USUAL_FEEDS}
        # No mirror publishes an architecture without packages on purpose: most of it is still on its way.
        without_any = ("feeds.conf",) if feeds is None else tuple(feeds)
        packages = self._merged(base, directories, without_any=without_any)[0]
        return packages if feeds is not None or packages else None

    def target_packages(self, release: Release, target: str) -> Mapping[str, str] | None:
        base = f"{release.path}/targets/{target}"
        self._want(f"{base}/profiles.json", parse_profiles_json)
        self._want(f"{base}/packages/index.json", parse_index)
        return self._merged(base, self._of_target(release, target))[0] or None

    def package_indexes(self, release: Release, target: str, architecture: str) -> PackageIndexes:
        manager = self._manager(release, target)
        files = IndexFiles(self._documents, manager, self._left_out)
        directories = [("target", f"{release.path}/targets/{target}/packages")]
        base = f"{release.path}/packages/{architecture}"
        # Where they are absent they are not lacking: what an ImageBuilder reads is for others to compare.
        optional: list[tuple[str, str]] = []
        try:
            own = self._of_target(release, target, wait=False)
            optional += [(name, place) for name, place in own.items() if name == "kmods"]
            feeds = self._read(f"{base}/feeds.conf", parse_feeds, wait=False)
            named = optional if feeds is None else directories
            named += [(feed, f"{base}/{feed}") for feed in feeds or _USUAL_FEEDS]
        except AsuError:
            files.lack("the feeds", "did not arrive yet")
        files.start(directory for _, directory in (*directories, *optional))
        for name, directory in directories:
            files.read(name, directory)
        for name, directory in optional:
            files.read(name, directory, is_optional=True)
        return PackageIndexes(manager, tuple(files.found), files.sentence())

    def _manager(self, release: Release, target: str) -> PackageManager:
        """The package manager whose index lies in the target's directory; the usual one where none does."""
        usual, other = PackageManager.APK, PackageManager.OPKG
        if release.order < _FIRST_WITH_APK:
            usual, other = other, usual
        directory = f"{release.path}/targets/{target}/packages"
        files = {manager: IndexFiles(self._documents, manager, self._left_out) for manager in (usual, other)}
        # A mirror that is known to have the other is not asked for this one each time.
        for manager in (usual, other) if not files[other].knows(directory) else (other, usual):
            if files[manager].may_have(directory):
                return manager
        return usual

    def repository_index(self, name: str, url: str, manager: PackageManager) -> PackageIndex | None:
        address = parse_address(url)
        is_apk = manager is PackageManager.APK
        if address is None or address.user or (is_apk and not address.path.endswith(".adb")):
            return None  # apk takes any other address for an index of its former edition
        path = address.path.strip("/")
        documents = self._repositories.at(url[: len(url) - len(address.path)].lower())
        for file in [path] if is_apk else [f"{path}/{file}".lstrip("/") for file in FILES[manager]]:
            try:
                check = check_adb if is_apk else check_foreign_packages
                found, is_fresh = documents.look(file, partial(check, notes=Notes()))
            except AsuError:
                return None
            if found is not None:
                return as_index(name, documents, file, found, manager) if is_fresh else None
        return None

    def _of_target(self, release: Release, target: str, *, wait: bool = True) -> dict[str, str]:
        """The directories of a target's own packages."""
        base = f"{release.path}/targets/{target}"
        directories = {"packages": f"{base}/packages"}
        path = f"{release.path}/targets/{target}/profiles.json"
        described = self._read(path, parse_profiles_json, wait=wait)
        if described is not None and described.kernel_modules:
            # Kernel modules moved to a directory of their own (since 24.10, 23.05.6 and snapshots).
            directories["kmods"] = f"{base}/kmods/{described.kernel_modules}"
        return directories

    def other_names(self, release: Release, target: str, architecture: str) -> Collection[str]:
        """Further names by which packages can be asked for: provided ones, and those with ABI suffix.

        Only where the indexes tell them.
        """
        base = f"{release.path}/packages/{architecture}"
        feeds = self._read(f"{base}/feeds.conf", parse_feeds) or _USUAL_FEEDS
        directories = {feed: f"{base}/{feed}" for feed in feeds}
        # A feed is called `packages` too.
        own = {f"{name} of the target": place for name, place in self._of_target(release, target).items()}
        _, others = self._merged(base, directories | own, noted=False)
        for directory in (directories | own).values():
            self._want(f"{directory}/Packages", check_packages)
        for directory in (directories | own).values():
            # Later 24.10 releases have the second edition of `index.json`, which lacks them, beside it.
            with contextlib.suppress(Unavailable):
                listed = self._listed(f"{directory}/Packages")
                others |= listed.others if listed else set()
        return others

    def _merged(
        self,
        base: str,
        directories: Mapping[str, str],
        *,
        noted: bool = True,
        without_any: tuple[str, ...] = (),
    ) -> tuple[dict[str, str], set[str]]:
        """Names and versions of the packages in these directories, later ones first, and their other names.

        One that cannot be read is left out; `Unavailable` is raised when none can. `without_any` is what is
        noted as lacking where no package is found at all.
        """
        for directory in directories.values():
            self._want(f"{directory}/index.json", parse_index)
        merged: dict[str, str] = {}
        others: set[str] = set()
        lacking: dict[str, Unavailable | None] = {}
        for name, directory in directories.items():
            try:
                index = self._read(f"{directory}/index.json", parse_index)
                if index is None:
                    # Older releases and many mirrors have nothing but what opkg reads.
                    index = self._listed(f"{directory}/Packages.gz")
                    index = index or self._listed(f"{directory}/Packages")
                elif not index.is_stripped:
                    # The first edition has names with their ABI suffix; `Packages` says what to take off.
                    index = self._listed(f"{directory}/Packages") or index
            except Unavailable as error:
                lacking[name] = error
                continue
            if index is not None:
                merged |= index.packages
                others |= index.others
            elif self._documents.asking.is_forbidden(f"{directory}/index.json"):
                lacking[name] = None
        errors = [error for error in lacking.values() if error is not None]
        if errors and len(errors) == len(directories):
            raise errors[-1]
        if noted:
            missing = (not merged and without_any) or tuple(lacking)
            reading = current_reading()
            if reading is not None:
                reading.left_out |= dict.fromkeys(missing)
            if reading is None or not reading.lacks:  # else they may be on their way
                self._incomplete.note(base, missing)
        return merged, others

    def _listed(self, path: str) -> formats.PackageIndex | None:
        file = self._read(path, check_packages)
        return None if file is None else self._lists.read(path, file)

    def _read(
        self, path: str, parse: Callable[[bytes, Notes], Parsed], *, wait: bool = True
    ) -> Parsed | None:
        found = self._documents.get(path, self._left_out.noting(path, parse), wait=wait)
        if found is None:
            self._left_out.note(path, "")
        return found

    def _want(self, path: str, parse: Callable[[bytes, Notes], object]) -> None:
        self._documents.want(path, self._left_out.noting(path, parse))

    def keep_warm(self) -> None:
        """Asks for one document of what was asked for of late; to be called once a second."""
        self._documents.keep_warm(self._parser_of)

    def _parser_of(self, path: str) -> Callable[[bytes], Any] | None:
        parse = _PARSERS.get(path.rpartition("/")[2])
        return None if parse is None else self._left_out.noting(path, parse)

    def tidy(self) -> None:
        """Keeps what is stored of upstream within its bounds; to be called now and then."""
        self._documents.tidy()
        self._repositories.tidy()

    def close(self) -> None:
        """Ends background work."""
        self._documents.close()
        self._repositories.close()


_PARSERS: Mapping[str, Callable[[bytes, Notes], Any]] = {
    "profiles.json": parse_profiles_json,
    "feeds.conf": parse_feeds,
    "index.json": parse_index,
    "packages.adb": check_adb,
    "Packages": check_packages,
    "Packages.gz": check_packages,
}
"""Of the documents that are kept warm, by name."""
