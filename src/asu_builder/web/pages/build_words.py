"""What the page of a build says, in words: its stages, how it stands, and which image is for whom."""

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from msgspec import Struct

from asu_builder.domain.job import FINAL_STATES, Image, Job, JobState, Stage
from asu_builder.services.builds import BuildView
from asu_builder.web.pages.words import span

STAGES: tuple[tuple[str, str], ...] = (
    ("pending", "Wait for its turn"),
    (Stage.INIT, "Begin"),
    (Stage.CONTAINER_SETUP, "Set up the ImageBuilder"),
    (Stage.VALIDATE_REVISION, "Check version and device"),
    (Stage.VALIDATE_MANIFEST, "Choose the packages"),
    (Stage.BUILDING_IMAGE, "Build the images"),
)
"""Every step in its order, with its words."""

STATES = {
    JobState.PENDING: "Waiting",
    JobState.BUILDING: "Building",
    JobState.COMPLETED: "Completed",
    JobState.FAILED: "Failed",
    JobState.CANCELLED: "Cancelled",
}


WAITING_FOR = {
    "paused": "The operator has paused the workers: nothing new is built now, and nothing is lost",
    "engine": "The container engine of this server does not work now: builds wait until it does",
    "store": "The store of this server takes no images now: builds wait until it does",
    "disk_full": "This server has no room for more images now: builds wait until there is",
}
"""Why nothing is built, in words; `static/build_page.js` has the same."""


class Step(Struct, frozen=True):
    """One step: done, current or ahead."""

    name: str
    words: str
    state: str


class ShownImage(Struct, frozen=True):
    """An image with what it is, for whom it is, and how important."""

    image: Image
    title: str
    purpose: str
    first: bool


def stages(job: Job) -> Sequence[Step]:
    """The steps of a live build; all are done when it is completed."""
    names = [name for name, _ in STAGES]
    current = "pending" if job.state is JobState.PENDING else str(job.stage or Stage.INIT)
    at = len(names) if job.state in FINAL_STATES else names.index(current)
    return [
        Step(str(name), words, "done" if number < at else "current" if number == at else "ahead")
        for number, (name, words) in enumerate(STAGES)
    ]


def standing(view: BuildView) -> str:
    """How a build stands, in one sentence."""
    job = view.job
    left = "" if view.remaining is None else f", about {about(view.remaining.total_seconds())}"
    if job.state is JobState.PENDING:
        ahead = view.position or 0
        if view.waiting_for in WAITING_FOR:
            return f"{WAITING_FOR[view.waiting_for]}."
        place = "It is next" if ahead == 0 else f"{ahead} build{'s' if ahead > 1 else ''} ahead"
        return f"{place}{left}."
    if job.state is JobState.BUILDING:
        words = dict(STAGES)[job.stage or Stage.INIT]
        return f"{words}{left and left + ' left'}."
    if job.state is JobState.COMPLETED:
        took = ""
        if job.started_at and job.finished_at:
            took = f" in {span(job.finished_at - job.started_at)}"
        return f"The images are ready, built{took}."
    return "This build was cancelled." if job.state is JobState.CANCELLED else "This build failed."


def about(seconds: float) -> str:
    """A forecast, no more exact than it is: seconds below one minute in tens, else minutes."""
    if seconds < 60:
        return f"{max(10, round(seconds / 10) * 10)} s"
    return f"{round(seconds / 60)} min"


def headline(job: Job, title: str) -> str:
    """What is built, for headings."""
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
    ("sysupgrade", "Sysupgrade", "For a device that runs OpenWrt: upload it under System, Backup / Flash."),
    ("combined", "Whole disk", "Holds everything: write it to the disk, or upload it to a running OpenWrt."),
    ("sdcard", "SD card", "Write it to an SD card."),
    ("factory", "Factory", "For a device with its vendor's firmware: upload it there."),
    ("kernel", "Kernel", "A part of an image, for boot loaders and special ways to install."),
    ("rootfs", "Root file system", "A part of an image, for special ways to install."),
)


def images_first(images: Iterable[Image]) -> Sequence[ShownImage]:
    """What most people need comes first."""
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
