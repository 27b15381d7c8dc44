"""Why a failed make failed and whose fault that is, from what it and the package manager printed."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, structs

from asu_builder.domain.errors import BuildFailed, BuildProblem, FailureReason, Side, some
from asu_builder.domain.make import BETWEEN, NAME, Circumstances, lines_of
from asu_builder.domain.packages import explain_script, explain_selection, find_failed_script, without_version
from asu_builder.domain.request import BuildRequest

_MOST = 100
"""Addresses or packages that are kept."""
_REASON = 200
"""Characters of a reason."""


class RepositoryProblem(Struct, frozen=True):
    """A repository that a package manager left out, and why."""

    address: str
    why: str
    lasting: bool
    """Whether the repository itself is to blame: it answered, and is not there, no index or not trusted.

    The other cases may be over in a minute: no answer, an error of the server, a name that is not found."""
    unclear: str = ""
    """The file whose server may tell more: 404 and 503 look alike to the package manager. "" for none."""
    copied: bool = False
    """Whether it was used all the same, by a copy that an earlier call of the same build had fetched."""

    @property
    def is_directory(self) -> bool:
        """Whether apk took the address for a directory, and looked for an index of another kind in it."""
        return self.address.endswith("/APKINDEX.tar.gz")


def repository_problems(stderr: str) -> tuple[RepositoryProblem, ...]:
    """Every repository that was left out, each once."""
    found: dict[str, RepositoryProblem] = {}
    for problem in _read_repositories(lines_of(stderr)):
        known = found.get(problem.address)
        # What is said first says most: apk goes on with its cache, opkg with a summary.
        if known is None or (problem.lasting and not known.lasting) or (known.copied and not problem.copied):
            found[problem.address] = problem
        if len(found) >= _MOST:
            break
    return tuple(found.values())


_APK_WARNING = re.compile(
    r"(?:WARNING|ERROR): (updating and opening |opening from cache |opening |updating |fetching |Ignoring )"
    r"((?:https?://|file:|/)\S{1,2000}+)"
)
_APK_ADDRESS = re.compile(r"(?:WARNING|ERROR): (https?://\S{1,2000}+)")
_OPKG_DOWNLOADING = re.compile(r"Downloading ((?:https?://|file:)\S{1,2000}+)$")
_OPKG_FAILED = re.compile(
    r"(?:\*\*\* Failed to download the package list from |"
    r" \* opkg_download: Failed to download )((?:https?://|file:)\S{1,2000}+)"
)
_WGET = re.compile(r", wget returned (\d{1,3}+)")
_INDEX = re.compile(r"/Packages(?:\.gz|\.sig)?$")


_UNNAMED = "a feed whose address was not printed"


def _read_repositories(lines: Sequence[str]) -> Iterator[RepositoryProblem]:
    downloading = ""
    codes = _wget_codes(lines)
    for line in lines:
        if line.startswith("Downloading "):
            found = _OPKG_DOWNLOADING.match(line)
            downloading = _INDEX.sub("", found[1]) if found else ""
        elif line.startswith("Signature "):
            yield from _signature_problem(line, downloading or _UNNAMED, codes)
        elif line.startswith(("WARNING: ", "ERROR: ")):
            yield from _apk_problem(line)
        elif line.startswith(("*** Failed", " * opkg_download: ")):
            yield from _opkg_problem(line, codes)


_APK_UNCLEAR = re.compile(r"unexpected end of file|remote server returned error")
"""What apk says of its `wget -q`, whatever the server answered."""


def _apk_problem(line: str) -> Iterator[RepositoryProblem]:
    doing, found = "", _APK_WARNING.match(line)
    if found:
        doing, address = found[1], found[2]
    elif found := _APK_ADDRESS.match(line):
        address = found[1]
    else:
        return
    why = line[found.end() :].strip()[:_REASON]
    if _is_local_index(address, why):
        return
    address = address.rstrip(":")
    if doing == "opening from cache ":
        # The index should have been fetched before, and was not: what is said here is of the copy alone.
        yield RepositoryProblem(address, "its index could not be fetched", lasting=False, unclear=address)
        return
    problem = RepositoryProblem(
        address, why or "no reason given", is_lasting(why), copied=doing == "updating "
    )
    if _APK_UNCLEAR.search(why) and not problem.is_directory:
        problem = structs.replace(problem, lasting=False, unclear=address)
    yield problem


def _is_local_index(address: str, why: str) -> bool:
    """The ImageBuilder's own index, which is made by the first call: that it is not there yet is usual."""
    return (
        address.endswith("/packages/packages.adb:") and address[0] == "/" and why.startswith("No such file")
    )


