"""Numbers, sizes, times, stages and reasons in words."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup, escape
from msgspec import Struct

from asu_builder.core.submit import BuildView
from asu_builder.domain.errors import FailureReason, Side
from asu_builder.domain.job import FINAL_STATES, STAGE_WORDS, Image, Job, JobState, Stage
from asu_builder.http.texts import current, gettext, marked, ngettext, pgettext

WORDS: Mapping[str, str] = {
    FailureReason.IMAGEBUILDER_MISSING: marked("no ImageBuilder for this version and target"),
    FailureReason.SETUP_FAILED: marked("the ImageBuilder could not be set up"),
    FailureReason.REVISION_MISMATCH: marked("the source revision has changed"),
    FailureReason.NOT_OFFERED: marked("no longer offered"),
    FailureReason.UNKNOWN_PROFILE: marked("the ImageBuilder does not know the device"),
    FailureReason.BAD_REPOSITORY: marked("a repository of the request is unusable"),
    FailureReason.IMPOSSIBLE_SELECTION: marked("packages are missing or conflict"),
    FailureReason.VERSION_MISMATCH: marked("a package has another version than requested"),
    FailureReason.TOO_BIG: marked("the packages do not fit on the device"),
    FailureReason.MAKE_FAILED: marked("the ImageBuilder failed"),
    FailureReason.NO_IMAGES: marked("no image was made for the device"),
    FailureReason.DEADLINE: marked("took too long"),
    FailureReason.OUT_OF_MEMORY: marked("used too much memory"),
    FailureReason.DISK_LIMIT: marked("used too much disk space"),
    FailureReason.UPSTREAM_UNREACHABLE: marked("a package repository did not answer"),
    FailureReason.WORLD_UNAVAILABLE: marked("the server's infrastructure failed"),
    FailureReason.UNTRUSTED_OUTPUT: marked("the output was refused"),
    FailureReason.INCOMPLETE_OUTPUT: marked("the output was incomplete"),
    FailureReason.GAVE_UP: marked("was interrupted three times"),
    FailureReason.EXPIRED: marked("was no longer polled"),
    FailureReason.INTERNAL: marked("an internal error of this server"),
}
"""Each reason of failure, within a list."""

CAUSES = {
    Side.USER: marked("the request"),
    Side.INFRASTRUCTURE: marked("the infrastructure of this server"),
    Side.INTERNAL: marked("an internal error of this server"),
}
"""The side of a failure in words."""

LATER = marked("The request is fine. Try it again in a minute.")
_OURS = marked("This is an error of the server. Try again; if it fails again, tell the operator.")
_SEARCH = marked("Choose another version, or search for the device: its name may have changed.")
ADVICE: Mapping[FailureReason, tuple[str, str]] = {
    FailureReason.IMAGEBUILDER_MISSING: (
        marked("There is no ImageBuilder for this version and target"),
        marked("For a new release it appears within hours. Try again later, or choose another version."),
    ),
    FailureReason.SETUP_FAILED: (marked("The ImageBuilder could not be set up"), LATER),
    FailureReason.REVISION_MISMATCH: (
        marked("The source revision has changed since the request"),
        marked("Search for upgrades again on the device, or build the current revision."),
    ),
    FailureReason.NOT_OFFERED: (marked("This is no longer offered here"), _SEARCH),
    FailureReason.UNKNOWN_PROFILE: (
        marked("The ImageBuilder of this version does not know the device"),
        _SEARCH,
    ),
    FailureReason.BAD_REPOSITORY: (
        marked("A package repository of the request cannot be used"),
        marked("Correct its URL or its key, or remove it."),
    ),
    FailureReason.IMPOSSIBLE_SELECTION: (
        marked("These packages cannot be installed"),
        marked("Remove or replace the packages named above, and build again."),
    ),
    FailureReason.VERSION_MISMATCH: (
        marked("A package has another version than the request asks for"),
        marked("Search for upgrades again on the device, or build with the current versions."),
    ),
    FailureReason.TOO_BIG: (
        marked("The packages do not fit on the device"),
        marked("Remove packages, the largest first; default packages can be left out too."),
    ),
    FailureReason.MAKE_FAILED: (
        marked("The ImageBuilder failed"),
        marked(
            "The last lines of the log show where. Often a package's install script fails: "
            "remove that package."
        ),
    ),
    FailureReason.NO_IMAGES: (
        marked("No image was made for this device"),
        marked("Build all file systems, or choose another version."),
    ),
    FailureReason.DEADLINE: (
        marked("The build took too long and was stopped"),
        marked(
            "Try again in a minute, when the server may be less busy. Fewer packages or a smaller root "
            "partition make the build faster."
        ),
    ),
    FailureReason.OUT_OF_MEMORY: (
        marked("The build used more memory than allowed"),
        marked("Fewer packages or a smaller root partition need less."),
    ),
    FailureReason.DISK_LIMIT: (
        marked("The build used more disk space than allowed"),
        marked("Fewer packages or a smaller root partition need less."),
    ),
    FailureReason.UPSTREAM_UNREACHABLE: (marked("A package repository did not answer"), LATER),
    FailureReason.WORLD_UNAVAILABLE: (marked("The infrastructure of this server failed"), LATER),
    FailureReason.UNTRUSTED_OUTPUT: (marked("The output of the build was refused"), _OURS),
    FailureReason.INCOMPLETE_OUTPUT: (marked("The output of the build is incomplete"), _OURS),
    FailureReason.GAVE_UP: (marked("The build was interrupted several times"), _OURS),
    FailureReason.EXPIRED: (
        marked("The build expired in the queue"),
        marked("No client polled it while it waited. Request it again to have it built."),
    ),
    FailureReason.INTERNAL: (marked("The server had an internal error"), _OURS),
}
"""For each reason the heading of the page of a failed build, and what to do."""


def in_words(reason: str) -> str:
    """A reason in words; an unknown one with its underscores removed."""
    return gettext(WORDS.get(reason, "")) or reason.replace("_", " ")


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
    return f"{decimal(count, 0 if unit == 0 or count >= 100 else 1)} {_UNITS[unit]}"


def span(length: timedelta | float) -> str:
    """A duration in its two largest units: `3 min 20 s`."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 10:
        return f"{decimal(max(0.0, seconds), 1)} s"
    whole = round(seconds)
    # Translators: days, as a unit behind a number.
    days = pgettext("unit of time", "d")
    parts = ((whole // 86400, days), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    first = next(index for index, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def moment(at: datetime) -> Markup:
    """A time in UTC, as in the log; a script adds the local time as a tooltip."""
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        utc.isoformat(timespec="seconds"), f"{utc.strftime(_day_form())} {utc:%H:%M} UTC"
    )


def day(at: date) -> str:
    """A date in numbers."""
    return at.strftime(_day_form())


def _day_form() -> str:
    # Translators: how a date is written, as strftime has it: %d day, %m month, %Y year; digits only.
    return pgettext("form of a date", "%Y-%m-%d")


_MONTHS = (
    marked("Jan"),
    marked("Feb"),
    marked("Mar"),
    marked("Apr"),
    marked("May"),
    marked("Jun"),
    marked("Jul"),
    marked("Aug"),
    marked("Sep"),
    marked("Oct"),
    marked("Nov"),
    marked("Dec"),
)


def day_of_month(at: date) -> str:
    """A day with its month, short, without the year."""
    # Translators: a day and its month, for example 3 Nov.
    return gettext("%(day)s %(month)s", day=at.day, month=gettext(_MONTHS[at.month - 1]))


def decimal(count: float, digits: int) -> str:
    """A number with so many digits behind the decimal mark."""
    # Translators: the decimal mark of numbers.
    return f"{count:.{digits}f}".replace(".", pgettext("decimal mark", "."))


def percent(part: float, whole: float = 100.0) -> str:
    """A share with one digit; a dash where there is nothing to share."""
    if not whole:
        return "–"
    # Translators: a percentage; leave out the space where your language has none.
    return gettext("%(number)s %%", number=decimal(100 * part / whole, 1))


def number(count: float) -> str:
    """A number with thin spaces between thousands."""
    return f"{count:,}".replace(",", "\u202f")


def english(text: str) -> str | Markup:
    """A text that the pages do not translate, marked as English on the page of another language."""
    if current().code == "en" or not text:
        return text
    return Markup('<span lang="en" dir="ltr">{}</span>').format(text)


def said(text: str) -> Markup:
    """A sentence to the reader of the page: translated where the catalogue has it, else marked as English."""
    translation = gettext(text)
    return sentence(translation) if translation != text else Markup(english(sentence(text)))


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
    ("pending", marked("Waiting in the queue")),
    *((stage, words) for stage, (words, _) in STAGE_WORDS.items()),
)
"""Every step in order, with its words."""

