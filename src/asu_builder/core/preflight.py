"""What a build would say about a package selection, told before it is built; and what is learnt for that."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from asu_builder.core.catalog import Catalog, Resolved
from asu_builder.core.metrics import FALSE_REFUSAL, OTHER_PACKAGES, OUTDATED_INDEXES, PreflightCounts
from asu_builder.domain.errors import AsuError, FailureReason, Unavailable, some
from asu_builder.domain.job import BuildFailure, BuildResult, Job, Outcome
from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.packages import PackageSelection, with_ucert
from asu_builder.domain.preflight import (
    ALWAYS_INSTALLED,
    OWN_INDEX,
    CarriedPackages,
    Feasibility,
    Foretold,
    PackageIndexes,
    PreflightMode,
    differing_packages,
)
from asu_builder.domain.release import Release
from asu_builder.domain.repositories import APK, OPKG, listed_repositories
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import (
    Container,
    PackageChanges,
    PackageIndexSource,
    PackageResolver,
    PreflightRecords,
)

_log = logging.getLogger(__name__)

CarriedBy = Callable[[str, str], CarriedPackages | None]
"""What the ImageBuilder of a release (its path) and target carries; None where it never ran here."""


class Foresight(NamedTuple):
    """What make would be told, and what the package manager would make of it."""

    selection: PackageSelection
    foretold: Foretold


class Preflight:
    """Answers from the package indexes as they are known here; safe to use from any thread.

    Each answer costs some milliseconds of waiting for another process, so it is not for the event loop.
    """

    def __init__(
        self,
        catalog: Catalog,
        package_changes: PackageChanges,
        source: PackageIndexSource,
        resolver: PackageResolver,
        *,
        carried_by: CarriedBy,
        installs_key: bool = False,
    ) -> None:
        """With `installs_key` builds add what checks signatures with it."""
        self._installs_key = installs_key
        self._catalog = catalog
        self._package_changes = package_changes
        self._source = source
        self._resolver = resolver
        self._carried_by = carried_by

    def foretell(self, found: Resolved, *, known: PackageIndexes | None = None) -> Foresight:
        """What make would be told for a resolved request, and its verdict by `known` or today's indexes."""
        request = found.request
        defaults = self._catalog.default_packages(found)
        baseline = self._catalog.baseline(request) if request.diff_packages else None
        selection = self._package_changes.apply(request, default_packages=defaults, baseline=baseline)
        if self._installs_key:
            selection = with_ucert(selection)
        known = known or self.indexes(found)
        carried = self._carried_by(found.release.path, request.target)
        return Foresight(selection, self.resolve(known, selection.packages, defaults, carried))

    def resolve(
        self,
        known: PackageIndexes,
        packages: Sequence[str],
        defaults: Sequence[str],
        carried: CarriedPackages | None,
    ) -> Foretold:
        """The verdict on what make is told, of an ImageBuilder with these defaults."""
        pins = carried.pins if carried and known.manager is PackageManager.APK else {}
        always = [f"{name}={pins[name]}" if name in pins else name for name in ALWAYS_INSTALLED]
        # In the order in which make passes them: of two opkg packages only one may exclude the other.
        names = dict.fromkeys((*packages, *sorted((*defaults, *always))))
        return self._resolver.resolve(known, tuple(names))

    def knows(self, found: Resolved) -> bool:
        """Whether anything certain can be told for this release and target; answers from memory."""
        return self._carried_by(found.release.path, found.request.target) is not None

    def indexes(self, found: Resolved) -> PackageIndexes:
        """All that the packages of a resolved request may come from, as it is known now."""
        request, release = found.request, found.release
        known = self._source.package_indexes(release, request.target, found.architecture)
        lacking = [known.lacking] if known.lacking else []
        indexes = list(known.indexes)
        carried = self._carried_by(release.path, request.target)
        if carried is None:
            lacking.append("The ImageBuilder of this version and target has not been used here yet.")
        else:
            read = {place for url in carried.repositories if (place := _place(url, release.path))}
            indexes = [index for index in indexes if _place(index.address, release.path) in read]
            there = {_place(index.address, release.path) for index in indexes}
            if unread := read - there - carried.folders.keys():
                lacking.append(
                    f"The ImageBuilder reads {', '.join(sorted(unread)[:3])}, which is not known here."
                )
            revision = self._catalog.released_revision(request) or found.revision
            if revision and carried.revision and revision != carried.revision:
                lacking.append("There is another ImageBuilder by now, which has not been used here yet.")
            indexes += carried.indexes()
        if _replaces(request):
            indexes = [index for index in indexes if index.name == OWN_INDEX and not index.address]
        indexes += self._foreign_indexes(request, known.manager, lacking)
        return PackageIndexes(known.manager, tuple(indexes), " ".join(lacking))

    def today(self, found: Resolved) -> str:
        """Digest of the indexes on the servers that a resolved request's packages come from, as they are now.

        Raises `Unavailable` where one of them cannot be read or is past its time.
        """
        request = found.request
        known = self._source.package_indexes(found.release, request.target, found.architecture)
        replaces = _replaces(request)
        lacking = [known.lacking] if known.lacking and not replaces else []
        own = () if replaces else known.indexes
        indexes = (*own, *self._foreign_indexes(request, known.manager, lacking))
        if lacking or not indexes:
            sentence = f"It is not known which packages there are now. {' '.join(lacking)}".rstrip()
            raise Unavailable(sentence, plain=True)
        return PackageIndexes(known.manager, indexes).digest

    def _foreign_indexes(
        self, request: BuildRequest, manager: PackageManager, lacking: list[str]
    ) -> list[PackageIndex]:
        """The indexes of the request's own repositories; a sentence on each that is not readable goes into
        `lacking`.
        """
        indexes = []
        for name, url in sorted(request.repositories.items()):
            index = self._source.repository_index(name, url, manager)
            if index is None:
                lacking.append(f"The repository {name} cannot be read.")
            else:
                indexes.append(replace(index, is_foreign=True))
        return indexes