def _wget_codes(lines: Sequence[str]) -> Mapping[str, int]:
    """With which number wget ended, by address; opkg tells it at its end."""
    codes: dict[str, int] = {}
    for line in lines:
        if line.startswith(" * opkg_download: ") and (found := _OPKG_FAILED.match(line)):
            code = _WGET.search(line)
            codes[found[1].rstrip(",")] = int(code[1]) if code else 0
    return codes


_WGET_REFUSED = 6
_WGET_SERVER_ERROR = 8
_WGET_WORDS = {
    4: "no answer",
    5: "no trusted connection",
    6: "a name and password are asked for",
    8: "the server answered with an error",
}


def _opkg_problem(line: str, codes: Mapping[str, int]) -> Iterator[RepositoryProblem]:
    found = _OPKG_FAILED.match(line)
    # At its end opkg lists all that it could not fetch: packages, and signatures, which are distinguished.
    if found and (line[0] == "*" or found[1].rstrip(",").endswith(("/Packages", "/Packages.gz"))):
        address = found[1].rstrip(",")
        code = codes.get(address, 0)
        why = _WGET_WORDS.get(code, "its index could not be fetched")
        unclear = address if code in (0, _WGET_SERVER_ERROR) else ""
        yield RepositoryProblem(_INDEX.sub("", address), why, code == _WGET_REFUSED, unclear)


def _signature_problem(line: str, address: str, codes: Mapping[str, int]) -> Iterator[RepositoryProblem]:
    if line.startswith("Signature check failed"):
        yield RepositoryProblem(address, "its signature is by none of the keys", lasting=True)
    elif line.startswith("Signature file download failed"):
        file = f"{address}/Packages.sig"
        code = codes.get(file, 0)
        unclear = file if code in (0, _WGET_SERVER_ERROR) else ""
        yield RepositoryProblem(address, "its signature could not be fetched", code == _WGET_REFUSED, unclear)


_LASTING = re.compile(
    r"UNTRUSTED|BAD signature|HTTP 4(?!08|25|29)\d\d|unexpected end of file|No such file|not found"
    r"|invalid URL|ADB (?:header|schema|block|signature|compression)|incompatible ADB"
    r"|v2 (?:database|package|index)|file format|cryptographic"
    r"|404|403 Forbidden|401 Unauthorized|410 Gone|Permission denied"
)
_TRANSIENT = re.compile(
    r"DNS|HTTP 5|timed? ?out|temporary error|transient|try again|network|connect|resolve|TLS|SSL|reset"
    r"|refused|unreachable|remote server"
)


def is_lasting_status(status: int) -> bool:
    """Whether an HTTP status says that the file itself is to blame; 408, 425 and 429 are over soon."""
    return 400 <= status < 500 and status not in (408, 425, 429)


def is_lasting(why: str) -> bool:
    """Whether a reason of apk's says that the repository answered and is wrong; False where it is unclear."""
    return bool(_LASTING.search(why)) and not _TRANSIENT.search(why)


def undelivered_packages(stderr: str) -> dict[str, str]:
    """Packages that were chosen from an index and then could not be had, and why."""
    found: dict[str, str] = {}
    for line in lines_of(stderr):
        if line.startswith((" * ", "ERROR: ")) and (package := _undelivered_package(line)):
            found.setdefault(*package)
            if len(found) >= _MOST:
                break
    return found


