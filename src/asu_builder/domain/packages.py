"""What a package manager said about a selection, and what package rules changed in it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from msgspec import Struct, field
from msgspec.structs import replace

from asu_builder.domain.errors import BuildProblem
from asu_builder.domain.make import NAME, lines_of

# Patterns are texts here, which `re` compiles with the first build that fails: a start needs none of them.
_MOST_NAMED = 200
"""Names of one kind that are kept; a person reads the first."""
# apk writes "name-1.2.3-r4"; the version starts at the last "-<digit>" that an "-r<n>" follows.
_APK_VERSION = r"-[0-9][^-]*+(?:-r[0-9]++)?$"


def without_version(name: str) -> str:
    """A name as apk prints it, without its version."""
    return re.sub(_APK_VERSION, "", name)


def explain_selection(stderr: str) -> BuildProblem:
    """What opkg or apk complained about; an empty problem when the text is about something else."""
    lines = lines_of(stderr)
    return _explain_apk(lines) or _explain_opkg(lines)


class _Block(Struct):
    """What apk says about one name: its note in parentheses, and words by label."""

    name: str
    note: str
    said: dict[str, list[str]]
    label: str = ""

    def read(self, line: str) -> None:
        """A line with a label, or one that goes on."""
        if label := re.match(_APK_LABEL, line):
            self.label = label[1]
            line = line[label.end() :]
        words = self.said.setdefault(self.label, [])
        if len(words) < _MOST_NAMED:
            words += line.split(None, _MOST_NAMED)[:_MOST_NAMED]

    @property
    def is_missing(self) -> bool:
        """Whether apk has nothing of this name that it may install here."""
        return bool(self.note) or "masked in" in self.said or "error" in self.said

    def packages(self, *labels: str) -> tuple[str, ...]:
        """The packages named under these labels; what the request itself asks for is no package."""
        words = [word for label in labels for word in self.said.get(label, ())]
        return unique(
            without_version(word.partition("[")[0]) for word in words if not word.startswith("world[")
        )


_APK_HEADER = rf"  ({NAME})(?: \(([a-z ]{{1,40}}+)\))?:$"
_APK_LABEL = r"    ([a-z][a-z ]{0,20}+):"
_APK_CLASH = rf"ERROR: ({NAME}): trying to overwrite "


def _explain_apk(lines: Sequence[str]) -> BuildProblem:
    # The blocks stand below "unable to select packages"; what follows them is make's own trace.
    blocks: list[_Block] = []
    inside = False
    for line in lines:
        if line.startswith("ERROR: unable to select packages"):
            inside = True
        elif inside and line.startswith("  "):
            if header := re.match(_APK_HEADER, line):
                blocks.append(_Block(header[1], header[2] or "", {}))
            elif blocks:
                blocks[-1].read(line)
        else:
            inside = False
    missing: list[str] = []
    conflicts: list[str] = []
    needed_by: dict[str, tuple[str, ...]] = {}
    providers: dict[str, tuple[str, ...]] = {}
    for block in blocks:
        if "conflicts" in block.said or "breaks" in block.said:
            # What breaks a demand of the request itself has no other side.
            conflicts += [without_version(block.name), *block.packages("conflicts", "breaks")]
        elif block.is_missing:
            name = block.name if block.note else without_version(block.name)
            missing.append(name)
            needed_by[name] = block.packages("required by", "satisfies")
            providers[name] = unique(block.said.get("provided by", ()))
    for line in lines:
        if clash := re.match(_APK_CLASH, line):
            owner = line.rpartition(" owned by ")[2].rstrip(".")
            conflicts += [without_version(clash[1]), without_version(owner)]
    return BuildProblem(unique(missing), unique(conflicts), _first(needed_by), _first(providers))


_OPKG_MISSING = rf" \* opkg_install_cmd: Cannot install package ({NAME})"
_OPKG_FOUND = rf" \* pkg_hash_fetch_best_installation_candidate: Packages for ({NAME}) found, but incompat"
_OPKG_DEPENDENCY = (
    rf" \* pkg_hash_check_unresolved: cannot find dependency ({NAME})"
    rf"(?: \([^()]{{0,99}}+\))? for ({NAME})"
)
_OPKG_UNSATISFIED = rf" \* satisfy_dependencies_for: Cannot satisfy the following dependencies for ({NAME}):"
_OPKG_LISTED = rf" \*\s++({NAME})(?: \([^()]{{0,99}}+\))?\s++\*"
_OPKG_CONFLICT = rf" \* check_conflicts_for: The following packages conflict with ({NAME}):"
_OPKG_CONFLICTING = rf" \* check_conflicts_for: \t({NAME}) \*"
_OPKG_CLASH = rf" \* check_data_file_clashes: Package ({NAME}) wants to install file "
_OPKG_CLASHING = rf"\s++But that file is already provided by package\s++\* ({NAME})"


def _explain_opkg(lines: Iterable[str]) -> BuildProblem:
    blamed: list[str] = []
    exist: set[str] = set()
    conflicts: list[str] = []
    needed_by: dict[str, dict[str, None]] = {}
    unsatisfied = ""
    for line in lines:
        if not line.startswith((" * ", "\t", " \t")):
            continue
        if listed := unsatisfied and re.match(_OPKG_LISTED, line):
            needed_by.setdefault(listed[1], {})[unsatisfied] = None
            continue
        unsatisfied = ""
        if found := re.match(_OPKG_MISSING, line):
            blamed.append(found[1].rstrip("."))
        elif found := re.match(_OPKG_DEPENDENCY, line):
            needed_by.setdefault(found[1], {})[found[2]] = None
        elif found := re.match(_OPKG_FOUND, line):
            exist.add(found[1])
        elif found := re.match(_OPKG_UNSATISFIED, line):
            unsatisfied = found[1]
        elif found := (
            re.match(_OPKG_CONFLICT, line)
            or re.match(_OPKG_CONFLICTING, line)
            or re.match(_OPKG_CLASH, line)
            or re.match(_OPKG_CLASHING, line)
        ):
            conflicts.append(found[1])
    if needed_by:
        # opkg blames whatever was requested; these lines alone surely name what does not exist.
        missing = unique(needed_by)
        exist.update(missing, *needed_by.values())
        refused = unique(name for name in blamed if name not in exist)
        first = _first({name: unique(needing) for name, needing in needed_by.items()})
        return BuildProblem(missing, unique(conflicts), first, refused=refused)
    # After a clash opkg also blames whatever it could not finish: that is no missing package.
    return BuildProblem(() if conflicts else unique(blamed), unique(conflicts))


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Each once, in their order, no more than people read."""
    found: dict[str, None] = dict.fromkeys(names)
    return tuple(found)[: _MOST_NAMED * 20]


