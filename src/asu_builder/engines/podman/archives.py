"""ImageBuilders from the download server's archives, where the container image of a release is missing.

An archive holds links and programs, so it is unpacked in a container without a network, never on this host.
"""

import logging
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from inspect import getsource
from pathlib import Path
from threading import Event, Lock
from time import monotonic, time
from typing import IO, Protocol, TypeVar

from msgspec.structs import replace

from asu_builder.domain.errors import ArchiveRefused, BuildFailed, FailureReason, Unavailable
from asu_builder.domain.make import ContainerSpec
from asu_builder.domain.release import Archive
from asu_builder.engines.podman import unpacking
from asu_builder.engines.podman.container import PodmanContainer
from asu_builder.engines.podman.images import (
    ARCHIVE,
    BASE,
    BASE_DIGEST,
    MADE_HERE,
    PLACE,
    Image,
    Images,
    SharedPulls,
    image_reference,
    not_published,
)
from asu_builder.engines.podman.service import INSTALLATION, UNTIL, Engine, PodmanOptions, one_line
from asu_builder.engines.transfer import disk_errors
from asu_builder.ports import ArchiveSource

log = logging.getLogger(__name__)

REPOSITORY = f"{MADE_HERE}imagebuilder"
_MOST_FILES = 500_000
_SAID_BYTES = 4096
_TIDY_SECONDS = timedelta(hours=1).total_seconds()
_UNUSED_SECONDS = timedelta(days=7).total_seconds()
_MOST_REMEMBERED = 1000
_Value = TypeVar("_Value")
_STANDS_IN = (
    "The container image {name} is not published, so the ImageBuilder was taken from OpenWrt's archive."
)


class Running(Protocol):
    """Starts a container of an image."""

    def __call__(
        self,
        image: Image,
        spec: ContainerSpec,
        *,
        network: str,
        stop: Event,
        on_command: Callable[[], None],
    ) -> AbstractContextManager[PodmanContainer]:
        """As `PodmanRuntime` does it for builds, with all of the hardening."""


