"""What a package manager could not fetch or did not believe: repositories, and packages of an index."""

import re
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct, structs

from asu_builder.domain.packages import without_version
from asu_builder.domain.printed import NAME, lines_of

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
    # At its end opkg lists all that it could not fetch: packages, and signatures, which are told apart.
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
        if line.startswith((" * ", "ERROR: ")) and (package := _undelivered(line)):
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


def _undelivered(line: str) -> tuple[str, str] | None:
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
