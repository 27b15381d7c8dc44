"""Numbers, sizes, times, stages and reasons in words."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from markupsafe import Markup, escape
from msgspec import Struct

from asu_builder.core.submit import BuildView
from asu_builder.domain.errors import FailureReason, Side
from asu_builder.domain.job import FINAL_STATES, STAGE_WORDS, Image, Job, JobState, Stage

WORDS: Mapping[str, str] = {
    FailureReason.IMAGEBUILDER_MISSING: "no ImageBuilder for this version and target",
    FailureReason.SETUP_FAILED: "the ImageBuilder could not be set up",
    FailureReason.REVISION_MISMATCH: "the source revision has changed",
    FailureReason.NOT_OFFERED: "no longer offered",
    FailureReason.UNKNOWN_PROFILE: "the ImageBuilder does not know the device",
    FailureReason.BAD_REPOSITORY: "a repository of the request is unusable",
    FailureReason.IMPOSSIBLE_SELECTION: "packages are missing or conflict",
    FailureReason.VERSION_MISMATCH: "a package has another version than requested",
    FailureReason.TOO_BIG: "the packages do not fit on the device",
    FailureReason.MAKE_FAILED: "the ImageBuilder failed",
    FailureReason.NO_IMAGES: "no image was made for the device",
    FailureReason.DEADLINE: "took too long",
    FailureReason.OUT_OF_MEMORY: "used too much memory",
    FailureReason.DISK_LIMIT: "used too much disk space",
    FailureReason.UPSTREAM_UNREACHABLE: "a package repository did not answer",
    FailureReason.WORLD_UNAVAILABLE: "the server's infrastructure failed",
    FailureReason.UNTRUSTED_OUTPUT: "the output was refused",
    FailureReason.INCOMPLETE_OUTPUT: "the output was incomplete",
    FailureReason.GAVE_UP: "was interrupted three times",
    FailureReason.EXPIRED: "was no longer polled",
    FailureReason.INTERNAL: "an internal error of this server",
}
"""Each reason of failure, within a list."""

CAUSES = {
    Side.USER: "the request",
    Side.INFRASTRUCTURE: "the infrastructure of this server",
    Side.INTERNAL: "an internal error of this server",
}
"""The side of a failure in words."""

LATER = "The request is fine. Try it again in a minute."
_OURS = "This is an error of the server. Try again; if it fails again, tell the operator."
_SEARCH = "Choose another version, or search for the device: its name may have changed."
ADVICE: Mapping[FailureReason, tuple[str, str]] = {
    FailureReason.IMAGEBUILDER_MISSING: (
        "There is no ImageBuilder for this version and target",
        "For a new release it appears within hours. Try again later, or choose another version.",
    ),
    FailureReason.SETUP_FAILED: ("The ImageBuilder could not be set up", LATER),
    FailureReason.REVISION_MISMATCH: (
        "The source revision has changed since the request",
        "Search for upgrades again on the device, or build the current revision.",
    ),
    FailureReason.NOT_OFFERED: ("This is no longer offered here", _SEARCH),
    FailureReason.UNKNOWN_PROFILE: ("The ImageBuilder of this version does not know the device", _SEARCH),
    FailureReason.BAD_REPOSITORY: (
        "A package repository of the request cannot be used",
        "Correct its URL or its key, or remove it.",
    ),
    FailureReason.IMPOSSIBLE_SELECTION: (
        "These packages cannot be installed",
        "Remove or replace the packages named above, and build again.",
    ),
    FailureReason.VERSION_MISMATCH: (
        "A package has another version than the request asks for",
        "Search for upgrades again on the device, or build with the current versions.",
    ),
    FailureReason.TOO_BIG: (
        "The packages do not fit on the device",
        "Remove packages, the largest first; default packages can be left out too.",
    ),
    FailureReason.MAKE_FAILED: (
        "The ImageBuilder failed",
        "The last lines of the log show where. Often a package's install script fails: remove that package.",
    ),
    FailureReason.NO_IMAGES: (
        "No image was made for this device",
        "Build all file systems, or choose another version.",
    ),
    FailureReason.DEADLINE: (
        "The build took too long and was stopped",
        "Try again in a minute, when the server may be less busy. Fewer packages or a smaller root "
        "partition make the build faster.",
    ),
    FailureReason.OUT_OF_MEMORY: (
        "The build used more memory than allowed",
        "Fewer packages or a smaller root partition need less.",
    ),
    FailureReason.DISK_LIMIT: (
        "The build used more disk space than allowed",
        "Fewer packages or a smaller root partition need less.",
    ),
    FailureReason.UPSTREAM_UNREACHABLE: ("A package repository did not answer", LATER),
    FailureReason.WORLD_UNAVAILABLE: ("The infrastructure of this server failed", LATER),
    FailureReason.UNTRUSTED_OUTPUT: ("The output of the build was refused", _OURS),
    FailureReason.INCOMPLETE_OUTPUT: ("The output of the build is incomplete", _OURS),
    FailureReason.GAVE_UP: ("The build was interrupted several times", _OURS),
    FailureReason.EXPIRED: (
        "The build expired in the queue",
        "No client polled it while it waited. Request it again to have it built.",
    ),
    FailureReason.INTERNAL: ("The server had an internal error", _OURS),
}
"""For each reason the heading of the page of a failed build, and what to do."""


def in_words(reason: str) -> str:
    """A reason in words; an unknown one with its underscores removed."""
    return WORDS.get(reason, reason.replace("_", " "))


def as_beginning(reason: str) -> str:
    """The same with a capital letter."""
    words = in_words(reason)
    return words[:1].upper() + words[1:]


_CODE = re.compile("`([^`]+)`")
_ADDRESS = re.compile(r"https://[A-Za-z0-9._~/?#=&;%+-]*[A-Za-z0-9/]")
_REACHED = re.compile(
    r"https?://[A-Za-z0-9._~/?#=&;%+:@-]*[A-Za-z0-9/]|[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes in the largest unit that leaves at least one: `9.4 MiB`."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 or count >= 100 else f"{count:.1f} {_UNITS[unit]}"


def span(length: timedelta | float) -> str:
    """A duration in its two largest units: `3 min 20 s`."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    parts = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    first = next(index for index, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def moment(at: datetime) -> Markup:
    """A time in UTC, as in the log; a script adds the local time as a tooltip."""
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        utc.isoformat(timespec="seconds"), f"{utc:%Y-%m-%d %H:%M} UTC"
    )


