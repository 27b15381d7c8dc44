"""ImageBuilder images: which one a release needs, and having it here, one pull at a time."""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from math import inf
from threading import Event, Lock
from time import monotonic
from typing import Any

from msgspec import Struct, field

from asu_builder.domain.errors import (
    AsuError,
    BuildFailed,
    BuildInterrupted,
    EngineUnavailable,
    FailureReason,
    RegistryUnavailable,
    Unavailable,
)
from asu_builder.domain.health import Breaker, CheckResult
from asu_builder.domain.make import ContainerSpec, Origin
from asu_builder.domain.release import Release
from asu_builder.engines.guard import TICK, Guard, Watch, interrupted
from asu_builder.engines.podman.service import Engine, PodmanOptions, one_line
from asu_builder.engines.podman.streams import Stream, libpod_url
from asu_builder.engines.transfer import ENGINE_DISK_FULL
from asu_builder.settings import Settings


class NotAsked(RegistryUnavailable):
    """The registry has just failed, so that it was not asked again."""


class Registries:
    """A circuit breaker for each registry that images come from; every thread may use it."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._clock = clock
        self._lock = Lock()
        self._breakers: dict[str, Breaker] = {}

    @contextmanager
    def asking(self, reference: str) -> Iterator[None]:
        """Surrounds a pull and learns from how it ends. Raises `NotAsked`."""
        host = reference.partition("/")[0]
        with self._lock:
            if host not in self._breakers:
                self._breakers[host] = Breaker(clock=self._clock)
            breaker = self._breakers[host]
        if not breaker.admits():
            raise NotAsked(breaker.sentence, retry_after=breaker.retry_after)
        try:
            yield
        except RegistryUnavailable as error:
            breaker.failed(str(error))
            error.retry_after = breaker.retry_after
            raise
        except BuildFailed:
            # It has answered: there is no such image.
            breaker.worked()
            raise
        except BaseException:
            breaker.withdraw()
            raise
        breaker.worked()

    def check(self) -> CheckResult:
        """Degraded when the latest pull from some registry has failed for the registry's reasons."""
        with self._lock:
            breakers = list(self._breakers.values())
        for breaker in breakers:
            if sentence := breaker.sentence:
                return CheckResult("warning", f"{sentence} Only what is here already can be built meanwhile.")
        return CheckResult("ok", "No pull has failed of late.")


log = logging.getLogger(__name__)

# Registries answer a tag that does not exist, or a repository that they will not show, in these ways.
_NO_SUCH_IMAGE = re.compile(
    r"manifest unknown|name unknown|name invalid|tag .* not found|not found: manifest"
    r"|repository .* not found|does not exist|access to the resource is denied|unauthorized",
    re.IGNORECASE,
)
_DISK_FULL = re.compile("no space left on device|disk quota exceeded", re.IGNORECASE)


def pull_error(stream: Stream) -> str | None:
    """Reads the progress to its end: one JSON object per line, a failure among them, or an id.

    An answer without an id is a failure too, though podman-py makes an empty image of it.
    """
    if stream.begin() >= 400:
        return stream.refusal()
    error, pulled = "", False
    while line := stream.read_line():
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict):
            error = report.get("error") or error
            pulled = pulled or bool(report.get("id"))
    if error or not pulled:
        return error or "Podman reported no image"
    return None


def pull_failed(reference: str, error: str) -> AsuError:
    """What the registry or the engine meant by its refusal."""
    if _NO_SUCH_IMAGE.search(error):
        return missing(reference)
    if _DISK_FULL.search(error):
        return EngineUnavailable(ENGINE_DISK_FULL)
    return RegistryUnavailable(f"The container image {reference} could not be pulled: {one_line(error)}.")


def missing(reference: str) -> BuildFailed:
    """There is no such image, neither here nor in the registry, whose address is the operator's alone."""
    log.warning("There is no container image %s", reference)
    return not_published(reference)


def not_published(reference: str) -> BuildFailed:
    """The same of one that is known to be missing."""
    name = reference.rpartition("/")[2]
    return BuildFailed(
        FailureReason.IMAGEBUILDER_MISSING,
        f"Error: Image not found: {name}. Its container image is not published (yet): "
        "choose another version, or try again in some hours.",
    )


def too_slow(reference: str) -> RegistryUnavailable:
    """The pull did not end before the build's deadline."""
    return RegistryUnavailable(f"The registry did not deliver {reference} in time; trying again.")


class _Pull(Struct):
    done: Event = field(default_factory=Event)
    failure: AsuError | None = None


