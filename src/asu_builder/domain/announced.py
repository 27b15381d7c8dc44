"""What this server announces, beside what an ImageBuilder has: the two are at times apart for hours.

A caller who repeats what we said is never wrong; the world is.
"""

from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

from asu_builder.domain.errors import BuildFailed, BuildProblem, FailureReason, Side, some
from asu_builder.domain.request import BuildRequest

BETWEEN = (
    "Upstream is between two states: what this server announces is not yet what the ImageBuilder has. "
    "Try again later."
)


class Announced(Struct, frozen=True):
    """What this server tells about a version and target now; None and "" for what is not known."""

    revision: str = ""
    packages: Mapping[str, str] | None = None
    filesystems: Collection[str] = ()
    """The file systems that upstream's own images of the profile have."""


class Circumstances(Struct, frozen=True):
    """What is known beside the output of a make call."""

    request: BuildRequest
    defaults: Collection[str] = ()
    """The packages that the ImageBuilder itself installs."""
    announced: Callable[[], Announced] = Announced
    """Asked only when it decides something, because it may take a while."""


def require_revision(found: Circumstances, revision: str, *, released: str = "") -> None:
    """Refuses an ImageBuilder of another revision than the release's, and than the request's.

    `released` is the revision that upstream says of a fixed release, "" where none can be compared:
    a container image under a release's tag may hold another one. Another mismatch is the user's fault
    only where this server announces what the ImageBuilder has: then the caller cannot have the other
    revision from us now.
    """
    asked = found.request.version_code
    if released and released != revision:
        raise BuildFailed(
            FailureReason.REVISION_MISMATCH,
            f"Error: Received incorrect version {revision} (requested {released}). The ImageBuilder of "
            f"{found.request.version} is another one than upstream has released; try again later.",
            side=Side.INFRASTRUCTURE,
            field="version",
            problem=BuildProblem(revisions=(released, revision)),
        )
    if not asked or asked == revision:
        return
    behind = found.announced().revision != revision
    detail = f"Error: Received incorrect version {revision} (requested {asked})"
    raise BuildFailed(
        FailureReason.REVISION_MISMATCH,
        f"{detail}. {BETWEEN}" if behind else detail,
        side=Side.INFRASTRUCTURE if behind else Side.USER,
        field="version_code",
        problem=BuildProblem(revisions=(asked, revision)),
    )


def require_versions(
    found: Circumstances, manifest: Mapping[str, str], *, released: Collection[str] = ()
) -> None:
    """Refuses a manifest that does not hold exactly the versions the caller was shown, and names all of them.

    `released` are names that a package rule renamed or removed: no caller was shown their version.
    """
    asked = found.request.packages_versions
    wrong = {
        name: (version, manifest.get(name, ""))
        for name, version in asked.items()
        if not name.startswith("-")
        and name not in released
        and (name not in manifest or (version and manifest[name] != version))
    }
    if not wrong:
        return
    named = [
        f"{name} version not as requested: {version} vs. {there}" if there else f"{name} not in manifest"
        for name, (version, there) in wrong.items()
    ]
    detail = f"Error: Impossible package selection: {some(named)}"
    announced = found.announced().packages
    lag = announced is not None and all(
        name in announced and version in ("", announced[name]) for name, (version, _) in wrong.items()
    )
    raise BuildFailed(
        FailureReason.VERSION_MISMATCH,
        f"{detail}. {BETWEEN}" if lag else detail,
        side=Side.INFRASTRUCTURE if lag else Side.USER,
        field="packages_versions",
        problem=BuildProblem(versions=wrong),
    )
