"""ImageBuilder images: which one a release needs, and having it here, one pull at a time."""

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from math import inf
from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from asu_builder.adapters.guard import Guard, Watch
from asu_builder.adapters.podman_engine import Engine, PodmanOptions
from asu_builder.adapters.podman_pull import missing, pull_error, pull_failed, too_slow
from asu_builder.adapters.podman_registries import NotAsked, Registries
from asu_builder.adapters.podman_sharing import SharedPulls
from asu_builder.adapters.podman_streams import Stream, libpod_url
from asu_builder.domain.errors import BuildFailed, EngineUnavailable, Unavailable
from asu_builder.ports import ContainerSpec, Verdict

if TYPE_CHECKING:
    from podman import PodmanClient

log = logging.getLogger(__name__)

_DEFAULT_WORKDIR = "/builder"
_REFRESH = timedelta(minutes=3)
"""How long a build waits for a newer image when it has one already."""
_LOCAL = "localhost/"
"""Podman's name for images that were made here: there is no registry to ask."""


class Image(Struct, frozen=True):
    """One container image as it is here now."""

    reference: str
    id: str
    workdir: str
    warning: str = ""
    """Why this image may be older than it should be; empty when it is not."""
    user: str = ""
    """Whom its commands run as, by name or number; empty is root."""


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
        self._registries = Registries(clock=clock)
        self._asked: dict[str, tuple[float, str]] = {}
        """Reference → when the registry was last asked, and the warning that came of it."""
        self._outdated: set[str] = set()
        """Images whose tag has moved on, still to be removed."""

    def reference(self, spec: ContainerSpec) -> str:
        """The name of the image that builds this release for this target."""
        target, _, subtarget = spec.target.partition("/")
        return self._options.image_template.format(
            registry=self._options.registry,
            target=target,
            subtarget=subtarget,
            tag=spec.release.tag,
            version=spec.release.version,
        )

    def provide(self, spec: ContainerSpec, *, stop: Event) -> Image:
        """The image, pulled if need be.

        Raises `BuildFailed(IMAGEBUILDER_MISSING)`, `BuildInterrupted`, `RegistryUnavailable` when
        the registry does not deliver and no image is here, `EngineUnavailable`.
        """
        reference = self.reference(spec)
        ends = monotonic() + spec.deadline.total_seconds()
        image = self._inspect(reference)
        if reference.startswith(_LOCAL):
            if image is None:
                raise missing(reference)
            return image
        if image is None:
            self._pull_shared(reference, self._is_absent, stop=stop, ends=ends)
        elif spec.release.moving and self._is_stale(reference):
            self._refresh(image, stop=stop, ends=min(ends, monotonic() + _REFRESH.total_seconds()))
        else:
            return image
        image = self._inspect(reference)
        if image is None:
            raise Unavailable(f"The container image {reference} was pulled but is not there; trying again.")
        return image

    def check_registry(self) -> Verdict:
        """Whether images can be pulled, as far as was seen."""
        return self._registries.verdict()

    def _inspect(self, reference: str) -> Image | None:
        with self._engine.client() as client:
            attributes = _attributes(client, reference)
        if not attributes or not attributes.get("Id"):
            return None
        configured = attributes.get("Config") or {}
        workdir = (configured.get("WorkingDir") or "").rstrip("/") or _DEFAULT_WORKDIR
        warning = self._asked.get(reference, (0.0, ""))[1]
        return Image(reference, attributes["Id"], workdir, warning, str(configured.get("User") or ""))

    def _is_stale(self, reference: str) -> bool:
        asked, _ = self._asked.get(reference, (None, ""))
        return asked is None or self._clock() - asked >= self._options.refresh_after.total_seconds()

    def _is_absent(self, reference: str) -> bool:
        return self._inspect(reference) is None

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
        current = self._inspect(former.reference)
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

        def pull() -> None:
            if is_needed(reference):
                with self._registries.asking(reference):
                    self._pull(reference, stop=stop, ends=ends)

        self._pulls.run(reference, pull, stop=stop, ends=ends)

    def _pull(self, reference: str, *, stop: Event, ends: float) -> None:
        log.info("pulling %s", reference)
        with self._engine.client() as client:
            prefix = client.api.path_prefix
        verify = str(self._options.tls_verify).lower()
        url = libpod_url(prefix, "images/pull", reference=reference, policy="always", tlsVerify=verify)
        timeouts = self._options.timeouts
        # The guard alone bounds the wait: a big layer takes minutes, in which Podman says nothing.
        with Stream(self._engine.socket(), "POST", url, call=timeouts.call, headers_within=None) as stream:
            limit = timedelta(seconds=max(0.0, ends - monotonic()))
            watches = (Watch(timeouts.watch, self._require_engine),)
            guard = Guard(stop, limit, kill=stream.abort, watches=watches, silence=timeouts.silence)
            try:
                with guard, guard.covering():
                    error = pull_error(stream)
            except BuildFailed as late:
                raise too_slow(reference) from late
        if error is not None:
            raise pull_failed(reference, error)
        self._asked[reference] = (self._clock(), "")

    def _require_engine(self) -> None:
        """Tells an engine that hangs from a registry that is slow."""
        self._engine.ping(timeout=self._options.timeouts.question)


def _attributes(client: "PodmanClient", reference: str) -> Mapping[str, Any] | None:
    response = client.api.get(f"/images/{reference}/json")
    if response.status_code == 404:
        return None
    response.raise_for_status()
    attributes: Mapping[str, Any] = response.json()
    return attributes
