"""What clients read of builds and errors: the documents as types, and how they are rendered.

Our states and stages become `queued`, `started`, `done` and a closed list of step names, the words that old
clients expect (facts on clients, §2.4); our own words stand beside them. What is rendered is what the OpenAPI
schema says. What clients send is in `body.py`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec.structs import asdict

from asu_builder.core.submit import BuildView, Progress
from asu_builder.domain.errors import Fault, Side
from asu_builder.domain.job import (
    FINAL_STATES,
    BuildFailure,
    BuildResult,
    Job,
    JobState,
    Stage,
    Standing,
)
from asu_builder.domain.make import Step
from asu_builder.domain.profiles_json import source_date
from asu_builder.http.api.build_problem import (
    BuildProblemDocument,
    PackageChangesDocument,
    render_build_problem,
    render_changes,
)
from asu_builder.http.openapi import A_HASH, A_REVISION, A_SENTENCE, A_TIME, HASH_PATTERN, says

_A_PREFIX = "openwrt-24.10.4-4be1a1f3c0d2-ath79-generic-tplink_archer-c7-v5"
_AN_IMAGE = f"{_A_PREFIX}-squashfs-sysupgrade.bin"
_A_COMMAND = ["make", "image", "PROFILE=tplink_archer-c7-v5", "PACKAGES=luci vim"]

_Hash = Annotated[str, says("Names the request: job, address and directory", A_HASH, pattern=HASH_PATTERN)]
_Time = Annotated[datetime, says("When the job was created, UTC", A_TIME, format="date-time")]
_State = Annotated[JobState, says("The state of the job", "building")]
_Side = Annotated[
    Side,
    says(
        "Who can fix it: the user, the operator of the infrastructure, or the developers of this server",
        "user",
    ),
]
_Field = Annotated[str, says("The field of the request that it concerns, if it is one", "packages")]
_Stdout = Annotated[str, says("The end of the standard output of the last command", "Building images...\n")]
_Stderr = Annotated[str, says("The end of the standard error of the last command", "")]


A_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_DROPPED = says("Packages left out because they do not exist, each with the nearest name", {"lucy": "luci"})


class RequestEcho(msgspec.Struct):
    """The request with every field, because owut reads some without looking whether they are there."""

    distro: Annotated[str, says("Always openwrt", "openwrt")]
    version: Annotated[str, says("The requested version", "24.10.4")]
    version_code: Annotated[str, says("The requested revision, empty for any", A_REVISION, "")]
    target: Annotated[str, says("Target and subtarget", "ath79/generic")]
    profile: Annotated[str, says("The resolved profile", "tplink_archer-c7-v5")]
    packages: Annotated[tuple[str, ...], says("Packages in the caller's order", ["luci", "-ppp"])]
    packages_versions: Annotated[Mapping[str, str], says("Name to version", {"vim": "9.1.0-r1"})]
    diff_packages: Annotated[bool, says("Whether default packages that are not listed are removed", True)]
    defaults: Annotated[str | None, says("The first-boot script", None)]
    rootfs_size_mb: Annotated[int | None, says("Size of the root partition in MiB", 256, None)]
    filesystem: Annotated[str | None, says("The only root file system to build", "squashfs", None)]
    repositories: Annotated[Mapping[str, str], says("Name to address", {})]
    repositories_mode: Annotated[str, says("append or replace", "replace", enum=["append", "replace"])]
    repository_keys: Annotated[tuple[str, ...], says("Public keys of these repositories", [])]
    client: Annotated[str, says("The first client", "owut/2026.03.30", "unknown/0")]
    on_missing: Annotated[
        str | msgspec.UnsetType, says("drop where packages that do not exist were left out", "drop")
    ] = msgspec.UNSET
    as_of: Annotated[
        str | msgspec.UnsetType, says("Digest of the package indexes that this build belongs to", A_DIGEST)
    ] = msgspec.UNSET


class Accepted(msgspec.Struct):
    """202: the job waits or is being built.

    `queue_position` is there (0 included) only while it waits, `imagebuilder_status` only once it
    is being built: LuCI says "queued" for ever at the one and throws without the other.
    """

    status: Annotated[int, says("The HTTP status", 202, const=202)]
    detail: Annotated[str, says("The status in a word", "queued", "started", enum=["queued", "started"])]
    state: _State
    request_hash: _Hash
    enqueued_at: _Time
    request: Annotated[RequestEcho, says("The request")]
    queue_position: Annotated[
        int | msgspec.UnsetType, says("Number of jobs ahead; only while the job waits", 0, minimum=0)
    ] = msgspec.UNSET
    imagebuilder_status: Annotated[
        Stage | msgspec.UnsetType, says("The current stage; only while it is building", "building_image")
    ] = msgspec.UNSET
    eta_seconds: Annotated[
        int | msgspec.UnsetType,
        says("Estimated seconds until the end, from the latest builds; absent if unknown", 42),
    ] = msgspec.UNSET
    waiting_for: Annotated[
        str | msgspec.UnsetType,
        says(
            "Why nothing is built now; absent while it only waits for its turn",
            "engine",
            enum=["paused", "engine", "store", "disk_full"],
        ),
    ] = msgspec.UNSET
    cancel_token: Annotated[
        str | msgspec.UnsetType,
        says(
            "The secret to cancel it with, in the header X-Cancel-Token; only in the answer to the request "
            "that started it",
            "v3dHq0x1Zr8Yb2Lm9QkT4w5s",
        ),
    ] = msgspec.UNSET
    dropped: Annotated[Mapping[str, str] | msgspec.UnsetType, _DROPPED] = msgspec.UNSET


class ImageDocument(msgspec.Struct):
    """One file of a build; download it from `/store/{bin_dir}/{name}`."""

    name: Annotated[str, says("The file name", _AN_IMAGE)]
    type: Annotated[str, says("The type of the image", "sysupgrade", "factory", "combined")]
    sha256: Annotated[str, says("SHA-256 of the file as it is served", A_HASH, pattern=HASH_PATTERN)]
    sha256_unsigned: Annotated[str, says("SHA-256 before it was signed", A_HASH, pattern=HASH_PATTERN)]
    size: Annotated[int, says("Bytes", 6815744, minimum=0)]
    filesystem: Annotated[str | msgspec.UnsetType, says("The root file system in it, if any", "squashfs")] = (
        msgspec.UNSET
    )


class Done(msgspec.Struct):
    """200: the images are there. Further keys of the ImageBuilder's `profiles.json` pass through."""

    status: Annotated[int, says("The HTTP status", 200, const=200)]
    detail: Annotated[str, says("The status in a word", "done", const="done")]
    state: _State
    imagebuilder_status: Annotated[str, says("The last step", "done", const="done")]
    request_hash: _Hash
    bin_dir: Annotated[str, says("Directory below /store", A_HASH, pattern=HASH_PATTERN)]
    enqueued_at: _Time
    id: Annotated[str, says("The profile that was built", "tplink_archer-c7-v5")]
    target: Annotated[str, says("Target and subtarget", "ath79/generic")]
    version_number: Annotated[str, says("The ImageBuilder's version", "24.10.4")]
    version_code: Annotated[str, says("The ImageBuilder's revision", A_REVISION)]
    titles: Annotated[
        list[Any],
        says("The names of the device", [{"vendor": "TP-Link", "model": "Archer C7", "variant": "v5"}]),
    ]
    build_at: Annotated[str, says("Timestamp of the sources, UTC", "2025-10-09T08:53:20.000000Z")]
    images: Annotated[tuple[ImageDocument, ...], says("The files", [])]
    manifest: Annotated[
        Mapping[str, str], says("Name to version of all installed packages", {"vim": "9.1.0-r1"})
    ]
    build_cmd: Annotated[tuple[str, ...], says("The command that built it", _A_COMMAND)]
    build_cmd_packages: Annotated[tuple[str, ...], says("The packages of that command", ["-ppp", "luci"])]
    stdout: _Stdout
    stderr: _Stderr
    warnings: Annotated[tuple[str, ...], says("Warnings, as sentences", [])]
    package_changes: Annotated[
        PackageChangesDocument,
        says(
            "What the package rules did to the request and why, and which defaults it may lack",
            {"applied": [], "warnings": [], "missing_defaults": []},
        ),
    ]
    request: Annotated[RequestEcho, says("The request")]
    dropped: Annotated[Mapping[str, str] | msgspec.UnsetType, _DROPPED] = msgspec.UNSET
    unchanged: Annotated[
        bool | msgspec.UnsetType,
        says("For a request with as_of: nothing has changed since this was built", True, const=True),
    ] = msgspec.UNSET
    indexes: Annotated[
        str | msgspec.UnsetType, says("Digest of the package indexes at the time of the build", A_DIGEST)
    ] = msgspec.UNSET
    signed_by: Annotated[
        str | msgspec.UnsetType,
        says(
            "The key that signed the images and sha256sums; absent if they are not signed", "0123456789abcdef"
        ),
    ] = msgspec.UNSET
    sbom: Annotated[
        Mapping[str, str] | msgspec.UnsetType,
        says("Files beside the images that say what is in them, by their format", {"spdx": "….spdx.json"}),
    ] = msgspec.UNSET
    provenance: Annotated[
        str | msgspec.UnsetType,
        says(
            "File beside the images that states where they came from; absent if nothing is stated",
            "….intoto.jsonl",
        ),
    ] = msgspec.UNSET


