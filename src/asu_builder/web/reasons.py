"""Why builds failed, in a few words each; `docs/errors.md` says more."""

from collections.abc import Mapping

from asu_builder.domain.errors import FailureReason

WORDS: Mapping[str, str] = {
    FailureReason.IMAGEBUILDER_MISSING: "no ImageBuilder for this version and target",
    FailureReason.SETUP_FAILED: "the ImageBuilder could not be set up",
    FailureReason.REVISION_MISMATCH: "the sources have moved",
    FailureReason.NOT_OFFERED: "no longer offered",
    FailureReason.UNKNOWN_PROFILE: "the ImageBuilder does not know the device",
    FailureReason.BAD_REPOSITORY: "a repository of the request cannot be used",
    FailureReason.IMPOSSIBLE_SELECTION: "packages are missing or exclude each other",
    FailureReason.VERSION_MISMATCH: "a package has another version than asked for",
    FailureReason.TOO_BIG: "the packages do not fit on the device",
    FailureReason.MAKE_FAILED: "the ImageBuilder failed",
    FailureReason.NO_IMAGES: "no image was made for the device",
    FailureReason.DEADLINE: "took too long",
    FailureReason.OUT_OF_MEMORY: "needed too much memory",
    FailureReason.DISK_LIMIT: "wrote too much",
    FailureReason.UPSTREAM_UNREACHABLE: "a package repository did not answer",
    FailureReason.WORLD_UNAVAILABLE: "something around the service did not work",
    FailureReason.UNTRUSTED_OUTPUT: "the output was not to be trusted",
    FailureReason.INCOMPLETE_OUTPUT: "the output was incomplete",
    FailureReason.GAVE_UP: "was cut off three times",
    FailureReason.EXPIRED: "nobody waited for it any more",
    FailureReason.INTERNAL: "a mistake of this service",
}


def in_words(reason: str) -> str:
    """A reason as people say it; one that is not known as it is."""
    return WORDS.get(reason, reason.replace("_", " "))


def as_beginning(reason: str) -> str:
    """The same at the beginning of a line."""
    words = in_words(reason)
    return words[:1].upper() + words[1:]