class SharedPulls:
    """The pulls on their way; every thread may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pulls: dict[str, _Pull] = {}

    def run(self, reference: str, pull: Callable[[], None], *, stop: Event, ends: float) -> None:
        """Calls `pull`, or waits for who already pulls this; an interrupted one's place is taken.

        Waiting ends when `stop` is set, and at `ends`, in seconds of the monotonic clock. Raises how
        the pull failed.
        """
        while True:
            with self._lock:
                shared = self._pulls.get(reference)
                leads = shared is None
                if shared is None:
                    shared = self._pulls[reference] = _Pull()
            if leads:
                try:
                    pull()
                except AsuError as error:
                    shared.failure = error
                except BaseException:
                    shared.failure = BuildInterrupted(f"The pull of {reference} broke off.")
                    raise
                finally:
                    # Those who wait are told how the pull ended, whatever happens.
                    with self._lock:
                        del self._pulls[reference]
                    shared.done.set()
            else:
                while not shared.done.wait(TICK):
                    if stop.is_set():
                        raise interrupted()
                    if monotonic() >= ends:
                        raise too_slow(reference)
            if shared.failure is None:
                return
            if leads or not isinstance(shared.failure, BuildInterrupted):
                raise shared.failure


_DEFAULT_WORKDIR = "/builder"
_REFRESH = timedelta(minutes=3)
"""How long a build waits for a newer image when it has one already."""
_LOCAL = "localhost/"
"""Podman's name for images that were made here: there is no registry to ask."""
MADE_HERE = f"{_LOCAL}asu-builder/"
"""How the names of images begin that this service makes."""
BASE, BASE_DIGEST, ARCHIVE, PLACE = "asu.base", "asu.base.digest", "asu.archive", "asu.place"
"""Their labels: the image they were made of, its digest, the SHA-256 of the ImageBuilder's archive, and where
the download server has it."""