def _first(named: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    known = ((name, names[:_MOST_NAMED]) for name, names in named.items() if names)
    return dict(islice(known, _MOST_NAMED))


_TOO_BIG = ("is too big", "are too big", "partition too big", "out of space?")
_TOO_BIG_NUMBERS = r"is too big: (\d{1,18}+) > (\d{1,18}+)"


def find_too_big(stderr: str) -> BuildProblem | None:
    """The numbers of an image that did not fit; None when the text says nothing of the kind."""
    found: BuildProblem | None = None
    for line in lines_of(stderr):
        if not any(words in line for words in _TOO_BIG):
            continue
        if numbers := re.search(_TOO_BIG_NUMBERS, line):
            return BuildProblem(size=int(numbers[1]), limit=int(numbers[2]))
        if found is None:
            found = BuildProblem(full="out of space?" in line)
    return found


def too_big_sentence(problem: BuildProblem) -> str:
    """What to tell whose image did not fit."""
    sentence = "Error: Selected packages exceed device storage"
    if problem.size is not None and problem.limit is not None:
        over = problem.size - problem.limit
        sentence += f": {problem.size} bytes do not fit into {problem.limit}, {over} too many"
    elif problem.full:
        return f"{sentence}: the root file system is full; a larger rootfs_size_mb or fewer packages help"
    return f"{sentence}. Remove packages and try again"


_FAILED_SCRIPT = r"postinst script (\S{1,400}+) has failed with exit code (\d{1,9}+)"


def explain_script(stderr: str) -> tuple[str, str] | None:
    """The package whose post-install script failed, and a sentence about it; None when none did."""
    for line in lines_of(stderr):
        at = line.find("postinst script ")
        found = re.match(_FAILED_SCRIPT, line[at:]) if at >= 0 else None
        if found:
            # opkg: name.postinst; apk: name-1.0-r1.X<digest>.post-install
            script = found[1].rpartition("/")[2]
            name = script.removesuffix(".postinst")
            if name == script:
                name = without_version(script.split(".X")[0])
            return name, (
                f"The install script of {name} failed with exit code {int(found[2])}; leave that package out"
            )
    return None


_NAMED, _SHOWN = 10, 40
"""Names in a warning, and characters of each."""


class AppliedRule(Struct, frozen=True):
    """What one rule did, and why."""

    rule: str
    why: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


class PackageChangesRecord(Struct, frozen=True):
    """How the package selection came about; part of a build's record and answer.

    `missing_defaults` are defaults of the version asked for that neither the request nor the
    version before has: the caller may not know of them.
    """

    applied: tuple[AppliedRule, ...] = ()
    warnings: tuple[str, ...] = ()
    missing_defaults: tuple[str, ...] = ()


class PackageSelection(Struct, frozen=True):
    """What make is told, and how it came about. `released` names need no version any more."""

    packages: tuple[str, ...]
    record: PackageChangesRecord = field(default_factory=PackageChangesRecord)
    released: frozenset[str] = frozenset()


def with_ucert(selection: PackageSelection) -> PackageSelection:
    """With what checks signatures on the device, unless the request names it or says no to it."""
    if {"ucert", "-ucert"} & set(selection.packages):
        return selection
    return replace(selection, packages=(*selection.packages, "ucert"))


def warn_of_odd_packages(selection: PackageSelection, odd: Sequence[str]) -> PackageSelection:
    """The same, with a warning that these default packages are not removed."""
    warning = (
        f"Default packages with names that make cannot be told stay in the image: "
        f"{', '.join(ascii(name[:_SHOWN])[1:-1] for name in odd[:_NAMED])}"
    )
    record = replace(selection.record, warnings=(*selection.record.warnings, warning))
    return replace(selection, record=record)


class Baseline(Struct, frozen=True):
    """What a device had before: the defaults of its version, device packages among them."""

    version: str
    packages: tuple[str, ...]
