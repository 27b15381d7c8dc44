"""What a build failed at, as names and numbers: found once, and read wherever it is shown."""

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

_NAMED = 20
"""Names in a sentence; all of them are in the problem beside it."""


class BuildProblem(Struct, frozen=True, omit_defaults=True):
    """What a person, or a program, can act on. What does not apply is empty."""

    missing: tuple[str, ...] = ()
    """Packages that do not exist, or cannot be installed on this device."""
    conflicts: tuple[str, ...] = ()
    """Packages that exclude each other."""
    needed_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a missing dependency, the packages that need it."""
    providers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a name that several packages may provide, those packages: one must be named."""
    refused: tuple[str, ...] = ()
    """Asked for and not installed, where the package manager does not say whether they exist."""
    undelivered: Mapping[str, str] = field(default_factory=dict)
    """Packages that the index lists and that could not be had, and why."""
    repositories: Mapping[str, str] = field(default_factory=dict)
    """Addresses of repositories that could not be used, and why."""
    versions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Packages with the version asked for and the one there is; "" for none."""
    revisions: tuple[str, str] | None = None
    """The revision, or version, that was asked for, and the one that was found."""
    script: str = ""
    """The package whose install script failed."""
    size: int | None = None
    """Bytes of an image that did not fit."""
    limit: int | None = None
    """Bytes there were room for."""
    full: bool = False
    """Whether it was the root file system that had no room."""
    filesystems: tuple[str, ...] = ()
    """The file systems that were built where another was asked for."""

    def __bool__(self) -> bool:
        return self != _NOTHING

    def sentence(self) -> str:
        """Why a selection is impossible: the predecessor's first words, then what to do."""
        parts = []
        if self.missing:
            parts.append(f"missing ({some(self.missing)})")
        if self.conflicts:
            parts.append(f"conflicts ({some(self.conflicts)})")
        sentence = f"Error: Impossible package selection: {' '.join(parts)}"
        for name, needing in list(self.needed_by.items())[:_NAMED]:
            sentence += f". {name} is needed by {some(needing)}"
        for name, providers in list(self.providers.items())[:_NAMED]:
            sentence += f". {name} is provided by {some(providers)}: name one of these"
        if self.refused:
            sentence += f". Not installed: {some(self.refused)}"
        return sentence


_NOTHING = BuildProblem()


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
