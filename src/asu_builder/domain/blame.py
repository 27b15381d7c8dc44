"""Whose fault a failed make is, from what it printed.

A failure is the user's only where that is sure: the request names what does not exist, excludes
itself, or brings a repository that is wrong. Everything else may be over in a minute.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping

from msgspec import structs

from asu_builder.domain.announced import BETWEEN, Circumstances
from asu_builder.domain.downloads import (
    RepositoryProblem,
    is_disk_full,
    is_lasting_status,
    repository_problems,
    undelivered_packages,
)
from asu_builder.domain.errors import BuildFailed, FailureReason, Side
from asu_builder.domain.packages import explain_script, explain_selection, find_failed_script
from asu_builder.domain.printed import lines_of
from asu_builder.domain.problem import BuildProblem, some
from asu_builder.domain.request import BuildRequest

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
    """Whether a missing package is there for the request's sake, as far as can be told."""
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