def _replaces(request: BuildRequest) -> bool:
    """Whether the request's repositories take the place of the ImageBuilder's."""
    return bool(request.repositories) and request.repositories_mode == "replace"


def _place(url: str, release_path: str) -> str:
    """Where an index or its directory lies below a release, the same on every mirror; the address elsewhere.

    "" for the folder `packages` of the ImageBuilder, whose index is learnt. No index of another one is known.
    """
    directory = url.rstrip("/")
    if directory.endswith((".adb", "/Packages", "/Packages.gz")):
        directory = directory.rpartition("/")[0]
    if not url.startswith(("http://", "https://")):
        return "" if directory.removeprefix("file:").removeprefix("./") == "packages" else directory
    _, found, place = directory.partition(f"/{release_path}/")
    return place if found else directory


_INDEXES = (
    (PackageManager.APK, ("packages.adb",), APK),
    (PackageManager.OPKG, ("Packages.gz", "Packages"), OPKG),
)
"""What the index of a folder is called, and the file that lists the repositories."""
_MOST_FOLDERS = 16
_MOST_FOLDERS_BYTES = 8 << 20


def learn_carried(
    records: PreflightRecords,
    container: Container,
    request: BuildRequest,
    release: Release,
    *,
    identity: str,
    revision: str,
    manifest: Mapping[str, str],
) -> None:
    """Keeps what an ImageBuilder brings along, once for each; to be called after `make manifest`.

    `manifest` is what the goal has told, if anything. An index that cannot be read, or is too large, is not
    kept, and never fails the build.
    """
    # With repositories of the caller's own neither the list nor what lies in there is the ImageBuilder's.
    if request.repositories:
        return
    try:
        known = records.carried(release.path, request.target)
        if known is not None and known.identity == identity and (known.pins or not manifest):
            # What lies in further folders may change while the ImageBuilder is the same.
            now = known.folders and _read_folders(container, known.manager, known.repositories)
            if now == known.folders:
                return
        for manager, names, file in _INDEXES:
            index = f"packages/{names[-1]}"
            if container.exists(index):
                listed = container.read_bytes(file.name) if container.exists(file.name) else b""
                repositories = listed_repositories(listed.decode(), file)
                folders = _read_folders(container, manager, repositories)
                pins = {name: manifest[name] for name in ALWAYS_INSTALLED if name in manifest}
                carried = CarriedPackages(
                    identity, revision, manager, container.read_bytes(index), repositories, folders, pins
                )
                records.learn(release.path, request.target, carried)
                return
    except (AsuError, ValueError) as error:
        _log.info("What the ImageBuilder brings along was not learnt: %s", error)


