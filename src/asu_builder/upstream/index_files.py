"""Index files of packages as they are known here: their digests in memory, their bytes in the database."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec.structs import replace

from asu_builder.domain.errors import AsuError, Unavailable, UpstreamUnavailable
from asu_builder.domain.package_index import FoundPackage, FoundPackages, PackageIndex, PackageManager
from asu_builder.domain.preflight import PackageIndexes
from asu_builder.domain.search import without_abi
from asu_builder.upstream import formats
from asu_builder.upstream.documents import UpstreamDocuments
from asu_builder.upstream.formats import IndexFile, check_adb, check_packages, read_packages
from asu_builder.upstream.lenient import LeftOut, Notes, Unreadable
from asu_builder.upstream.package_index import read_index

_log = logging.getLogger(__name__)

FILES = {PackageManager.APK: ("packages.adb",), PackageManager.OPKG: ("Packages.gz", "Packages")}
"""The names of an index, the better one first."""


def as_index(
    name: str, documents: UpstreamDocuments, path: str, file: IndexFile, manager: PackageManager
) -> PackageIndex:
    """An index whose bytes are read from the database."""

    def read() -> bytes | None:
        return documents.read_index(path, file.digest)

    return PackageIndex(name, documents.address(path), file.digest, manager, read)


class IndexFiles:
    """The index files of some directories as they are known at this moment, and why some are not."""

    def __init__(self, documents: UpstreamDocuments, manager: PackageManager, left_out: LeftOut) -> None:
        self._documents = documents
        self._manager = manager
        self._left_out = left_out
        self.found: list[PackageIndex] = []
        self._lacking: dict[str, list[str]] = {}

    def start(self, directories: Iterable[str]) -> None:
        """Has them fetched side by side."""
        for directory in directories:
            path, check = next(self._places(directory))
            self._documents.start(path, check)

    def knows(self, directory: str) -> bool:
        """Whether an index was there when it was last seen."""
        return any(self._documents.known(path, check) is not None for path, check in self._places(directory))

    def may_have(self, directory: str) -> bool:
        """Whether an index is there, or may be."""
        try:
            return any(
                self._documents.get(path, check, wait=False) is not None
                for path, check in self._places(directory)
            )
        except AsuError:
            return True

    def read(self, name: str, directory: str, *, is_optional: bool = False) -> None:
        """Adds the index of a directory; one that is optional may be absent."""
        is_forbidden = False
        for path, check in self._places(directory):
            try:
                file, is_fresh = self._documents.look(path, check)
            except UpstreamUnavailable:
                return self.lack(name, "could not be read")
            except AsuError:
                return self.lack(name, "did not arrive yet")
            if file is not None:
                self.found.append(as_index(name, self._documents, path, file, self._manager))
                if not is_fresh:
                    self.lack(name, "could not be checked for changes")
                return None
            is_forbidden = is_forbidden or self._documents.asking.is_forbidden(path)
        if is_forbidden or not is_optional:
            self.lack(name, "could not be found")
        return None

    def lack(self, name: str, why: str) -> None:
        """Notes that an index is not here; `why` ends a sentence."""
        self._lacking.setdefault(why, []).append(name)

    def sentence(self) -> str:
        """What is lacking, in sentences; "" when all is here."""
        return " ".join(
            f"The package {'indexes' if len(names) > 1 else 'index'} of {' and '.join(names)} {why}."
            for why, names in self._lacking.items()
        )

    def _places(self, directory: str) -> Iterator[tuple[str, Callable[[bytes], IndexFile]]]:
        check = check_adb if self._manager is PackageManager.APK else check_packages
        for file in FILES[self._manager]:
            yield f"{directory}/{file}", self._left_out.noting(f"{directory}/{file}", check)


_MOST_NAMES = 100_000
"""Of packages in lists that are kept: some megabytes."""


class PackageLists:
    """What `Packages` files say, read again from their stored bytes; the latest are kept.

    Few answers need them, and each answer the same ones a few times. Safe to use from any thread.
    """

    def __init__(self, documents: UpstreamDocuments) -> None:
        self._documents = documents
        self._lock = threading.Lock()
        self._read: OrderedDict[str, formats.PackageIndex] = OrderedDict()

    def read(self, path: str, file: IndexFile) -> formats.PackageIndex:
        """The packages of a file that was found to be readable. Raises `Unavailable` if it is gone."""
        with self._lock:
            found = self._read.get(file.digest)
            if found is not None:
                self._read.move_to_end(file.digest)
                return found
        body = self._documents.read_index(path, file.digest)
        if body is None:
            raise Unavailable(
                f"{path} could not be stored here, or has changed this moment. Try again later."
            )
        found = read_packages(body, Notes())
        with self._lock:
            self._read[file.digest] = found
            while sum(len(kept.packages) + len(kept.others) for kept in self._read.values()) > _MOST_NAMES:
                self._read.popitem(last=False)
        return found


def find_packages(known: PackageIndexes, manifest: Mapping[str, str]) -> FoundPackages:
    """What indexes say of the packages of a manifest, of the very versions in it; never raises.

    The first index that has one is told. A digest in which others of the same version differ is left out,
    because it is not known which of them was installed. One index is read at a time.
    """
    found: dict[str, FoundPackage] = {}

    def names_in_manifest(name: str) -> list[str]:
        # A manifest may leave the ABI suffix out: `libubus` for `libubus20241020`.
        return [name] if name in manifest else [short for short in without_abi(name) if short in manifest]

    for index in known.indexes:
        try:
            data = index.read()
            if data is None:
                continue
            packages = read_index(
                known.manager, data, Notes(), wanted=lambda name: bool(names_in_manifest(name))
            ).packages
        except (Unreadable, AsuError) as error:
            _log.info("The index %s says nothing of the packages of a build: %s", index.name, error)
            continue
        for package in packages:
            for name in names_in_manifest(package.name):
                if manifest[name] != package.version:
                    continue
                former = found.get(name)
                if former is None:
                    found[name] = FoundPackage(package, index.name, index.is_foreign)
                elif former.package.hash not in ("", package.hash):
                    found[name] = replace(former, package=replace(former.package, hash=""))
    return FoundPackages(known.manager, found, known.indexes)
