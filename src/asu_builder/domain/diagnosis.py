"""Why a failed make failed and whose fault that is, from what it and the package manager printed."""

import re
from collections.abc import Callable, Collection, Mapping

from msgspec import Struct, structs

from asu_builder.domain.errors import BuildFailed, BuildProblem, FailureReason, Side, some
from asu_builder.domain.make import BETWEEN, NAME, Circumstances, lines_of
from asu_builder.domain.packages import explain_script, explain_selection, without_version
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
_APK_UNCLEAR = re.compile(r"unexpected end of file|remote server returned error")
"""What apk says of its `wget -q`, whatever the server answered."""
_WGET_REFUSED = 6
_WGET_SERVER_ERROR = 8
_WGET_WORDS = {
    4: "no answer",
    5: "no trusted connection",
    6: "a name and password are asked for",
    8: "the server answered with an error",
}


def repository_problems(stderr: str) -> tuple[RepositoryProblem, ...]:
    """Every repository that was left out, each once."""
    lines = lines_of(stderr)
    # With which number wget ended, by address; opkg tells it at its end.
    codes: dict[str, int] = {}
    for line in lines:
        if line.startswith(" * opkg_download: ") and (failed := _OPKG_FAILED.match(line)):
            code = _WGET.search(line)
            codes[failed[1].rstrip(",")] = int(code[1]) if code else 0
    found: dict[str, RepositoryProblem] = {}
    downloading = ""
    for line in lines:
        problem = None
        if line.startswith("Downloading "):
            started = _OPKG_DOWNLOADING.match(line)
            downloading = _INDEX.sub("", started[1]) if started else ""
        elif line.startswith(("WARNING: ", "ERROR: ")):
            problem = _apk_problem(line)
        elif line.startswith(("Signature ", "*** Failed", " * opkg_download: ")):
            problem = _opkg_problem(line, downloading or _UNNAMED, codes)
        if problem is None:
            continue
        known = found.get(problem.address)
        # What is said first says most: apk goes on with its cache, opkg with a summary.
        if known is None or (problem.lasting and not known.lasting) or (known.copied and not problem.copied):
            found[problem.address] = problem
        if len(found) >= _MOST:
            break
    return tuple(found.values())


def _apk_problem(line: str) -> RepositoryProblem | None:
    doing, found = "", _APK_WARNING.match(line)
    if found:
        doing, address = found[1], found[2]
    elif found := _APK_ADDRESS.match(line):
        address = found[1]
    else:
        return None
    why = line[found.end() :].strip()[:_REASON]
    # The ImageBuilder's own index is made by the first call: that it is not there yet is usual.
    if address[0] == "/" and address.endswith("/packages/packages.adb:") and why.startswith("No such file"):
        return None
    address = address.rstrip(":")
    if doing == "opening from cache ":
        # The index should have been fetched before, and was not: what is said here is of the copy alone.
        return RepositoryProblem(address, "its index could not be fetched", lasting=False, unclear=address)
    problem = RepositoryProblem(
        address, why or "no reason given", is_lasting(why), copied=doing == "updating "
    )
    if _APK_UNCLEAR.search(why) and not problem.is_directory:
        return structs.replace(problem, lasting=False, unclear=address)
    return problem


def _opkg_problem(line: str, downloading: str, codes: Mapping[str, int]) -> RepositoryProblem | None:
    if line.startswith("Signature check failed"):
        return RepositoryProblem(downloading, "its signature is by none of the keys", lasting=True)
    if line.startswith("Signature file download failed"):
        address, file = downloading, f"{downloading}/Packages.sig"
        why = "its signature could not be fetched"
    else:
        found = _OPKG_FAILED.match(line)
        file = found[1].rstrip(",") if found else ""
        # At its end opkg lists all that it could not fetch, also packages and signatures.
        if not found or (line[0] != "*" and not file.endswith(("/Packages", "/Packages.gz"))):
            return None
        address = _INDEX.sub("", file)
        why = _WGET_WORDS.get(codes.get(file, 0), "its index could not be fetched")
    code = codes.get(file, 0)
    unclear = file if code in (0, _WGET_SERVER_ERROR) else ""
    return RepositoryProblem(address, why, code == _WGET_REFUSED, unclear)


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
    found = _OPKG_FILE.match(line)
    if found is None:
        return None
    package = found[1].rstrip(",")
    if package.startswith(("http://", "https://", "file:")):
        package, separator, version = package.rpartition("/")[2].partition("_")
        is_package = bool(separator) and version.endswith((".ipk", ".apk"))
    else:
        package = package.rstrip(".,")
        is_package = re.fullmatch(NAME, package) is not None
    return (package, "it could not be fetched") if is_package else None


