"""Comparing package versions, and explaining what a package manager said."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from asu_builder.domain.errors import BuildFailed, FailureReason
from asu_builder.domain.request import BuildRequest


def require_versions(
    request: BuildRequest, manifest: Mapping[str, str], *, released: Collection[str] = ()
) -> None:
    """Refuses a manifest that does not hold exactly the versions the asker was shown.

    `released` are names that a package rule renamed or removed: nobody can have shown their version.
    """
    for name, version in request.packages_versions.items():
        if name.startswith("-") or name in released:
            continue
        if name not in manifest:
            raise BuildFailed(
                FailureReason.VERSION_MISMATCH,
                f"Error: Impossible package selection: {name} not in manifest",
            )
        if version and manifest[name] != version:
            raise BuildFailed(
                FailureReason.VERSION_MISMATCH,
                f"Error: Impossible package selection: {name} version not as requested: "
                f"{version} vs. {manifest[name]}",
            )


_NAMED = 20
"""Names in a sentence; all of them are in the output beside it."""


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


class SelectionProblem(Struct, frozen=True):
    """Why a package manager refused a selection, in names a person can act on."""

    missing: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    needed_by: Mapping[str, tuple[str, ...]] | None = None
    """For a missing dependency, the packages that need it."""
    refused: tuple[str, ...] = ()
    """Asked for and not installed, where the package manager does not say whether they exist."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.conflicts)

    def sentence(self) -> str:
        """The predecessor's first words, then what to do."""
        parts = []
        if self.missing:
            parts.append(f"missing ({_some(self.missing)})")
        if self.conflicts:
            parts.append(f"conflicts ({_some(self.conflicts)})")
        sentence = f"Error: Impossible package selection: {' '.join(parts)}"
        for name, askers in list((self.needed_by or {}).items())[:_NAMED]:
            sentence += f". {name} is needed by {_some(askers)}"
        if self.refused:
            sentence += f". Not installed: {_some(self.refused)}"
        return sentence


_NAME = r"[A-Za-z0-9][A-Za-z0-9._+~-]*"
# apk writes "name-1.2.3-r4"; the version starts at the last "-<digit>" that an "-r<n>" follows.
_APK_VERSION = re.compile(r"-[0-9][^-]*(?:-r[0-9]+)?$")
_OPKG_MISSING = re.compile(rf" \* opkg_install_cmd: Cannot install package ({_NAME})\.")
_OPKG_FOUND = re.compile(rf"Packages for ({_NAME}) found, but incompatible")
_OPKG_DEPENDENCY = re.compile(rf"cannot find dependency ({_NAME}) for ({_NAME})")
_OPKG_CONFLICT = re.compile(rf"check_conflicts_for: The following packages conflict with ({_NAME}):")
_OPKG_CONFLICTING = re.compile(rf"check_conflicts_for: \t({_NAME}) \*")
_OPKG_CLASH = re.compile(
    rf"check_data_file_clashes: Package ({_NAME}) wants to install file [^\n]*\n"
    rf"\s*But that file is already provided by package\s+\* ({_NAME})"
)
_APK_MISSING = re.compile(rf"^  ({_NAME}) \(no such package\):", re.MULTILINE)
_APK_BLOCK = re.compile(rf"^  ({_NAME})(?: \(no such package\))?:$", re.MULTILINE)
_APK_CONFLICT = re.compile(rf"^    conflicts: ({_NAME})", re.MULTILINE)
_APK_CLASH = re.compile(rf"^ERROR: ({_NAME}): trying to overwrite \S+ owned by ({_NAME})\.", re.MULTILINE)
_APK_REQUIRED = re.compile(rf"({_NAME})\[")


def explain_selection(stderr: str) -> SelectionProblem:
    """What opkg or apk complained about; an empty problem when the text is about something else."""
    if "ERROR:" in stderr and ("unable to select packages" in stderr or "trying to overwrite" in stderr):
        return _explain_apk(stderr)
    return _explain_opkg(stderr)