def _read_folders(
    container: Container, manager: PackageManager, repositories: Sequence[str]
) -> dict[str, bytes]:
    """The indexes of the folders that an ImageBuilder installs from; none where they are too large."""
    names = next(names for kind, names, _ in _INDEXES if kind is manager)
    places = [_place(url, "") for url in repositories if not url.startswith(("http://", "https://"))]
    folders: dict[str, bytes] = {}
    for place in filter(None, places[:_MOST_FOLDERS]):
        folder = place.removeprefix("file:").removeprefix("./")
        # Nothing outside of the ImageBuilder is read.
        if folder.startswith("/") or ".." in folder.split("/"):
            continue
        for name in names:
            if container.exists(f"{folder}/{name}"):
                folders[place] = container.read_bytes(f"{folder}/{name}")
                break
    return folders if sum(map(len, folders.values())) <= _MOST_FOLDERS_BYTES else {}


_MOST_WAITING = 200
"""Builds that wait to be compared; more are left out."""
_SAMPLED_AT_FIRST = 5
_SAMPLED_LATER = 50
_SECOND_LOOK_SECONDS = 360.0
"""Longer than a document of upstream is used without asking whether it has changed."""
_LONGEST_TEXT = 1000


class _Ended(NamedTuple):
    """A build to be compared, and what its first comparison has found, if it is the second."""

    job: Job
    outcome: Outcome
    due: float = 0.0
    indexes: str = ""
    disagreements: int = 0