_REFUSED_FILE = re.compile(
    r"mismatch for package |[a-z0-9]{1,20}+ mismatch|Package \S{1,200}+ checksum"
    r"|ADB integrity|ADB block|BAD signature|UNTRUSTED|Signature check failed"
)


def refuses_a_file(stderr: str) -> bool:
    """Whether a package manager says that a file it was given is not what an index or a key vouches for."""
    return _REFUSED_FILE.search(stderr) is not None


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
    own: list[tuple[RepositoryProblem, str]] = []
    for problem in repository_problems(stderr):
        name = "" if problem.copied else _own(request, problem)
        if not name:
            continue
        if len(own) < _MOST_ASKED and problem.unclear and not problem.lasting:
            answer = status(problem.unclear)
            if answer >= 400:
                # 408, 425 and 429 are over soon; any other 4xx says that the file itself is to blame.
                lasting = answer < 500 and answer not in (408, 425, 429)
                problem = structs.replace(problem, lasting=lasting, why=f"{problem.why} (HTTP {answer})")
        own.append((problem, name))
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


def blame_feed(request: BuildRequest, stderr: str, *, with_copied: bool = False) -> BuildFailed | None:
    """The failure of a repository that the request does not name: whatever a make went without it made
    another image than was asked for, even where it succeeded. `with_copied` also blames one that was
    used by its copy, which only explains a make that failed."""
    problems = [
        problem
        for problem in repository_problems(stderr)
        if (with_copied or not problem.copied) and not _own(request, problem)
    ]
    if not problems:
        return None
    named = ", ".join(f"{_plain(problem.address)} ({problem.why})" for problem in problems[:3])
    return BuildFailed(
        FailureReason.UPSTREAM_UNREACHABLE,
        f"Error: A package repository could not be reached or was not believed: {named}. {_LATER}",
        problem=_repositories(*problems),
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
    if undelivered := undelivered_packages(stderr):
        # Whatever fails after the index was read belongs to the world: mirrors are often between two states.
        named = [f"{name} ({why.rstrip('.')})" for name, why in undelivered.items()]
        full = any(is_disk_full(why) for why in undelivered.values())
        return BuildFailed(
            FailureReason.WORLD_UNAVAILABLE if full else FailureReason.UPSTREAM_UNREACHABLE,
            f"Error: Packages that the index lists could not be had: {some(named)}. {_LATER}",
            problem=BuildProblem(undelivered=undelivered),
        )
    if failure := blame_feed(found.request, stderr, with_copied=True) or _blame_selection(found, stderr):
        return failure
    if is_disk_full(stderr):
        return BuildFailed(
            FailureReason.WORLD_UNAVAILABLE,
            f"{otherwise}. The machine that builds had no room left. {_LATER}",
        )
    if script := explain_script(stderr):
        name, sentence = script
        chosen = name in found.request.wanted or name not in found.defaults
        return BuildFailed(
            FailureReason.MAKE_FAILED,
            f"{otherwise}. {sentence}",
            side=Side.USER if chosen else Side.INFRASTRUCTURE,
            field="packages",
            problem=BuildProblem(script=name),
        )
    return BuildFailed(reason, f"{otherwise}. {_LATER}", side=Side.INFRASTRUCTURE)


def _blame_selection(found: Circumstances, stderr: str) -> BuildFailed | None:
    problem = explain_selection(stderr)
    if not problem:
        return None
    sentence = problem.sentence()
    request = found.request
    replaced = bool(request.repositories) and request.repositories_mode == "replace"
    base = [name for name in problem.missing if not _is_chosen(found, problem, name)]
    others = [name for name in problem.missing if name not in base]
    if base and replaced:
        sentence += (
            ". Only the request's own repositories were used (repositories_mode is replace), and they "
            f"lack what every image needs, such as {base[0]}: send repositories_mode append to use the "
            "usual ones too"
        )
    elif (
        problem.missing
        and not problem.conflicts
        and not replaced
        # All that is missing should be there, by the ImageBuilder or by what this server announces.
        and (not others or (not problem.providers and set(others) <= set(found.announced().packages or ())))
    ):
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
        elif refused and line.startswith("Available filesystems: "):
            return tuple(line.partition(": ")[2].split())[:20]
    return () if refused else None