class AttemptDocument(msgspec.Struct):
    """One start of a build that came to no end."""

    started_at: Annotated[datetime, says("When it was claimed, UTC", A_TIME, format="date-time")]
    ended_at: Annotated[datetime, says("When it was interrupted, UTC", A_TIME, format="date-time")]
    stage: Annotated[Stage, says("The stage that it had reached", "building_image")]
    ending: Annotated[str, says("Why it was interrupted", "its worker was lost")]


class Failed(msgspec.Struct):
    """500: the build failed or was cancelled; `fault` says whose side it is on, `reason` why in one word."""

    status: Annotated[int, says("The HTTP status", 500, const=500)]
    title: Annotated[str, says("The status in two words", "Build failed")]
    detail: Annotated[
        str, says("What happened, as sentences", "Error: Impossible package selection: missing (nosuch)")
    ]
    state: _State
    imagebuilder_status: Annotated[str, says("The last step", "failed", const="failed")]
    fault: Annotated[str, says("Who can fix it", "user", enum=["user", "world", "ours"])]
    reason: Annotated[str, says("The reason as a stable word", "impossible_selection", "cancelled")]
    code: Annotated[
        str, says("The same as reason, under the name that all errors have", "impossible_selection")
    ]
    side: _Side
    request_hash: _Hash
    enqueued_at: _Time
    stdout: _Stdout
    stderr: _Stderr
    request: Annotated[RequestEcho, says("The request")]
    build_cmd: Annotated[
        tuple[str, ...] | msgspec.UnsetType, says("The command that failed, if one was run", _A_COMMAND)
    ] = msgspec.UNSET
    attempts: Annotated[
        tuple[AttemptDocument, ...] | msgspec.UnsetType,
        says("Earlier attempts, if there were any", []),
    ] = msgspec.UNSET
    field: _Field | msgspec.UnsetType = msgspec.UNSET
    problem: Annotated[
        BuildProblemDocument | msgspec.UnsetType,
        says("Names and numbers of the failure; fields that do not apply are absent", {"missing": ["x"]}),
    ] = msgspec.UNSET
    dropped: Annotated[Mapping[str, str] | msgspec.UnsetType, _DROPPED] = msgspec.UNSET


