"""The documents of the operator's interface."""

from datetime import datetime
from typing import Annotated, Any

import msgspec

from asu_builder.domain.job import JobState, Stage
from asu_builder.web.fields import A_HASH, HASH_PATTERN, says

_A_TIME = "2026-11-23T12:44:54.231091Z"


class JobDocument(msgspec.Struct):
    """One job as an operator sees it."""

    id: Annotated[int, says("Its number; page with `before`", 4711)]
    request_hash: Annotated[str, says("Names the request", A_HASH, pattern=HASH_PATTERN)]
    state: Annotated[JobState, says("Where in life it is", "building")]
    stage: Annotated[Stage | None, says("How far the build is", "building_image", None)]
    priority: Annotated[str, says("The class of `asker`", "normal", enum=["bulk", "normal", "interactive"])]
    version: Annotated[str, says("The version asked for", "24.10.4")]
    target: Annotated[str, says("Target and subtarget", "ath79/generic")]
    profile: Annotated[str, says("The profile", "tplink_archer-c7-v5")]
    asker: Annotated[
        str,
        says(
            "Whose turn it takes, a token's name or an address: who asked first, unless one who joined "
            "while it waited would have come earlier",
            "192.0.2.7",
        ),
    ]
    client: Annotated[str, says("With which program it was asked for first", "owut/2026.03.30")]
    joined: Annotated[bool, says("Whether others have asked for the same since", False)]
    attempts: Annotated[int, says("How often its worker was lost in mid-build", 0, minimum=0)]
    retries: Annotated[int, says("How often the world failed it", 0, minimum=0)]
    reason: Annotated[str | None, says("Why it failed", "impossible_selection", None)]
    enqueued_at: Annotated[datetime, says("When it was made, UTC", _A_TIME, format="date-time")]
    started_at: Annotated[datetime | None, says("When it was last claimed", _A_TIME, None)]
    finished_at: Annotated[datetime | None, says("When it ended", _A_TIME, None)]


class JobList(msgspec.Struct):
    """Jobs, newest first."""

    jobs: Annotated[list[JobDocument], says("The jobs", [])]


class WorkersDocument(msgspec.Struct):
    """Whether the workers take jobs."""

    paused: Annotated[bool, says("Whether no worker claims a job", False)]
    since: Annotated[datetime | None, says("Since when", _A_TIME, None)] = None
    who: Annotated[str | None, says("Who has paused them", "alice", None)] = None


class ActDocument(msgspec.Struct):
    """One act of an operator."""

    at: Annotated[datetime, says("When, UTC", _A_TIME, format="date-time")]
    who: Annotated[str, says("The token's name, or cli and the user's", "alice")]
    act: Annotated[str, says("What was done", "cancel")]
    subject: Annotated[str, says("To what: a request hash, or nothing", A_HASH)]


class ActList(msgspec.Struct):
    """Acts, newest first."""

    acts: Annotated[list[ActDocument], says("The acts", [])]


class DoneDocument(msgspec.Struct):
    """An act was done."""

    status: Annotated[int, says("The HTTP status", 200, const=200)]
    detail: Annotated[str, says("What was done", "requeued")]


class SettingDocument(msgspec.Struct):
    """One setting."""

    name: Annotated[str, says("Its name in a file; in a variable with ASU_ before it", "job_timeout")]
    value: Annotated[Any, says("What holds, as it is written in a file", "10m", 8080, True)]
    origin: Annotated[str, says("Where it was chosen: a file, a variable, or default", "variable ASU_CORS")]
    default: Annotated[Any, says("What holds when nobody chooses; null where that depends", "10m", None)]
    meaning: Annotated[str, says("What it does", "After this time the build's container is killed.")]


class ConfigurationDocument(msgspec.Struct):
    """The settings in effect, those that somebody chose first."""

    settings: Annotated[tuple[SettingDocument, ...], says("The settings", [])]