def number(count: float) -> str:
    """A number with thin spaces between thousands."""
    return f"{count:,}".replace(",", "\u202f")


def sentence(text: str) -> Markup:
    """One of our sentences; text in backticks becomes code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def contact(text: str) -> Markup:
    """The operator's contact; mail and web addresses become links."""
    parts = []
    end = 0
    for found in _REACHED.finditer(text):
        address = found[0] if "://" in found[0] else f"mailto:{found[0]}"
        link = Markup('<a href="{}" rel="noreferrer">{}</a>').format(address, found[0])
        parts += [escape(text[end : found.start()]), link]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def linked(text: str) -> Markup:
    """The same as `sentence`, with links for web addresses."""
    return Markup(_ADDRESS.sub(r'<a href="\g<0>" rel="noreferrer">\g<0></a>', str(sentence(text))))


STAGES: tuple[tuple[str, str], ...] = (
    ("pending", "Waiting in the queue"),
    *((stage, words) for stage, (words, _) in STAGE_WORDS.items()),
)
"""Every step in order, with its words."""

STATES = {
    JobState.PENDING: "Waiting",
    JobState.BUILDING: "Building",
    JobState.COMPLETED: "Completed",
    JobState.FAILED: "Failed",
    JobState.CANCELLED: "Cancelled",
}


WAITING_FOR = {
    "paused": "The operator has paused the workers: the build starts when they are resumed",
    "engine": "The container engine of this server is down: builds wait until it works again",
    "store": "The image store of this server is down: builds wait until it works again",
    "disk_full": "This server has no disk space for more images: builds wait until there is some",
}
"""Why no build starts, in words."""