class Problem(msgspec.Struct, omit_defaults=True):
    """Every error that is not a failed build."""

    status: Annotated[int, says("The HTTP status", 400, minimum=400, maximum=599)]
    title: Annotated[str, says("The kind of error", "Request rejected")]
    detail: Annotated[str, says("What is wrong and what to do", A_SENTENCE)]
    code: Annotated[str, says("The kind of error as a stable word", "request_rejected")] = ""
    side: _Side | msgspec.UnsetType = msgspec.UNSET
    field: _Field = ""


class QueueLength(msgspec.Struct):
    """How many jobs wait."""

    queue_length: Annotated[int, says("Waiting jobs", 3, minimum=0)]


UPSTREAM_IS_SLOW: Mapping[int, tuple[str, object]] = {
    503: ("Upstream was never asked for this and is slow; Retry-After says when to ask again", Problem)
}
"""What everything may answer that needs documents of the download server."""


class RenderedResponse(msgspec.Struct, frozen=True):
    """A rendered answer: what goes over the wire, apart from what every answer carries."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Beside those of its body, which is JSON."""

    def all_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Those of its body too."""
        length = b"%d" % len(self.body)
        return ((b"content-type", b"application/json"), (b"content-length", length), *self.headers)


_encode = msgspec.json.Encoder().encode


def render_problem(
    status: int, title: str, detail: str, *, code: str = "", side: Side | None = None, field: str = ""
) -> RenderedResponse:
    """An error in the one form that all of them have."""
    problem = Problem(status, title, detail, code, side or msgspec.UNSET, field)
    return RenderedResponse(status, _encode(problem))


def render_json(document: object) -> RenderedResponse:
    """Any other document, with 200."""
    return RenderedResponse(200, _encode(document))


class BuildFrame(msgspec.Struct, frozen=True):
    """What every document of one job says, whatever becomes of it."""

    request_hash: str
    enqueued_at: datetime
    request: msgspec.Raw
    """A `RequestEcho`, encoded."""
    dropped: Mapping[str, str] | msgspec.UnsetType = msgspec.UNSET


def frame_of(job: Job) -> BuildFrame:
    """The frame of a job, for `render_build` and `render_live`."""
    # With every field, because owut reads some without looking whether they are there.
    request = job.request
    fields = asdict(request)
    dropped = fields.pop("dropped") or msgspec.UNSET
    fields |= {
        "defaults": request.defaults or None,
        "on_missing": "drop" if dropped else msgspec.UNSET,
        "as_of": request.as_of or msgspec.UNSET,
    }
    echo = RequestEcho(distro="openwrt", client=job.client, **fields)
    return BuildFrame(job.request_hash, job.enqueued_at, msgspec.Raw(_encode(echo)), dropped)


def render_build(view: BuildView, frame: BuildFrame | None = None) -> RenderedResponse:
    """A job as its clients see it; GET and POST render the same."""
    job = view.job
    frame = frame or frame_of(job)
    if job.state not in FINAL_STATES:
        return render_live(frame, view.progress)
    shared = {"state": job.state, **asdict(frame)}
    document: object
    if isinstance(job.outcome, BuildResult):
        if view.unchanged:
            shared["unchanged"] = True
        status, step, document = 200, b"done", _done(job, job.outcome, shared)
    else:
        status, step, document = 500, b"failed", _failed(job.outcome, shared)
    return RenderedResponse(status, _encode(document), _headers(job.enqueued_at, step, 0, job))


def render_live(frame: BuildFrame, progress: Progress) -> RenderedResponse:
    """A job that waits or is being built, as its clients see it."""
    standing = progress.standing
    waits = standing.state is JobState.PENDING
    stage = standing.stage or Stage.INIT
    position = (standing.ahead or 0) if waits else 0
    eta_seconds = progress.eta_seconds
    document = Accepted(
        status=202,
        detail="queued" if waits else "started",
        state=standing.state,
        request_hash=frame.request_hash,
        enqueued_at=frame.enqueued_at,
        request=frame.request,  # type: ignore[arg-type] # it is encoded already
        dropped=frame.dropped,
        queue_position=position if waits else msgspec.UNSET,
        imagebuilder_status=msgspec.UNSET if waits else stage,
        eta_seconds=msgspec.UNSET if eta_seconds is None else eta_seconds,
        waiting_for=progress.waiting_for or msgspec.UNSET,
    )
    step = b"queued" if waits else stage.encode()
    return RenderedResponse(202, _encode(document), _headers(frame.enqueued_at, step, position, standing))


def with_cancel_token(answer: RenderedResponse, cancel_token: str) -> RenderedResponse:
    """An answer about a live job for the caller who may cancel it with this secret of URL-safe characters."""
    body = b'%b,"cancel_token":"%b"}' % (answer.body[:-1], cancel_token.encode())
    return RenderedResponse(answer.status, body, answer.headers)


def _headers(
    enqueued_at: datetime, step: bytes, position: int, job: Job | Standing
) -> tuple[tuple[bytes, bytes], ...]:
    """What an answer says in short, and how long the job has waited and was built, once that is over."""
    headers = [(b"x-imagebuilder-status", step), (b"x-queue-position", b"%d" % position)]
    finished_at = job.finished_at if isinstance(job, Job) else None
    spans = []
    # It has waited for its (last) start.
    waited_until = job.started_at or finished_at
    if waited_until:
        spans.append(b"wait;dur=%.0f" % _milliseconds(enqueued_at, waited_until))
    if job.started_at and finished_at:
        spans.append(b"build;dur=%.0f" % _milliseconds(job.started_at, finished_at))
    if isinstance(job, Job) and isinstance(job.outcome, BuildResult):
        seconds = job.outcome.seconds
        spans += [b"%b;dur=%.0f" % (name.encode(), seconds[name] * 1e3) for name in Step if name in seconds]
    if spans:
        headers.append((b"server-timing", b", ".join(spans)))
    return tuple(headers)


def _milliseconds(since: datetime, until: datetime) -> float:
    return max(0.0, (until - since).total_seconds() * 1e3)  # a clock may have been set back


def _done(job: Job, result: BuildResult, shared: Mapping[str, Any]) -> dict[str, object]:
    described = result.description
    titles = described.get("titles")
    made_at = source_date(described) or job.finished_at or job.enqueued_at
    done = Done(
        status=200,
        detail="done",
        imagebuilder_status="done",
        bin_dir=job.request_hash,
        id=job.request.profile,
        target=job.request.target,
        version_number=_text(described.get("version_number"), job.request.version),
        version_code=_text(described.get("version_code"), job.request.version_code),
        # The Firmware Selector reads titles[0] before it shows any link.
        titles=titles if isinstance(titles, list) else [],
        # When the sources were made, in UTC as JavaScript reads it.
        build_at=made_at.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z",
        images=tuple(
            ImageDocument(**asdict(image) | {"filesystem": image.filesystem or msgspec.UNSET})
            for image in result.images
        ),
        manifest=result.manifest,
        build_cmd=result.build_cmd,
        build_cmd_packages=result.packages,
        stdout=result.stdout,
        stderr=result.stderr,
        warnings=result.warnings,
        package_changes=render_changes(result.package_changes),
        indexes=result.indexes or msgspec.UNSET,
        signed_by=result.signed_by or msgspec.UNSET,
        sbom=asdict(result.sbom) if result.sbom else msgspec.UNSET,
        provenance=result.provenance or msgspec.UNSET,
        **shared,
    )
    # Ours come last: nothing that left a container may replace them.
    ours = {name: value for name, value in asdict(done).items() if value is not msgspec.UNSET}
    return {**described, **ours}


def _failed(outcome: object, shared: Mapping[str, Any]) -> Failed:
    """What failed, or was cancelled: a 500 too, because that is what every old client stops at."""
    failed = Failed(
        status=500,
        title="Build cancelled",
        detail="cancelled",
        imagebuilder_status="failed",
        fault=Fault.USER,
        reason="cancelled",
        code="cancelled",
        side=Side.USER,
        stdout="",
        stderr="",
        **shared,
    )
    if not isinstance(outcome, BuildFailure):
        return failed
    attempts = tuple(
        AttemptDocument(attempt.started_at, attempt.ended_at, attempt.stage, attempt.ending)
        for attempt in outcome.attempts
    )
    return msgspec.structs.replace(
        failed,
        title="Build failed",
        detail=outcome.detail or "failed",
        fault=outcome.fault,
        reason=outcome.reason,
        code=outcome.reason,
        side=outcome.side,
        stdout=outcome.stdout,
        stderr=outcome.stderr,
        build_cmd=outcome.build_cmd or msgspec.UNSET,
        attempts=attempts or msgspec.UNSET,
        field=outcome.field or msgspec.UNSET,
        problem=render_build_problem(outcome.problem) if outcome.problem else msgspec.UNSET,
    )


def _text(value: object, otherwise: str) -> str:
    return value if isinstance(value, str) else otherwise