class PreflightProof:
    """Compares builds with what is foretold for them, and so knows where *impossible* may refuse.

    Methods but `compare_waiting` answer at once; safe to use from any thread.
    """

    def __init__(
        self,
        preflight: Callable[[], Preflight],
        resolve: Callable[[BuildRequest], Resolved],
        records: PreflightRecords,
        *,
        mode: PreflightMode,
        counts: PreflightCounts,
        clock: Callable[[], float] = time.monotonic,
        is_compared: Callable[[int], bool] = lambda _: False,
    ) -> None:
        """`preflight` is asked for with the first build; `mode` is the operator's; `clock` counts seconds.

        `is_compared` tells of a job's id whether its build has compared the packages itself.
        """
        self._preflight = preflight
        self._resolve = resolve
        self._records = records
        self._mode = mode
        self._counts = counts
        self._clock = clock
        self._is_compared = is_compared
        self._ended: deque[_Ended] = deque()
        self._asked: Counter[tuple[str, str]] = Counter()
        self._unexplained: set[tuple[str, str]] = set()
        """Releases and targets with a contradiction that newer indexes do not explain."""

    def is_enforced(self, release_path: str, target: str) -> bool:
        """Whether a request for this release and target may be refused. Raises `Unavailable`."""
        if self._mode is not PreflightMode.ENFORCE:
            return False
        record = self._records.targets().get((release_path, target))
        return record is None or record.mode is PreflightMode.ENFORCE

    def sample(self, release_path: str, target: str) -> bool:
        """Whether the next impossible request is built all the same, to prove the verdict right or wrong.

        The first few of a release and target are, later one in fifty. Raises `Unavailable`.
        """
        place = release_path, target
        record = self._records.targets().get(place)
        if record is None or record.sampled < _SAMPLED_AT_FIRST:
            return True
        self._asked[place] += 1
        return self._asked[place] % _SAMPLED_LATER == 0

    def note(self, job: Job, outcome: Outcome) -> None:
        """Takes down how a build ended; it is compared a moment later."""
        if self._mode is not PreflightMode.OFF and len(self._ended) < _MOST_WAITING:
            # What it printed is not looked at, and large.
            self._ended.append(_Ended(job, replace(outcome, stdout="", stderr="")))

    def compare_waiting(self) -> None:
        """Compares the builds that have ended since; may wait for the download server, so has its thread."""
        for _ in range(len(self._ended)):
            ended = self._ended.popleft()
            if ended.due > self._clock():
                self._ended.append(ended)
                continue
            try:
                again = self._compare(ended)
            except AsuError as error:
                _log.info("A build was not compared with what was foretold: %s", error)
            else:
                if again is not None:
                    self._ended.append(again)

    def _compare(self, ended: _Ended) -> _Ended | None:
        """Counts how the two agree. Returns what is to be compared again, when the indexes are newer."""
        job, outcome = ended.job, ended.outcome
        found = self._resolve(job.request)
        place = found.release.path, found.request.target
        known = self._preflight().indexes(found)
        foretold = (
            Foretold(Feasibility.UNKNOWN, known.lacking)
            if known.lacking
            else self._preflight().foretell(found, known=known).foretold
        )
        if ended.indexes:
            self._look_again(ended, place, foretold, known.digest)
            return None
        self._counts.note_compared(foretold.verdict)
        accepted = _was_accepted(outcome)
        if foretold.verdict is Feasibility.IMPOSSIBLE:
            if accepted is None:
                return None
            was_enforced = self.is_enforced(*place)
            text = _contradiction(job, outcome, foretold)[:_LONGEST_TEXT] if accepted else ""
            self._records.note_sample(*place, disagreement=text)
            if accepted:
                self._counts.note_disagreed(FALSE_REFUSAL)
                if was_enforced:
                    self._unexplained.discard(place)
                _log.warning("%s %s is on advise from now on: %s", *place, text)
                disagreements = self._records.targets()[place].disagreements
                due = self._clock() + _SECOND_LOOK_SECONDS
                return _Ended(job, outcome, due, known.digest, disagreements)
        elif foretold.verdict is Feasibility.FINE and isinstance(outcome, BuildFailure):
            self._counts.note_disagreed(outcome.reason)
            _log.info("%s was foretold as fine, and failed: %s", job.request_hash, outcome.detail[:200])
        elif (
            foretold.verdict is Feasibility.FINE
            and isinstance(outcome, BuildResult)
            and not self._is_compared(job.id)
            and (differing := differing_packages(foretold.packages, outcome.manifest))
        ):
            self._counts.note_disagreed(OTHER_PACKAGES)
            _log.info("%s has other packages than foretold: %s", job.request_hash, some(differing))
        return None

    def _look_again(self, ended: _Ended, place: tuple[str, str], foretold: Foretold, indexes: str) -> None:
        """Takes back what only an index has caused that was older than the build's."""
        if foretold.verdict is not Feasibility.FINE or indexes == ended.indexes:
            self._unexplained.add(place)
            return
        self._counts.note_disagreed(OUTDATED_INDEXES)
        record = self._records.targets().get(place)
        is_latest = record is not None and record.disagreements == ended.disagreements
        if is_latest and place not in self._unexplained and self._records.enforce(*place):
            _log.info("%s %s is on enforce again: by newer indexes the builds were possible", *place)


def _was_accepted(outcome: Outcome) -> bool | None:
    """Whether the package manager has accepted the selection; None if that is not known."""
    if isinstance(outcome, BuildResult):
        return True
    if outcome.reason is FailureReason.VERSION_MISMATCH or outcome.build_cmd[1:2] == ("image",):
        return True
    return False if outcome.reason is FailureReason.IMPOSSIBLE_SELECTION else None


def _contradiction(job: Job, outcome: Outcome, foretold: Foretold) -> str:
    did = (
        f"installed {len(outcome.manifest)} packages"
        if isinstance(outcome, BuildResult)
        else f"accepted the packages, then failed as {outcome.reason}"
    )
    return f"{job.request_hash}: foretold was {foretold.problem.sentence()!r}; the build {did}."