class Step(Struct, frozen=True):
    """One step: done, current or ahead."""

    name: str
    words: str
    state: str


class ShownImage(Struct, frozen=True):
    """An image with its title and purpose; `first` is true for the one most people need."""

    image: Image
    title: str
    purpose: str
    first: bool


def stages(job: Job, *, signs: bool = False) -> Sequence[Step]:
    """The steps of a live build, all done when it is completed; `signs` tells whether images are signed."""
    signs = signs or job.stage is Stage.SIGNING_IMAGES
    steps = [step for step in STAGES if signs or step[0] != Stage.SIGNING_IMAGES]
    names = [name for name, _ in steps]
    current = "pending" if job.state is JobState.PENDING else str(job.stage or Stage.INIT)
    at = len(names) if job.state in FINAL_STATES else names.index(current)
    return [
        Step(str(name), words, "done" if number < at else "current" if number == at else "ahead")
        for number, (name, words) in enumerate(steps)
    ]


def standing(view: BuildView) -> str:
    """The state of a build in one sentence; empty where its state and advice say it all."""
    job = view.job
    left = "" if view.remaining is None else f", about {about(view.remaining.total_seconds())}"
    if job.state is JobState.PENDING:
        ahead = view.position or 0
        if view.waiting_for in WAITING_FOR:
            return f"{WAITING_FOR[view.waiting_for]}."
        place = "Next in the queue" if ahead == 0 else f"{ahead} build{'s' if ahead > 1 else ''} ahead"
        return f"{place}{left}."
    if job.state is JobState.BUILDING:
        words = dict(STAGES)[job.stage or Stage.INIT]
        return f"{words}{left and left + ' left'}."
    if job.state is JobState.COMPLETED:
        took = ""
        if job.started_at and job.finished_at:
            took = f" in {span(job.finished_at - job.started_at)}"
        return f"The images are ready, built{took}."
    if job.id < 0:
        return "These packages cannot be installed, so no build was started."
    return f"{as_beginning(job.reason)}." if job.reason else "No image was built."


def about(seconds: float) -> str:
    """A forecast: tens of seconds below one minute, else minutes."""
    if seconds < 60:
        return f"{max(10, round(seconds / 10) * 10)} s"
    return f"{round(seconds / 60)} min"


def headline(job: Job, title: str) -> str:
    """The device for headings: its title in the result, else `title`."""
    described = job.outcome and getattr(job.outcome, "description", None)
    titles = described.get("titles") if described else None
    if isinstance(titles, list) and titles and isinstance(titles[0], dict):
        found = titles[0]
        named = found.get("title") or " ".join(
            str(found[part]) for part in ("vendor", "model", "variant") if found.get(part)
        )
        title = str(named) or title
    return title


_KINDS: tuple[tuple[str, str, str], ...] = (
    (
        "sysupgrade",
        "Sysupgrade",
        "For a device that runs OpenWrt: upload it under System → Backup / Flash Firmware.",
    ),
    (
        "combined",
        "Whole disk",
        "The complete system: write it to the disk, or upload it to a running OpenWrt.",
    ),
    ("sdcard", "SD card", "Write it to an SD card."),
    (
        "factory",
        "Factory",
        "For a device with its vendor's firmware: upload it in the vendor's web interface.",
    ),
    ("kernel", "Kernel", "Part of an image, for boot loaders and special installation methods."),
    ("rootfs", "Root file system", "Part of an image, for special installation methods."),
)


def images_first(images: Iterable[Image]) -> Sequence[ShownImage]:
    """The images most people need come first."""
    shown = []
    for image in images:
        rank = next(
            (number for number, (kind, _, _) in enumerate(_KINDS) if image.type.startswith(kind)), len(_KINDS)
        )
        _, title, purpose = _KINDS[rank] if rank < len(_KINDS) else ("", image.type or "File", "")
        shown.append((rank, image.name, ShownImage(image, title, purpose, rank == 0)))
    return [entry for _, _, entry in sorted(shown, key=lambda entry: entry[:2])]


def plain_address(url: str) -> str:
    """An address without the name and password that may stand in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not an address)"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
