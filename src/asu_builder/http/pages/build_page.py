"""The page of one build: its progress, its outcome, and the command that repeats it elsewhere."""

import contextlib
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from asu_builder.core.live import AT_ONCE
from asu_builder.core.submit import BuildView
from asu_builder.domain.access import Caller, Right
from asu_builder.domain.errors import AsuError, BuildNotFound, Conflict, FailureReason, Side
from asu_builder.domain.job import (
    COOL_DOWN,
    FINAL_STATES,
    BuildFailure,
    BuildResult,
    Job,
    JobState,
    LogLine,
)
from asu_builder.domain.release import Release
from asu_builder.domain.request import TODAY, BuildRequest
from asu_builder.http.api.builds import is_request_hash
from asu_builder.http.pages import corrections
from asu_builder.http.pages.build_form import cancel_token_of, see_build
from asu_builder.http.pages.corrections import Advice, Context
from asu_builder.http.pages.form_fields import link_to, not_linked, request_body
from asu_builder.http.pages.form_offer import make_offer
from asu_builder.http.pages.rendering import Rendering
from asu_builder.http.pages.session import form, is_secure
from asu_builder.http.pages.words import (
    STAGES,
    STATES,
    WAITING_FOR,
    headline,
    images_first,
    plain_address,
    progress_title,
    span,
    stages,
    standing,
    state_word,
    translated,
)
from asu_builder.http.parts import PageParts
from asu_builder.http.texts import gettext, marked
from asu_builder.http.threads import SHORT_SECONDS

_OUT = "/builder/images"
_CONTAINER = "asu-again"
_OF_THE_SERVER = ("BIN_DIR=", "FILES=")
"""Arguments whose paths exist on the server only."""
_DIGITS = 12


class Reproduction(Struct, frozen=True):
    """A command for a POSIX shell, and sentences on what it leaves out."""

    command: str
    left_out: tuple[str, ...]


def image_reference(template: str, release: Release, target: str) -> str:
    """The container image of the ImageBuilder; `template` is the setting with its registry filled in."""
    system, _, subtarget = target.partition("/")
    return template.format(target=system, subtarget=subtarget, tag=release.tag, version=release.version)


def reproduce(
    request: BuildRequest, build_cmd: Sequence[str], *, release: Release, template: str, upstream_url: str
) -> Reproduction:
    """`build_cmd` is the one that ran in the container."""
    make = [argument for argument in build_cmd if not argument.startswith(_OF_THE_SERVER)]
    reference = image_reference(template, release, request.target)
    podman = [["podman", "run", "--name", _CONTAINER]]
    if release.moving:
        # Snapshot container images download their ImageBuilder at start.
        podman += [
            ["--env", f"UPSTREAM_URL={upstream_url}"],
            ["--env", f"TARGET={request.target}", "--env", f"VERSION_PATH={release.path}"],
            ["--env", "DOWNLOAD_FILE=imagebuilder-.*x86_64.tar."],
            [reference, "sh", "-c", '{ [ -e Makefile ] || sh setup.sh; } && exec "$@"', "sh"],
        ]
    else:
        podman += [[reference]]
    lines = [shlex.join(line) for line in (*podman, [*make, f"BIN_DIR={_OUT}"])]
    run = " \\\n  ".join(lines)
    # No shared folder: its owner would have to be the user in the container.
    command = f"{run} &&\n  podman cp {_CONTAINER}:{_OUT} .\npodman rm {_CONTAINER}"
    sentences = []
    if request.defaults:
        sentences.append(
            gettext(
                "The first-boot script: put it into `files/etc/uci-defaults/99-asu-defaults`, and add "
                "`--volume ./files:/builder/files:ro,Z` before the image's name and `FILES=/builder/files` "
                "after `make image`."
            )
        )
    if request.repositories:
        sentences.append(
            gettext(
                "The custom repositories: add them to `repositories.conf` (with apk `repositories`) of "
                "the ImageBuilder, as the request's mode says."
            )
        )
    if request.repository_keys:
        sentences.append(
            gettext("The keys of these repositories: put them into `keys/` of the ImageBuilder.")
        )
    if release.moving:
        sentences.append(
            gettext("The revision: a snapshot moves, so the same command builds other sources tomorrow.")
        )
    return Reproduction(command, tuple(sentences))


def _moment_of(seconds: str) -> datetime | None:
    """A moment of the past that an address names, in seconds since 1970; None for anything else."""
    at = int(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) <= _DIGITS else 0
    return datetime.fromtimestamp(at, UTC) if 0 < at <= time.time() else None


_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")