STATES = {
    JobState.PENDING: marked("Waiting"),
    JobState.BUILDING: marked("Building"),
    JobState.COMPLETED: marked("Completed"),
    JobState.FAILED: marked("Failed"),
    JobState.CANCELLED: marked("Cancelled"),
}

WAITING_FOR = {
    "paused": marked("The operator has paused the workers: the build starts when they are resumed"),
    "engine": marked("The container engine of this server is down: builds wait until it works again"),
    "store": marked("The image store of this server is down: builds wait until it works again"),
    "disk_full": marked("This server has no disk space for more images: builds wait until there is some"),
}
"""Why no build starts, in words."""

HEALTH = {"ok": marked("OK"), "degraded": marked("Degraded"), "down": marked("Down")}
"""The state of the service, or of a part of it."""

ELSEWHERE = (
    marked("Preparing"),
    marked("Setting up the ImageBuilder"),
    marked("Checking version and device"),
    marked("Resolving the packages"),
    marked("Building the images"),
    marked("Signing the images"),
    marked("Builds per day"),
    marked("Share of diff_packages"),
    marked("Requests by version"),
    marked("Most wanted packages"),
    marked("Failures by reason"),
    marked("Durations by stage"),
)
"""Texts of other rooms that pages show: the words of stages, and titles of charts."""
TITLES = (
    marked("Malformed request"),
    marked("Request rejected"),
    marked("Not authenticated"),
    marked("Not allowed"),
    marked("Not found"),
    marked("Conflict"),
    marked("Queue full"),
    marked("Too many requests"),
    marked("Unavailable"),
    marked("Internal error"),
    marked("Method not allowed"),
)
"""Of the answers that errors are, as `http.errors` words them for programs."""
SENTENCES = (
    marked("Nothing lives at this address."),
    marked("This address does not know this method."),
    marked("The server made a mistake and has written it to its log. Please try again later."),
    marked("This form was sent from another site. Open the page on this server and send it again."),
    marked("There is no such file. Reload the page."),
)
"""What errors say that do not speak of a request, where a page shows them."""
_DONE, _CURRENT, _AHEAD = marked("done"), marked("current"), marked("ahead")


