"""Advice on failed and cancelled builds: what to do, and corrected requests."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.domain.errors import BuildProblem, FailureReason, Side
from asu_builder.domain.job import BuildFailure
from asu_builder.domain.request import BuildRequest
from asu_builder.http.pages.words import ADVICE, CAUSES, LATER
from asu_builder.http.texts import gettext, marked, ngettext

AS_IT_IS = "again"
"""The key of the correction that changes nothing."""
_MOST_CHOICES = 4


class Correction(Struct, frozen=True):
    """A request that may succeed where another failed. `key` names it among those of its build."""

    key: str
    sentence: str
    request: BuildRequest


class Advice(Struct, frozen=True):
    """What happened, what caused it, and what to do; the best correction comes first."""

    heading: str
    cause: str
    what_to_do: str
    corrections: tuple[Correction, ...] = ()


class Context(Struct, frozen=True):
    """What is known beside the failure."""

    meant: Mapping[str, Sequence[str]] = {}
    """The closest existing names for an unknown one, best first."""
    defaults: Collection[str] = ()
    """The default packages of the device."""
    max_rootfs_size_mb: int = 0
    culprit: str = ""
    """The package of the request that needs what is missing, where the failure does not name it."""


_SAY_IT_THEMSELVES = frozenset({FailureReason.IMAGEBUILDER_MISSING, FailureReason.DEADLINE})
_AGAIN_FOR_USERS = frozenset({FailureReason.EXPIRED})


def advise(request: BuildRequest, failure: BuildFailure, known: Context) -> Advice:
    """Advice on a failed build."""
    heading, what_to_do = ADVICE[failure.reason]
    if failure.side is Side.INFRASTRUCTURE and failure.reason not in _SAY_IT_THEMSELVES:
        what_to_do = LATER
    expired = failure.reason is FailureReason.EXPIRED
    cause = gettext(marked("no client polled it") if expired else CAUSES[failure.side])
    # Each once, without those that change nothing.
    found: dict[str, Correction] = {}
    for correction in _corrections(request, failure, known):
        if correction.key == AS_IT_IS or correction.request != request:
            found.setdefault(correction.key, correction)
    return Advice(gettext(heading), cause, gettext(what_to_do), tuple(found.values()))


def advise_cancelled(request: BuildRequest) -> Advice:
    """Advice on a cancelled build."""
    again = Correction(AS_IT_IS, gettext("Build it again"), request)
    what_to_do = gettext("The same request starts a new build at once.")
    return Advice(gettext("The build was cancelled"), "", what_to_do, (again,))


def _corrections(request: BuildRequest, failure: BuildFailure, known: Context) -> Iterator[Correction]:
    reason = failure.reason
    if failure.side is not Side.USER or reason in _AGAIN_FOR_USERS:
        words = gettext("Build it again") if reason is FailureReason.EXPIRED else gettext("Try again")
        yield Correction(AS_IT_IS, words, request)
    if reason is FailureReason.REVISION_MISMATCH and request.version_code:
        words = gettext("Build the current revision")
        yield Correction("any-revision", words, replace(request, version_code=""))
    elif reason is FailureReason.NO_IMAGES and request.filesystem:
        words = gettext("Build all file systems")
        yield Correction("any-filesystem", words, replace(request, filesystem=None))
    elif reason is FailureReason.TOO_BIG:
        size = request.rootfs_size_mb
        if size and failure.problem.full and (larger := min(2 * size, known.max_rootfs_size_mb)) > size:
            sentence = gettext("Build with a root partition of %(size)s MiB", size=larger)
            yield Correction("larger", sentence, replace(request, rootfs_size_mb=larger))
    elif reason in (FailureReason.IMPOSSIBLE_SELECTION, FailureReason.VERSION_MISMATCH):
        yield from _other_packages(request, failure, known)
    elif failure.problem.script in request.wanted:
        yield _without(request, (failure.problem.script,))


def find_problem(failure: BuildFailure) -> BuildProblem:
    """The packages that a selection failed at; those missing in the manifest count as missing."""
    problem = failure.problem
    absent = tuple(name for name, (_, there) in problem.versions.items() if not there)
    return replace(problem, missing=(*problem.missing, *absent)) if absent else problem


def _other_packages(request: BuildRequest, failure: BuildFailure, known: Context) -> Iterator[Correction]:
    if any(there for _, there in failure.problem.versions.values()):
        unversioned = replace(request, packages=request.wanted, packages_versions={})
        yield Correction("any-version", gettext("Build with the current versions"), unversioned)
    problem = find_problem(failure)
    # To blame are requested packages that do not exist, or that need one that does not.
    needed_by = problem.needed_by or {}
    blamed = [*problem.missing, *(caller for name in problem.missing for caller in needed_by.get(name, ()))]
    if not blamed and not problem.conflicts:
        blamed = list(problem.refused)
    bad = tuple(name for name in dict.fromkeys(blamed) if name in request.wanted)
    if not bad and known.culprit in request.wanted:
        bad = (known.culprit,)
    meant = {name: known.meant[name][0] for name in bad if known.meant.get(name)}
    if meant and len(meant) == len(bad):
        pairs = [gettext("%(new)s instead of %(old)s", new=new, old=old) for old, new in meant.items()]
        words = gettext("Build with %(packages)s", packages=_some(pairs))
        yield Correction("nearest", words, change_packages(request, replaced=meant))
    if bad:
        yield _without(request, bad)
    # One correction for each conflicting package, without it.
    for name in problem.conflicts[:_MOST_CHOICES] if not problem.missing else ():
        if name in request.wanted:
            yield _without(request, (name,))
        elif name in known.defaults and f"-{name}" not in request.wanted:
            changed = change_packages(request, added=(f"-{name}",))
            words = gettext("Build without %(packages)s", packages=name)
            yield Correction(f"without {name}", words, changed)


def _without(request: BuildRequest, names: Sequence[str]) -> Correction:
    changed = change_packages(request, dropped=names)
    words = gettext("Build without %(packages)s", packages=_some(names))
    return Correction(f"without {' '.join(names)}", words, changed)


def change_packages(
    request: BuildRequest,
    *,
    dropped: Collection[str] = (),
    replaced: Mapping[str, str] | None = None,
    added: Sequence[str] = (),
) -> BuildRequest:
    """The request with other packages; a package that stays keeps its version."""
    new = replaced or {}
    names = [new.get(name, name) for name in request.wanted if name not in dropped]
    names = list(dict.fromkeys([*names, *added]))
    versions = request.packages_versions
    return replace(
        request,
        packages=() if versions else tuple(names),
        packages_versions={name: versions.get(name, "") for name in names} if versions else {},
    )


def _some(names: Sequence[str]) -> str:
    shown = list(names[:_MOST_CHOICES])
    if len(names) > len(shown):
        more = len(names) - len(shown)
        found = {"names": ", ".join(shown), "count": more}
        return ngettext("%(names)s and %(count)s more", "%(names)s and %(count)s more", more, **found)
    return gettext(" and ").join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