_OPKG_FILE = re.compile(r" \* opkg_[a-z_]{1,40}+: Failed to download (\S{1,2000}+)")
_OPKG_MISMATCH = re.compile(
    rf" \* opkg_[a-z_]{{1,40}}+: (?:Checksum or size mismatch for package ({NAME})"
    rf"|Package ({NAME}) (?:[a-z0-9]{{1,20}}+ mismatch|checksum))"
)
_APK_PACKAGE = re.compile(rf"ERROR: ({NAME}): (.{{1,400}})")
_APK_OTHERWISE = ("trying to overwrite ", "unable to ", "script")


def _undelivered_package(line: str) -> tuple[str, str] | None:
    if line.startswith("ERROR: "):
        found = _APK_PACKAGE.match(line)
        # Everything that fails after the index was read, but for clashes and scripts of packages.
        if found and not any(words in found[2][:60] for words in _APK_OTHERWISE):
            return without_version(found[1]), found[2].strip()[:_REASON]
        return None
    if found := _OPKG_MISMATCH.match(line):
        return (found[1] or found[2]).rstrip("."), "it is not what the index says"
    if line.startswith(" * verify_pkg_installable: Only have "):
        name = line.rpartition(", pkg ")[2].partition(" ")[0]
        return (name, "there is no room to install it") if re.fullmatch(NAME, name) else None
    if found := _OPKG_FILE.match(line):
        package = _package_file(found[1].rstrip(","))
        return None if package is None else (package, "it could not be fetched")
    return None


def _package_file(said: str) -> str | None:
    """The package of a file's address or of a bare name; None for what is no package."""
    if said.startswith(("http://", "https://", "file:")):
        file = said.rpartition("/")[2]
        return file.partition("_")[0] if file.endswith((".ipk", ".apk")) and "_" in file else None
    name = said.rstrip(".,")
    return name if re.fullmatch(NAME, name) else None


def is_disk_full(stderr: str) -> bool:
    """Whether the machine that builds had no room left."""
    return "No space left on device" in stderr or "Disk quota exceeded" in stderr


ALWAYS_THERE = frozenset({"kernel", "libc", "libgcc", "libgcc1", "base-files"})
"""Packages that every ImageBuilder carries, or that every image holds."""
_MOST_ASKED = 3
"""Repositories of a request whose servers are asked; as many as its sentence names."""
_LATER = "The request itself may be fine; try again later."


_ABI = re.compile(r"[0-9.-]++$")


def blame_repository(
    request: BuildRequest, stderr: str, *, status: Callable[[str], int] = lambda _: 0
) -> BuildFailed | None:
    """The failure of a repository that the request names: even a successful make leaves it out in silence.

    `status` asks the server of a file for its HTTP status, and gives 0 where it cannot: that is only done
    where the package manager does not tell whether the file or the server is to blame.
    """
    own = [
        (problem, name)
        for problem in repository_problems(stderr)
        if not problem.copied and (name := _own(request, problem))
    ]
    own = [(_cleared(problem, status), name) for problem, name in own[:_MOST_ASKED]] + own[_MOST_ASKED:]
    wrong = [entry for entry in own if entry[0].lasting or entry[0].is_directory]
    if wrong:
        return BuildFailed(
            FailureReason.BAD_REPOSITORY,
            f"Error: {'. '.join(_wrong(request, *entry) for entry in wrong[:3])}.",
            side=Side.USER,
            field="repositories",
            problem=_repositories(*(problem for problem, _ in wrong)),
        )
    if own:
        named = "; ".join(f"{name} at {_plain(problem.address)}: {problem.why}" for problem, name in own[:3])
        return BuildFailed(
            FailureReason.UPSTREAM_UNREACHABLE,
            f"Error: A repository of the request could not be reached ({named}). Try again later.",
            field="repositories",
            problem=_repositories(*(problem for problem, _ in own)),
        )
    return None