def _explain_apk(stderr: str) -> SelectionProblem:
    missing, conflicts = [], []
    needed_by: dict[str, tuple[str, ...]] = {}
    for block in _blocks(stderr):
        name = block.strip().split(":", 1)[0].split(" ")[0]
        if "(no such package)" in block.splitlines()[0]:
            missing.append(name)
            askers = [
                _APK_VERSION.sub("", asker) for asker in _APK_REQUIRED.findall(block) if asker != "world"
            ]
            if askers:
                needed_by[name] = tuple(askers)
        elif others := _APK_CONFLICT.findall(block):
            conflicts += [name, *others]
    for clash in _APK_CLASH.findall(stderr):
        conflicts += clash
    return SelectionProblem(
        _unique(missing), _unique(_APK_VERSION.sub("", name) for name in conflicts), needed_by
    )


def _blocks(stderr: str) -> Sequence[str]:
    # What follows the complaint is make's own trace.
    stderr = stderr.partition("\nmake")[0]
    starts = [match.start() for match in _APK_BLOCK.finditer(stderr)]
    return [stderr[start:end] for start, end in pairwise([*starts, len(stderr)])]


def _explain_opkg(stderr: str) -> SelectionProblem:
    dependencies = _OPKG_DEPENDENCY.findall(stderr)
    conflicts = [*_OPKG_CONFLICT.findall(stderr), *_OPKG_CONFLICTING.findall(stderr)]
    conflicts += [name for clash in _OPKG_CLASH.findall(stderr) for name in clash]
    refused: tuple[str, ...] = ()
    if dependencies:
        # opkg blames whatever was requested; these lines alone surely name what does not exist.
        missing = [name for name, _ in dependencies]
        exist = {*missing, *_OPKG_FOUND.findall(stderr)}
        refused = tuple(name for name in _OPKG_MISSING.findall(stderr) if name not in exist)
    else:
        # After a clash opkg also blames whatever it could not finish: that is no missing package.
        missing = [] if conflicts else _OPKG_MISSING.findall(stderr)
    needed_by: dict[str, tuple[str, ...]] = {}
    for name, asker in dependencies:
        needed_by[name] = _unique((*needed_by.get(name, ()), asker))
    return SelectionProblem(_unique(missing), _unique(conflicts), needed_by, refused)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


_UNREACHABLE = re.compile(
    r"(?:^WARNING: (?:updating and )?opening|Failed to download the package list from) (https?://\S+)(.*)$",
    re.MULTILINE,
)


def unreachable_repositories(stderr: str) -> tuple[str, ...]:
    """Addresses the package manager could not read: then its other complaints prove nothing.

    An untrusted signature is no such case: that repository answered.
    """
    found = [address for address, why in _UNREACHABLE.findall(stderr) if "UNTRUSTED" not in why]
    return _unique(address.rstrip(":") for address in found)


_TOO_BIG = re.compile(r"[^\n]*(?:is too big|images are too big|partition too big|out of space\?)[^\n]*")
_TOO_BIG_NUMBERS = re.compile(r"is too big: (\d+) > (\d+)")


def explain_too_big(stderr: str) -> str | None:
    """A sentence when an image did not fit; None when the text says nothing of the kind."""
    found = _TOO_BIG.search(stderr)
    if not found:
        return None
    sentence = "Error: Selected packages exceed device storage"
    if numbers := _TOO_BIG_NUMBERS.search(stderr):
        over = int(numbers[1]) - int(numbers[2])
        sentence += f": {numbers[1]} bytes do not fit into {numbers[2]}, {over} too many"
    elif "out of space?" in found[0]:
        sentence += ": the root file system is full; a larger rootfs_size_mb or fewer packages help"
        return sentence
    return f"{sentence}. Remove packages and try again"


_FAILED_SCRIPT = re.compile(r"postinst script (\S+) has failed with exit code (\d+)")


def explain_script(stderr: str) -> str | None:
    """A sentence when a package's post-install script failed; None otherwise."""
    found = _FAILED_SCRIPT.search(stderr)
    if not found:
        return None
    script = found[1].rpartition("/")[2]
    # opkg: name.postinst; apk: name-1.0-r1.X<digest>.post-install
    name = (
        script.removesuffix(".postinst")
        if script.endswith(".postinst")
        else _APK_VERSION.sub("", script.split(".X")[0])
    )
    return f"The install script of {name} failed with exit code {found[2]}; leave that package out"
