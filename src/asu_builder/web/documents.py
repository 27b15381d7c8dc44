"""The documents clients read, as types: what is rendered is what the OpenAPI schema says."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec

from asu_builder.domain.job import JobState, Stage


class RequestEcho(msgspec.Struct):
    """The request with every field, because owut reads some without looking whether they are there."""

    distro: str
    version: str
    version_code: str
    target: str
    profile: str
    packages: tuple[str, ...]
    packages_versions: Mapping[str, str]
    diff_packages: bool
    defaults: str | None
    rootfs_size_mb: int | None
    filesystem: str | None
    repositories: Mapping[str, str]
    repositories_mode: str
    repository_keys: tuple[str, ...]
    client: str


class Accepted(msgspec.Struct):
    """202: the job waits or is being built.

    `queue_position` is there (0 included) only while it waits, `imagebuilder_status` only once it
    is being built: LuCI says "queued" for ever at the one and throws without the other.
    """

    status: int
    detail: Annotated[str, msgspec.Meta(description="queued or started")]
    state: JobState
    request_hash: str
    enqueued_at: datetime
    request: RequestEcho
    queue_position: int | msgspec.UnsetType = msgspec.UNSET
    imagebuilder_status: Stage | msgspec.UnsetType = msgspec.UNSET


class ImageDocument(msgspec.Struct):
    """One file of a build; download it from `/store/{bin_dir}/{name}`."""

    name: str
    type: str
    sha256: str
    sha256_unsigned: str
    size: int
    filesystem: str | msgspec.UnsetType = msgspec.UNSET


class Done(msgspec.Struct):
    """200: the images are there. Further keys of the ImageBuilder's `profiles.json` pass through."""

    status: int
    detail: str
    state: JobState
    imagebuilder_status: str
    request_hash: str
    bin_dir: str
    enqueued_at: datetime
    id: str
    target: str
    version_number: str
    version_code: str
    titles: list[Any]
    build_at: str
    images: tuple[ImageDocument, ...]
    manifest: Mapping[str, str]
    build_cmd: tuple[str, ...]
    build_cmd_packages: tuple[str, ...]
    stdout: str
    stderr: str
    warnings: tuple[str, ...]
    request: RequestEcho


class Failed(msgspec.Struct):
    """500: the build failed; `fault` says whose side it is on, `reason` why in one fixed word."""

    status: int
    title: str
    detail: str
    state: JobState
    imagebuilder_status: str
    fault: Annotated[str, msgspec.Meta(description="user, world or ours")]
    reason: str
    request_hash: str
    enqueued_at: datetime
    stdout: str
    stderr: str
    request: RequestEcho
    build_cmd: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class Problem(msgspec.Struct):
    """Every error that is not a failed build."""

    status: int
    title: str
    detail: str


class QueueLength(msgspec.Struct):
    """How many jobs wait."""

    queue_length: int


class Part(msgspec.Struct):
    """How one part of the service is, in a word and a sentence."""

    status: str
    sentence: str


class HealthDocument(msgspec.Struct):
    """How the service is: ok, degraded (something is down, polls are answered) or down."""

    status: str
    polls_answered: bool
    can_build: bool
    parts: Mapping[str, Part]