def _cleared(problem: RepositoryProblem, status: Callable[[str], int]) -> RepositoryProblem:
    """A problem with what the server of an unclear one answers now."""
    found = status(problem.unclear) if problem.unclear and not problem.lasting else 0
    if found < 400:
        return problem
    why = f"{problem.why} (HTTP {found})"
    return structs.replace(problem, lasting=is_lasting_status(found), why=why)


def blame_feed(request: BuildRequest, stderr: str) -> BuildFailed | None:
    """The failure of a repository that the request does not name: whatever a make went without it made
    another image than was asked for, even where it succeeded."""
    return _unavailable(
        problem
        for problem in repository_problems(stderr)
        if not problem.copied and not _own(request, problem)
    )


def _own(request: BuildRequest, problem: RepositoryProblem) -> str:
    """The name that the request gives a repository; "" for one that it does not name."""
    for name, url in request.repositories.items():
        folder = url.rstrip("/")
        if problem.address in (url, folder):
            return name
        if problem.is_directory and problem.address.startswith(f"{folder}/"):
            return name
    return ""


def _wrong(request: BuildRequest, problem: RepositoryProblem, name: str) -> str:
    url = request.repositories[name]
    sentence = f"The repository {name} at {_plain(url)} cannot be used: {problem.why}"
    if problem.is_directory and not url.endswith("/APKINDEX.tar.gz"):
        return (
            f"{sentence}. It is a directory, and apk wants the address of its index: "
            f"{_plain(url).rstrip('/')}/packages.adb"
        )
    if "UNTRUSTED" in problem.why or "signature" in problem.why:
        return f"{sentence}. Send the public key that it is signed with in repository_keys"
    return sentence


def _plain(url: str) -> str:
    """An address without the name and password that may stand in it."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    place, slash, path = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def _repositories(*problems: RepositoryProblem) -> BuildProblem:
    return BuildProblem(repositories={_plain(problem.address): problem.why for problem in problems})


def blame_make(found: Circumstances, stderr: str, *, otherwise: str, reason: FailureReason) -> BuildFailed:
    """The failure of a make that did not succeed; `reason` and `otherwise` are for what is not explained."""
    for explain in (_undelivered, _other_repositories, _selection):
        if failure := explain(found, stderr):
            return failure
    if is_disk_full(stderr):
        return BuildFailed(
            FailureReason.WORLD_UNAVAILABLE,
            f"{otherwise}. The machine that builds had no room left. {_LATER}",
        )
    if script := find_failed_script(stderr):
        chosen = script[0] in found.request.wanted or script[0] not in found.defaults
        return BuildFailed(
            FailureReason.MAKE_FAILED,
            f"{otherwise}. {explain_script(stderr)}",
            side=Side.USER if chosen else Side.INFRASTRUCTURE,
            field="packages",
            problem=BuildProblem(script=script[0]),
        )
    return BuildFailed(reason, f"{otherwise}. {_LATER}", side=Side.INFRASTRUCTURE)


def _undelivered(_: Circumstances, stderr: str) -> BuildFailed | None:
    """Whatever fails after the index was read belongs to the world: mirrors are often between two states."""
    undelivered = undelivered_packages(stderr)
    if not undelivered:
        return None
    named = [f"{name} ({why.rstrip('.')})" for name, why in undelivered.items()]
    full = any(is_disk_full(why) for why in undelivered.values())
    return BuildFailed(
        FailureReason.WORLD_UNAVAILABLE if full else FailureReason.UPSTREAM_UNREACHABLE,
        f"Error: Packages that the index lists could not be had: {some(named)}. {_LATER}",
        problem=BuildProblem(undelivered=undelivered),
    )


def _other_repositories(found: Circumstances, stderr: str) -> BuildFailed | None:
    return _unavailable(p for p in repository_problems(stderr) if not _own(found.request, p))


def _unavailable(found: Iterable[RepositoryProblem]) -> BuildFailed | None:
    problems = list(found)
    if not problems:
        return None
    named = ", ".join(f"{_plain(problem.address)} ({problem.why})" for problem in problems[:3])
    return BuildFailed(
        FailureReason.UPSTREAM_UNREACHABLE,
        f"Error: A package repository could not be reached or was not believed: {named}. {_LATER}",
        problem=_repositories(*problems),
    )


def _selection(found: Circumstances, stderr: str) -> BuildFailed | None:
    problem = explain_selection(stderr)
    if not problem:
        return None
    sentence = problem.sentence()
    request = found.request
    replaced = bool(request.repositories) and request.repositories_mode == "replace"
    base = [name for name in problem.missing if not _is_chosen(found, problem, name)]
    if base and replaced:
        sentence += (
            ". Only the request's own repositories were used (repositories_mode is replace), and they "
            f"lack what every image needs, such as {base[0]}: send repositories_mode append to use the "
            "usual ones too"
        )
    elif problem.missing and not problem.conflicts and not replaced and _is_lag(found, problem, base):
        return BuildFailed(
            FailureReason.IMPOSSIBLE_SELECTION,
            f"{sentence}. {BETWEEN}",
            side=Side.INFRASTRUCTURE,
            problem=problem,
        )
    return BuildFailed(
        FailureReason.IMPOSSIBLE_SELECTION,
        sentence,
        field="repositories_mode" if base and replaced else "packages",
        problem=problem,
    )


def _is_chosen(found: Circumstances, problem: BuildProblem, name: str) -> bool:
    """Whether a missing package is there for the request's sake, as far as can be known."""
    if name in ALWAYS_THERE or name in found.defaults:
        return False
    if name in problem.needed_by:
        return True
    # Of a library, apk names the package of its present version: libfoo20240101.
    wanted = found.request.wanted
    return name in wanted or _ABI.sub("", name) in {_ABI.sub("", asked) for asked in wanted}