def _address_of(request: Request) -> str:
    """The address of this server as its caller writes it, for commands; "" where that could be anything."""
    host = request.headers.get("host", "")
    secure = is_secure(request) or request.headers.get("x-forwarded-proto") == "https"
    return f"{'https' if secure else 'http'}://{host}" if _HOST.fullmatch(host) else ""


class PrintedLines(Struct, frozen=True):
    """The last lines of a build's log, and how many come before them."""

    lines: Sequence[LogLine]
    left_out: int


_TIMES = {
    "pull": marked("Getting the container image"),
    "set_up": marked("Setting up the ImageBuilder"),
    "download": marked("Loading packages"),
    "install": marked("Installing packages"),
    "image": marked("Making the images"),
    "collect": marked("Collecting and checking the images"),
    "sign": marked("Describing and signing the images"),
    "publish": marked("Publishing the images"),
}


def times(seconds: Mapping[str, float]) -> list[tuple[str, str]]:
    """What the time of a build was spent with, in its order, and how much; `BuildResult.seconds` tells it."""
    return [(gettext(words), span(seconds[step])) for step, words in _TIMES.items() if step in seconds]


class BuildPage:
    """Anyone with the hash sees the build; its first caller and operators may cancel it."""

    def __init__(self, parts: PageParts, rendering: Rendering) -> None:
        self._parts = parts
        self._rendering = rendering

    async def show(self, request: Request, caller: Caller) -> Response:
        """The page for any state of the build."""
        request_hash = request.path_params["request_hash"]
        try:
            view, printed = await self._parts.threads.run(self._look, request_hash)
        except BuildNotFound:
            return self._rendering.page("build_unknown.html", request, caller=caller, status=404)
        values = await self._parts.waiting.ask(
            caller,
            request_hash,
            self._gather,
            view,
            request.query_params.get("manifest", ""),
            patience=SHORT_SECONDS,
        )
        live = view.job.state not in FINAL_STATES
        may_cancel = live and bool(cancel_token_of(request) or caller.may(Right.OPERATE))
        return self._rendering.page(
            "build_page.html",
            request,
            caller=caller,
            live=live,
            printed=printed,
            may_cancel=may_cancel,
            unchanged=_moment_of(request.query_params.get("unchanged", "")),
            server=_address_of(request),
            **values,
        )

    async def cancel(self, request: Request, caller: Caller) -> Response:
        """Cancels the build. Raises what `form` and `Builds.cancel` raise."""
        await form(request)
        request_hash = request.path_params["request_hash"]
        await self._parts.answers.cancel(request_hash, caller, cancel_token_of(request))
        return RedirectResponse(f"/build/{request_hash}", 303)

    async def keep(self, request: Request, caller: Caller) -> Response:
        """Keeps the result for `build_ttl` from now. Raises what `form` and `Operator.keep` raise."""
        await form(request)
        request_hash = request.path_params["request_hash"]
        caller.require(Right.OPERATE)
        span = self._parts.settings.build_ttl
        await self._parts.threads.run(
            lambda: self._parts.operator.keep(request_hash, span, operator=caller.name)
        )
        return RedirectResponse(f"/build/{request_hash}", 303)

    async def sums(self, request: Request, caller: Caller) -> Response:
        """The digests of the images, as `sha256sum -c` reads them. Raises `BuildNotFound`."""
        result = await self._result(request)
        return PlainTextResponse("".join(f"{image.sha256} *{image.name}\n" for image in result.images))

    async def manifest(self, request: Request, caller: Caller) -> Response:
        """The installed packages with their versions, a line for each. Raises `BuildNotFound`."""
        packages = sorted((await self._result(request)).manifest.items())
        return PlainTextResponse("".join(f"{name} - {version}\n" for name, version in packages))

    async def _result(self, request: Request) -> BuildResult:
        view, _ = await self._parts.threads.run(self._look, request.path_params["request_hash"])
        if not isinstance(view.job.outcome, BuildResult):
            raise BuildNotFound("This build has no result.")
        return view.job.outcome

    async def again(self, request: Request, caller: Caller) -> Response:
        """Submits the same or a corrected request, with its private parts.

        Raises what `form` and `Builds.submit` raise, and `Conflict` for an unknown correction.
        """
        given = await form(request)
        request_hash = request.path_params["request_hash"]
        view, _ = await self._parts.threads.run(self._look, request_hash)
        key = given.get("correction", corrections.AS_IT_IS)
        chosen: BuildRequest | None = None
        if isinstance(view.job.outcome, BuildResult):
            if key == TODAY:
                chosen = replace(view.job.request, as_of=TODAY)
        else:
            advice = await self._parts.waiting.ask(
                caller, request_hash, self._advice, view.job, patience=SHORT_SECONDS
            )
            offered = advice.corrections if advice else ()
            chosen = next((each.request for each in offered if each.key == key), None)
        if chosen is None:
            raise Conflict(gettext("The build has changed since the page was loaded. Reload the page."))
        agent = request.headers.get("user-agent", "")
        answer = await self._parts.answers.submit(request_body(chosen, self._parts.client), agent, caller)
        return see_build(request, answer.body)

    def _look(self, request_hash: str) -> tuple[BuildView, PrintedLines]:
        """Raises `BuildNotFound`, also for what could be no hash."""
        if not is_request_hash(request_hash):
            raise BuildNotFound("could not find provided request hash")
        look = self._parts.live.look(request_hash)
        lines, left_out = look.lines, max(0, look.last - AT_ONCE)
        if left_out:
            lines = self._parts.live.lines(look.view.job.id, after=left_out)
        return look.view, PrintedLines(lines, left_out)

    def _gather(self, view: BuildView, manifest_search: str) -> Mapping[str, Any]:
        job, outcome = view.job, view.job.outcome
        request = job.request
        result = outcome if isinstance(outcome, BuildResult) else None
        failure = outcome if isinstance(outcome, BuildFailure) else None
        title = request.profile
        links: tuple[tuple[str, str], ...] = ()
        with contextlib.suppress(AsuError):
            device = self._parts.search.device(request.version, request.target, request.profile)
            title = device.title
            release = self._parts.catalog.branches.release(request.version)
            links = make_offer(self._parts.settings, device, release).links
        steps = stages(job, signs=self._parts.signing is not None)
        images = images_first(result.images) if result else ()
        reproduction: Reproduction | None = None
        # None for a branch that this server does not have any more.
        with contextlib.suppress(AsuError):
            if result:
                settings = self._parts.settings
                reproduction = reproduce(
                    request,
                    result.build_cmd,
                    release=self._parts.catalog.branches.release(request.version),
                    template=settings.imagebuilder_image.replace(
                        "{registry}", settings.imagebuilder_registry
                    ),
                    upstream_url=settings.announced_upstream_url,
                )
        retry_at: datetime | None = None
        if failure and failure.side is not Side.USER and job.finished_at:
            # When the same request may start a new build.
            at = job.finished_at + COOL_DOWN
            retry_at = at if at > datetime.now(UTC) else None
        return {
            "job": job,
            "request_hash": job.request_hash,
            "headline": headline(job, title),
            "standing": standing(view),
            "stages": steps,
            "title": progress_title(view, steps) if job.id >= 0 else gettext("Not built"),
            "links": links,
            "upgrade": next((shown.image for shown in images if shown.image.type == "sysupgrade"), None),
            "kept_until": self._parts.operator.kept_until(job.request_hash) if result else None,
            "stage_words": translated(dict(STAGES)),
            "times": times(result.seconds) if result else [],
            "state": gettext("Not built") if job.id < 0 else state_word(job.state),
            "was_refused": job.id < 0,
            "words": {"states": translated(STATES), "waiting_for": translated(WAITING_FOR)},
            "result": result,
            "images": images,
            "reproduction": reproduction,
            "manifest": {
                name: version
                for name, version in sorted(result.manifest.items() if result else ())
                if all(word in name.casefold() for word in manifest_search.casefold().split())
            },
            "manifest_search": manifest_search[:64],
            "failure": failure,
            "advice": self._advice(job),
            "retry_at": retry_at,
            "repositories": {name: plain_address(url) for name, url in request.repositories.items()},
            "form_link": link_to(request),
            "update_link": link_to(request, "/compare", from_version=request.version),
            "not_linked": not_linked(request),
        }

    def _advice(self, job: Job) -> Advice | None:
        if job.state is JobState.CANCELLED:
            return corrections.advise_cancelled(job.request)
        if not isinstance(job.outcome, BuildFailure):
            return None
        known = Context(max_rootfs_size_mb=self._parts.settings.max_custom_rootfs_size_mb)
        if job.reason in (None, FailureReason.IMPOSSIBLE_SELECTION, FailureReason.VERSION_MISMATCH):
            with contextlib.suppress(AsuError):
                found = self._parts.catalog.resolve(job.request)
                unknown = self._parts.preview.look(job.request).unknown or ()
                meant = {entry.name: entry.suggestions for entry in unknown}
                defaults = self._parts.catalog.default_packages(found)
                known = Context(meant, defaults, known.max_rootfs_size_mb)
                problem = job.outcome.problem
                asked = {*problem.missing, *(name for by in problem.needed_by.values() for name in by)}
                if problem.missing and not asked & set(job.request.wanted):
                    culprit = self._parts.preview.culprit(job.request, problem.missing[0])
                    known = replace(known, culprit=culprit)
        return corrections.advise(job.request, job.outcome, known)