class ArchiveImages:
    """Local images of unpacked archives, one for each checksum; every thread may use it."""

    def __init__(
        self,
        source: ArchiveSource,
        options: PodmanOptions,
        engine: Engine,
        images: Images,
        running: Running,
        *,
        clock: Callable[[], float],
    ) -> None:
        """`clock` counts seconds: a refused archive is left alone for a while, and so is the registry."""
        self._source = source
        self._options = options
        self._engine = engine
        self._images = images
        self._running = running
        self._clock = clock
        self._pulls = SharedPulls()
        self._lock = Lock()
        self._missing: dict[str, float] = {}
        """Container images that the registry lacks, until it is asked again."""
        self._refused: dict[str, tuple[float, str]] = {}
        """Checksums of archives, until they are fetched again, and why not before."""
        self._used: dict[str, float] = {}
        self._started = clock()
        self._tidy_at = self._started + _TIDY_SECONDS

    def provide(self, spec: ContainerSpec, *, stop: Event) -> Image:
        """The registry's image, and where it has none that of the archive, made if need be.

        Raises as `Images.provide`, and `UpstreamUnavailable`.
        """
        reference = image_reference(self._options.settings, spec.release, spec.target)
        if not self._clock() < self._missing.get(reference, 0.0):
            try:
                return self._images.provide(spec, stop=stop)
            except BuildFailed as failure:
                if failure.reason is not FailureReason.IMAGEBUILDER_MISSING:
                    raise
                lacking = failure
        else:
            lacking = not_published(reference)
        try:
            archive = self._source.find(spec.release, spec.target)
            if archive is None:
                raise ArchiveRefused("the download server has none")
            image = self._made(archive, spec, stop=stop)
        except ArchiveRefused as refused:
            log.warning("No archive stands in for %s: %s", reference, refused)
            raise lacking from refused
        self._remember(self._missing, reference, self._later())
        return replace(image, warning=_STANDS_IN.format(name=reference.rpartition("/")[2]))

    def tidy(self) -> None:
        """Removes images whose place has a newer one, or that were not used for a week; once an hour."""
        if self._clock() < self._tidy_at:
            return
        self._tidy_at = self._clock() + _TIDY_SECONDS
        with self._engine.client() as client:
            # The engine's filter of labels finds nothing in Podman 4.3.
            response = client.api.get("/images/json")
            response.raise_for_status()
            installation = self._options.installation
            found = [
                entry
                for entry in response.json()
                if (entry.get("Labels") or {}).get(INSTALLATION) == installation
                and ARCHIVE in entry["Labels"]
            ]
            found.sort(key=lambda entry: int(entry.get("Created") or 0), reverse=True)
            places: set[str] = set()
            for entry in found:
                names = [name for name in entry.get("Names") or () if name.startswith(MADE_HERE)]
                place = (entry.get("Labels") or {}).get(PLACE, "")
                used = max((self._used.get(name, self._started) for name in names), default=self._started)
                if place in places or self._clock() - used > _UNUSED_SECONDS:
                    for name in names:  # one that a container still uses is refused, and tried again
                        client.api.delete(f"/images/{name}")
                places.add(place)

    def _made(self, archive: Archive, spec: ContainerSpec, *, stop: Event) -> Image:
        reference = f"{REPOSITORY}:{archive.digest}"
        self._remember(self._used, reference, self._clock())
        image = self._present(reference)
        if image is None:
            make = partial(self._make, archive, reference, spec, stop=stop)
            self._pulls.run(reference, make, stop=stop, ends=monotonic() + spec.deadline.total_seconds())
            image = self._present(reference)
        if image is None:
            raise Unavailable(f"The image {reference} was made but is not there; trying again.")
        return image

    def _present(self, reference: str) -> Image | None:
        """The image, if it was made on the base of today."""
        image = self._images.inspect(reference)
        base = self._options.settings.imagebuilder_base
        return image if image is not None and image.labels.get(BASE) == base else None

    def _make(self, archive: Archive, reference: str, spec: ContainerSpec, *, stop: Event) -> None:
        until, sentence = self._refused.get(archive.digest, (0.0, ""))
        if self._clock() < until:
            raise ArchiveRefused(sentence)
        if self._present(reference) is not None:
            return
        settings = self._options.settings
        base = self._images.provide_named(
            settings.imagebuilder_base, moving=False, deadline=spec.deadline, stop=stop
        )
        log.info("unpacking %s on %s", archive.path, base.reference)
        ends = monotonic() + spec.deadline.total_seconds()
        with disk_errors():
            settings.database_path.parent.mkdir(parents=True, exist_ok=True)
            # Without a name, so that nothing of it stays behind.
            file = tempfile.TemporaryFile(dir=settings.database_path.parent)  # noqa: SIM115 - closed below
        try:
            with file:
                self._source.fetch(archive, partial(_write, file), stop=stop, ends=ends)
                # Nothing of the request: others will build with what is made here.
                last = str(int(time() + spec.deadline.total_seconds()))
                own = ContainerSpec(spec.release, spec.target, spec.deadline, labels={UNTIL: last})
                with self._running(base, own, network="none", stop=stop, on_command=_nothing) as container:
                    self._unpack(container, archive, file)
                    labels = {BASE: base.reference, BASE_DIGEST: base.digest, ARCHIVE: archive.digest}
                    labels[PLACE] = archive.path.rpartition("/")[0]
                    labels |= {INSTALLATION: self._options.installation, UNTIL: "0"}
                    container.commit(reference, labels)
        except ArchiveRefused as refused:
            self._remember(self._refused, archive.digest, (self._later(), str(refused)))
            raise

    def _unpack(self, container: PodmanContainer, archive: Archive, file: IO[bytes]) -> None:
        """Raises `ArchiveRefused`."""
        size = file.tell()
        file.seek(0)
        path = container.put_file("imagebuilder.archive", file, size)
        program = "zstd" if archive.is_zstd else "xz"
        room = max(0, self._options.limits.disk - size)
        script = ("python3", "-c", getsource(unpacking), path, program, container.workdir)
        with tempfile.TemporaryDirectory() as output:
            try:
                result = container.run((*script, str(room), str(_MOST_FILES)), output=Path(output))
            except BuildFailed as failure:
                raise ArchiveRefused(f"it could not be unpacked: {failure.detail}") from failure
            said = [
                it.read_bytes()[-_SAID_BYTES:].decode(errors="replace")
                for it in (result.stdout, result.stderr)
            ]
        if result.exit_code:
            reason = said[0].partition("refused\t")[2].partition("\n")[0]
            raise ArchiveRefused(one_line(reason or f"imagebuilder_base could not unpack it: {said[1]}"))

    def _later(self) -> float:
        return self._clock() + self._options.refresh_after.total_seconds()

    def _remember(self, memory: dict[str, _Value], name: str, value: _Value) -> None:
        with self._lock:
            if name not in memory and len(memory) >= _MOST_REMEMBERED:
                del memory[next(iter(memory))]
            memory[name] = value


def _write(file: IO[bytes], chunk: bytes) -> None:
    with disk_errors():
        file.write(chunk)


def _nothing() -> None:
    """Unpacking says nothing about whether the engine can build."""