def translated(texts: Mapping[Any, str]) -> dict[str, str]:
    """The same texts in the language of the page."""
    return {str(key): gettext(text) for key, text in texts.items()}


def state_word(state: JobState) -> str:
    """The state of a job."""
    return gettext(STATES[state])


def stage_word(stage: str) -> str:
    """What happens in a stage."""
    return gettext(dict(STAGES).get(stage, "")) or stage.replace("_", " ")


class Step(Struct, frozen=True):
    """One step: done, current or ahead."""

    name: str
    words: str
    state: str

    @property
    def says(self) -> str:
        """How far the step is, for those who do not see it."""
        return gettext({"done": _DONE, "current": _CURRENT, "ahead": _AHEAD}[self.state])


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
        Step(str(name), gettext(words), "done" if number < at else "current" if number == at else "ahead")
        for number, (name, words) in enumerate(steps)
    ]


def standing(view: BuildView) -> str:
    """The state of a build in one sentence; empty where its state and advice say it all."""
    job = view.job
    left = "" if view.remaining is None else about(view.remaining.total_seconds())
    if job.state is JobState.PENDING:
        ahead = view.position or 0
        if view.waiting_for in WAITING_FOR:
            return f"{gettext(WAITING_FOR[view.waiting_for])}."
        if not ahead:
            place = gettext("Next in the queue")
        else:
            place = ngettext("%(ahead)s build ahead", "%(ahead)s builds ahead", ahead, ahead=number(ahead))
        return gettext("%(place)s, about %(span)s.", place=place, span=left) if left else f"{place}."
    if job.state is JobState.BUILDING:
        words = stage_word(job.stage or Stage.INIT)
        if view.late:
            return gettext("%(stage)s, longer than usual, about %(span)s left.", stage=words, span=left)
        return gettext("%(stage)s, about %(span)s left.", stage=words, span=left) if left else f"{words}."
    if job.state is JobState.COMPLETED:
        if job.started_at and job.finished_at:
            return gettext(
                "The images are ready, built in %(span)s.", span=span(job.finished_at - job.started_at)
            )
        return gettext("The images are ready.")
    if job.id < 0:
        return gettext("These packages cannot be installed, so no build was started.")
    return f"{as_beginning(job.reason)}." if job.reason else gettext("No image was built.")


