"""One build of the made-up sample, as `asu-builder demo` makes it, in the runtime of the settings.

Everything is in a temporary directory; the container image that is imported for it goes afterwards.
"""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from urllib.parse import quote

from msgspec.structs import replace

from asu_builder.demo import TARGET, VERSION, build_sample, sample_service
from asu_builder.doctor.report import BUILD, SAMPLE_BUILD, Check, examine
from asu_builder.doctor.scene import Scene
from asu_builder.domain.errors import AsuError
from asu_builder.domain.health import CheckResult, error, ok, warning
from asu_builder.engines.local.sandbox import bubblewrap_works
from asu_builder.engines.podman.service import Engine
from asu_sample.container import import_image
from asu_sample.distribution import Distribution, write_distribution
from asu_sample.server import DownloadServer

_SECONDS = 240.0
_LAST_LINES = 3


def try_building(scene: Scene, results: Sequence[CheckResult]) -> CheckResult:
    """The result of the build; it does not begin where the engine does not work."""
    if any(result.name == "engine" and result.status == "error" for result in results):
        found = warning("Nothing was built, since nothing can be.", "See to the engine first (engine).")
        return replace(found, name=SAMPLE_BUILD, group=BUILD)
    remedy = "See what the engine does: podman ps; podman logs NAME"
    return next(examine(scene, (Check(SAMPLE_BUILD, BUILD, _build, _SECONDS, remedy),)))


def _build(scene: Scene) -> CheckResult:
    """One image of the sample, by a service that is started for it."""
    said: list[str] = []
    began = monotonic()
    runtime = "the local runtime" if scene.is_local else "a container"
    try:
        with tempfile.TemporaryDirectory(prefix="asu-doctor-") as folder, contextlib.ExitStack() as running:
            root = Path(folder)
            distribution = write_distribution(root / "sample")
            upstream = running.enter_context(DownloadServer(distribution.downloads))
            settings = running.enter_context(_runtime(scene, distribution))
            settings |= {"ASU_UPSTREAM_URL": upstream.url, "ASU_BUILD_NETWORK": "none", "ASU_DISK_FLOOR": "0"}
            log = running.enter_context((root / "log").open("wb"))
            address, service = running.enter_context(sample_service(settings, root, log=log, port=0))
            if build_sample(address, service, root, say=said.append):
                seconds = monotonic() - began
                return ok(f"One image of the sample was built in {runtime} and verified in {seconds:.0f} s.")
            if service.poll() is not None:
                said.append((root / "log").read_text(errors="replace"))
    except Exception as failure:  # noqa: BLE001 - any failure is the result
        said.append(f"{type(failure).__name__}: {failure}")
    lines = [line.strip() for text in said for line in text.splitlines() if line.strip()]
    last = " / ".join(lines[-_LAST_LINES:])[:600]
    return error(
        f"The sample was not built in {runtime}: {last}",
        "See each step of it: asu-builder demo   (docs/errors.md explains reasons)",
    )


@contextlib.contextmanager
def _runtime(scene: Scene, distribution: Distribution) -> Iterator[dict[str, str]]:
    """The settings that choose the same runtime for the sample's ImageBuilder."""
    if scene.is_local:
        unsandboxed = scene.settings.allow_unsandboxed and not bubblewrap_works()
        yield {
            "ASU_CONTAINER_RUNTIME": "local",
            "ASU_IMAGEBUILDER_PATH": distribution.template,
            "ASU_ALLOW_UNSANDBOXED": str(unsandboxed).lower(),
        }
        return
    engine = scene.engine
    assert engine is not None, "it is not begun without"
    name = f"localhost/asu-builder-doctor-{os.getpid()}-{secrets.token_hex(4)}"
    target, _, subtarget = TARGET.partition("/")
    reference = f"{name}:{target}-{subtarget}-v{VERSION}"
    try:
        import_image(f"unix://{engine.path}", reference, distribution.imagebuilder(VERSION, TARGET))
        yield {
            "ASU_CONTAINER_RUNTIME": "podman",
            "ASU_CONTAINER_SOCKET_PATH": str(engine.path),
            "ASU_IMAGEBUILDER_IMAGE": name + ":{target}-{subtarget}-{tag}",
        }
    finally:
        with contextlib.suppress(AsuError), Engine(str(engine.path)).client() as client:
            client.api.delete(f"/images/{quote(reference, safe='')}", params={"force": True})