def _is_lag(found: Circumstances, problem: BuildProblem, base: Collection[str]) -> bool:
    """Whether every package that is missing should be there, by the ImageBuilder or by what we say."""
    others = [name for name in problem.missing if name not in base]
    if not others or problem.providers:
        return not others
    announced = found.announced().packages or {}
    return all(name in announced for name in others)


_AVAILABLE = "Available filesystems: "


def blame_filesystem(found: Circumstances, built: Collection[str]) -> BuildFailed:
    """The failure of a build that made no image with the file system asked for."""
    asked = found.request.filesystem
    there = f"what is built are images with {some(sorted(built))}" if built else "no image with one is built"
    lag = asked in found.announced().filesystems
    advice = _LATER if lag else "Ask for one of these, or for none."
    return BuildFailed(
        FailureReason.NO_IMAGES,
        f"Error: No image with the file system {asked} was built for {found.request.profile}: {there}. "
        f"{advice}",
        side=Side.INFRASTRUCTURE if lag else Side.USER,
        field="filesystem",
        problem=BuildProblem(filesystems=tuple(sorted(built))),
    )


def parse_available_filesystems(stdout: str) -> tuple[str, ...] | None:
    """The file systems an ImageBuilder can make, where it refuses the one asked for; else None."""
    refused = False
    for line in lines_of(stdout):
        if line.startswith('Filesystem "') and line.endswith("is not available!"):
            refused = True
        elif refused and line.startswith(_AVAILABLE):
            return tuple(line[len(_AVAILABLE) :].split())[:20]
    return () if refused else None


def filesystem_warning(request: BuildRequest, built: Collection[str]) -> str:
    """What was built beside the file system asked for; "" for nothing."""
    others = sorted({name for name in built if name != request.filesystem})
    if not request.filesystem or not others:
        return ""
    return (
        f"This ImageBuilder makes every file system: beside {request.filesystem} there are images with "
        f"{some(others)}."
    )


def brought_back(removed: Collection[str], manifest: Mapping[str, str]) -> str:
    """A warning about packages that were removed and are there, because others need them; "" for none."""
    back = [name for name in dict.fromkeys(removed) if name in manifest and name not in ALWAYS_THERE]
    return f"Removed, and nevertheless there because other packages need them: {some(back)}." if back else ""