def progress_title(view: BuildView, steps: Sequence[Step]) -> str:
    """The state of a build for the title of its window: how far it is, or how many are ahead."""
    job, word = view.job, state_word(view.job.state)
    if job.state is JobState.PENDING:
        return f"{word} ({number(view.position)})" if view.position else word
    if job.state is JobState.BUILDING:
        done = sum(step.state == "done" for step in steps)
        return f"{word} {done}/{len(steps)}"
    return word


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


_UNKNOWN_PURPOSE = marked("OpenWrt does not say what this file is for: see the page of the device.")
_KINDS: tuple[tuple[str, str, str], ...] = (
    (
        "sysupgrade",
        marked("Sysupgrade"),
        marked("For a device that runs OpenWrt: upload it under System → Backup / Flash Firmware."),
    ),
    (
        "combined",
        marked("Whole disk"),
        marked("The complete system: write it to the disk, or upload it to a running OpenWrt."),
    ),
    ("sdcard", marked("SD card"), marked("Write it to an SD card.")),
    (
        "factory",
        marked("Factory"),
        marked("For a device with its vendor's firmware: upload it in the vendor's web interface."),
    ),
    (
        "initramfs",
        marked("Initramfs"),
        marked("Runs from memory and writes nothing: for a first installation, or to rescue a device."),
    ),
    (
        "kernel",
        marked("Kernel"),
        marked("Part of an image, for boot loaders and special installation methods."),
    ),
    (
        "rootfs",
        marked("Root file system"),
        marked("Part of an image, for special installation methods."),
    ),
)


def images_first(images: Iterable[Image]) -> Sequence[ShownImage]:
    """The images most people need come first."""
    shown = []
    for image in images:
        rank = next(
            (number for number, (kind, _, _) in enumerate(_KINDS) if image.type.startswith(kind)), len(_KINDS)
        )
        _, title, purpose = (
            _KINDS[rank] if rank < len(_KINDS) else ("", image.type or marked("File"), _UNKNOWN_PURPOSE)
        )
        shown.append((rank, image.name, ShownImage(image, gettext(title), gettext(purpose), rank == 0)))
    return [entry for _, _, entry in sorted(shown, key=lambda entry: entry[:2])]


def plain_address(url: str) -> str:
    """An address without the name and password that may stand in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return gettext("(not an address)")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