class Image(Struct, frozen=True):
    """One container image as it is here now."""

    reference: str
    id: str
    workdir: str
    warning: str = ""
    """Why this image may be older than it should be; empty when it is not."""
    user: str = ""
    """Whom its commands run as, by name or number; empty is root."""
    digest: str = ""
    """SHA-256 of its manifest, hexadecimal; empty where Podman tells none."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> Origin:
        """What a container of it was made of; an image that was made here knows it by its labels."""
        if not self.reference.startswith(MADE_HERE):
            return Origin("container", self.reference, self.digest)
        labels = self.labels
        return Origin(
            "container", labels.get(BASE, ""), labels.get(BASE_DIGEST, ""), archive=labels.get(ARCHIVE, "")
        )


def image_reference(settings: Settings, release: Release, target: str) -> str:
    """The name of the container image that `imagebuilder_image` gives to an ImageBuilder."""
    first, _, second = target.partition("/")
    return settings.imagebuilder_image.format(
        registry=settings.imagebuilder_registry,
        target=first,
        subtarget=second,
        tag=release.tag,
        version=release.version,
    )


class Images:
    """The engine's images, pulled when missing, refreshed when their tag moves."""

    def __init__(
        self, options: PodmanOptions, engine: Engine, *, clock: Callable[[], float] = monotonic
    ) -> None:
        """`clock` counts seconds; tests move it."""
        self._options = options
        self._engine = engine
        self._clock = clock
        self._lock = Lock()
        self._pulls = SharedPulls()
        self.registries = Registries(clock=clock)
        self._asked: dict[str, tuple[float, str]] = {}
        """Reference → when the registry was last asked, and the warning that came of it."""
        self._outdated: set[str] = set()
        """Images whose tag has moved on, still to be removed."""

    def provide(self, spec: ContainerSpec, *, stop: Event) -> Image:
        """The image, pulled if need be.

        Raises `BuildFailed(IMAGEBUILDER_MISSING)`, `BuildInterrupted`, `RegistryUnavailable` when
        the registry does not deliver and no image is here, `EngineUnavailable`.
        """
        reference = image_reference(self._options.settings, spec.release, spec.target)
        return self.provide_named(reference, moving=spec.release.moving, deadline=spec.deadline, stop=stop)

    def provide_named(self, reference: str, *, moving: bool, deadline: timedelta, stop: Event) -> Image:
        """The same of an image by its name; one that is `moving` is asked for again now and then."""
        ends = monotonic() + deadline.total_seconds()
        image = self.inspect(reference)
        if reference.startswith(_LOCAL):
            if image is None:
                raise missing(reference)
            return image
        if image is None:
            self._pull_shared(reference, lambda name: self.inspect(name) is None, stop=stop, ends=ends)
        elif moving and self._is_stale(reference):
            self._refresh(image, stop=stop, ends=min(ends, monotonic() + _REFRESH.total_seconds()))
        else:
            return image
        image = self.inspect(reference)
        if image is None:
            raise Unavailable(f"The container image {reference} was pulled but is not there; trying again.")
        return image

    def inspect(self, reference: str) -> Image | None:
        """The image as the engine has it now; None where it has none."""
        with self._engine.client() as client:
            response = client.api.get(f"/images/{reference}/json")
            if response.status_code == 404:
                return None
            response.raise_for_status()
            attributes: Mapping[str, Any] = response.json()
        if not attributes.get("Id"):
            return None
        configured = attributes.get("Config") or {}
        workdir = (configured.get("WorkingDir") or "").rstrip("/") or _DEFAULT_WORKDIR
        warning = self._asked.get(reference, (0.0, ""))[1]
        algorithm, _, digest = str(attributes.get("Digest") or "").partition(":")
        return Image(
            reference,
            attributes["Id"],
            workdir,
            warning,
            user=str(configured.get("User") or ""),
            digest=digest if algorithm == "sha256" else "",
            labels=configured.get("Labels") or {},
        )

    def _is_stale(self, reference: str) -> bool:
        asked, _ = self._asked.get(reference, (None, ""))
        return asked is None or self._clock() - asked >= self._options.refresh_after.total_seconds()

    def _refresh(self, present: Image, *, stop: Event, ends: float) -> None:
        reference = present.reference
        try:
            self._pull_shared(reference, self._is_stale, stop=stop, ends=ends)
        except EngineUnavailable:
            raise
        except (Unavailable, BuildFailed) as error:
            warning = f"The container image {reference} could not be refreshed and may be outdated."
            if isinstance(error, NotAsked):
                # The next build asks again, which costs nothing as long as the registry is left alone.
                self._asked[reference] = (-inf, warning)
            else:
                log.warning("could not refresh %s: %s", reference, error)
                self._asked[reference] = (self._clock(), warning)
        else:
            self._drop_outdated(present)

    def _drop_outdated(self, former: Image) -> None:
        """Snapshots would fill the disk with one nameless image per day.

        What a container still uses, or another tag names, is refused by Podman and tried again
        after the next refresh.
        """
        current = self.inspect(former.reference)
        with self._lock:
            self._outdated.add(former.id)
            self._outdated.discard(current.id if current else "")
            candidates = list(self._outdated)
        for image in candidates:
            with self._engine.client() as client:
                status = client.api.delete(f"/images/{image}").status_code
            if status in (200, 404):
                with self._lock:
                    self._outdated.discard(image)

    def _pull_shared(
        self, reference: str, is_needed: Callable[[str], bool], *, stop: Event, ends: float
    ) -> None:
        """`is_needed` is asked again by who is to pull: somebody else may just have done it."""
        pull = partial(self._pull, reference, is_needed, stop=stop, ends=ends)
        self._pulls.run(reference, pull, stop=stop, ends=ends)

    def _pull(self, reference: str, is_needed: Callable[[str], bool], *, stop: Event, ends: float) -> None:
        if not is_needed(reference):
            return
        with self.registries.asking(reference):
            log.info("pulling %s", reference)
            with self._engine.client() as client:
                prefix = client.api.path_prefix
            verify = str(self._options.tls_verify).lower()
            url = libpod_url(prefix, "images/pull", reference=reference, policy="always", tlsVerify=verify)
            timeouts = self._options.timeouts
            # The guard alone bounds the wait: a big layer takes minutes, in which Podman says nothing.
            with Stream(
                self._engine.socket(), "POST", url, call=timeouts.call, headers_within=None
            ) as stream:
                limit = timedelta(seconds=max(0.0, ends - monotonic()))
                # The ping tells an engine that hangs from a registry that is slow.
                watches = (Watch(timeouts.watch, partial(self._engine.ping, timeout=timeouts.question)),)
                guard = Guard(stop, limit, kill=stream.abort, watches=watches, silence=timeouts.silence)
                try:
                    with guard.active(), guard.step():
                        error = pull_error(stream)
                except BuildFailed as late:
                    raise too_slow(reference) from late
            if error is not None:
                raise pull_failed(reference, error)
        self._asked[reference] = (self._clock(), "")
