"""One build from request to verified image, with the sample distribution and a real service.

The demo chooses its runtime by itself: Podman when it answers, else the local runtime. The service
never does that.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from asu_builder.client.builds import ServerBuilds, progress_of
from asu_builder.client.downloads import announced_images, fetch
from asu_builder.client.server import Server, retry
from asu_builder.domain.errors import ServerMistake, Unavailable
from asu_builder.engines.podman.runtime import PodmanRuntime
from asu_builder.engines.podman.service import PodmanOptions, find_socket
from asu_builder.settings import PREFIX
from asu_sample.container import import_image
from asu_sample.distribution import Distribution, write_distribution
from asu_sample.server import DownloadServer

VERSION, TARGET = "25.12.0", "pico/nine"
_IMAGE = "localhost/asu-builder-sample:{target}-{subtarget}-{tag}"
_REQUEST = {
    "version": VERSION,
    "target": TARGET,
    "profile": "acme,widget-5",
    "packages": ["luci", "tmux", "sample-service"],
    "client": "demo/1",
}
_START_SECONDS = 10.0
_SUBMIT_SECONDS = 20.0
"""How long the service may take to read its upstream for the first time."""
_BUILD_SECONDS = 180.0
_USUAL_PORT = 8080
_PR_SET_PDEATHSIG = 1

Say = Callable[[str], object]
Service = subprocess.Popen[bytes]


def run_demo(*, keep: bool, port: int | None = None) -> int:
    """Runs the demo and returns the exit code; with `keep` the service stays until Ctrl-C or a signal.

    With `keep` what `ASU_*` variables say goes above the demo's own settings. `port` must be free.
    """
    # Whatever stops the demo stops its service too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    variables = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    chosen = variables if keep else {}
    with tempfile.TemporaryDirectory(prefix="asu-demo-") as folder, contextlib.ExitStack() as running:
        root = Path(folder)
        _say("Writing the sample distribution. Its images are for looking at: they flash nothing.")
        distribution = write_distribution(root / "sample")
        upstream = running.enter_context(DownloadServer(distribution.downloads))
        try:
            settings = {**_choose_runtime(distribution), "ASU_UPSTREAM_URL": upstream.url, **chosen}
            settings.pop("ASU_SERVER_PORT", None)
            address, service = running.enter_context(
                sample_service(settings, root, port=_USUAL_PORT if port is None else port)
            )
            if "ASU_UPSTREAM_URL" in chosen:
                succeeded = _wait_until_ready(address, service, _say)
                _say("Nothing is built: the sample is not at ASU_UPSTREAM_URL.")
            else:
                succeeded = build_sample(address, service, root, say=_say)
            if succeeded and keep:
                where = settings["ASU_UPSTREAM_URL"]
                _say(f"\nThe service stays at {address} until Ctrl-C; its upstream is {where}")
                service.wait()
        except KeyboardInterrupt:
            _say("")
            return 0
    return 0 if succeeded else 1


def build_sample(address: str, service: Service, root: Path, *, say: Say) -> bool:
    """Whether one image of the sample is built, downloaded into `root` and verified."""
    if not _wait_until_ready(address, service, say):
        return False
    body = json.dumps(_REQUEST)
    say(f"\nPOST {address}/api/v1/build\n{body}\n")
    builds = ServerBuilds(Server(address))
    response = retry(lambda: builds.submit(body.encode()), seconds=_SUBMIT_SECONDS)
    request_hash = response.document["request_hash"]
    say(f"request hash  {request_hash}")
    shown = ""
    started = time.monotonic()
    while response.status == 202 and time.monotonic() - started < _BUILD_SECONDS:
        progress = progress_of(response.document)
        stage = progress.stage or f"queued, {progress.position or 0} ahead"
        if stage != shown:
            say(f"{time.monotonic() - started:9.1f} s  {stage}")
            shown = stage
        time.sleep(0.1)
        response = builds.look(request_hash)
    if response.status != 200:
        say(f"{response.status}: {response.document['detail']}\n{response.document.get('stderr', '')}")
        return False
    say(f"{time.monotonic() - started:9.1f} s  done\n")
    for image in announced_images(response.document):
        try:
            path = fetch(image, root, builds.source(response.document))
        except ServerMistake as mistake:
            say(str(mistake))
            return False
        say(f"{path.stat().st_size:>10} bytes  {image.name}  SHA-256 verified")
    manifest = response.document["manifest"]
    packages = ", ".join(f"{name} {version}" for name, version in manifest.items())
    say(f"\n{len(manifest)} packages: {packages}\n\nThis image is a sample: it flashes nothing.")
    return True


def _choose_runtime(distribution: Distribution) -> dict[str, str]:
    socket_path = find_socket()
    result = PodmanRuntime(PodmanOptions()).check() if socket_path else None
    if socket_path and result and result.status == "ok":
        _say(f"Podman answers at {socket_path}: building in a container.")
        reference = _IMAGE.format(target="pico", subtarget="nine", tag=f"v{VERSION}")
        import_image(f"unix://{socket_path}", reference, distribution.imagebuilder(VERSION, TARGET))
        # The sample ImageBuilder carries its packages.
        return {
            "ASU_CONTAINER_RUNTIME": "podman",
            "ASU_CONTAINER_SOCKET_PATH": str(socket_path),
            "ASU_IMAGEBUILDER_IMAGE": _IMAGE,
            "ASU_BUILD_NETWORK": "none",
        }
    why = result.sentence if result else "There is no Podman socket."
    _say(f"{why} Building with the local runtime.")
    return {
        "ASU_CONTAINER_RUNTIME": "local",
        "ASU_IMAGEBUILDER_PATH": distribution.template,
        "ASU_BUILD_NETWORK": "none",
        "ASU_ALLOW_UNSANDBOXED": "true",
    }


@contextlib.contextmanager
def sample_service(
    settings: Mapping[str, str], root: Path, *, log: IO[bytes] | None = None, port: int = _USUAL_PORT
) -> Iterator[tuple[str, Service]]:
    """A service with its state below `root`: its address and its process.

    `port` is taken where it is free. Its log goes to `log`, else to stderr.
    """
    import ctypes

    library = ctypes.CDLL(None)
    for candidate in (port, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", candidate))
            chosen = probe.getsockname()[1]
            break
    else:
        raise OSError("no port is free")
    settings = {
        "ASU_SERVER_PORT": str(chosen),
        "ASU_DATABASE_PATH": str(root / "data" / "asu-builder.db"),
        "ASU_PUBLIC_PATH": str(root / "public"),
        "ASU_ALLOW_DEFAULTS": "true",
        "ASU_LOG_LEVEL": "warning",
        **settings,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASU_")}
    command = [sys.executable, "-m", "asu_builder", "serve"]
    with subprocess.Popen(
        command,
        env={**environment, **settings},
        cwd=root,
        stdout=log,
        stderr=log,
        # It gets SIGTERM when this process ends, even when it is killed.
        preexec_fn=lambda: library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
    ) as process:
        try:
            yield f"http://127.0.0.1:{chosen}", process
        finally:
            process.terminate()


def _wait_until_ready(address: str, service: Service, say: Say) -> bool:
    server = Server(address)
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if service.poll() is not None:
            say("The service ended before it answered; it said why above.")
            return False
        with contextlib.suppress(Unavailable):
            server.ask("GET", "/api/v1/stats")
            say(f"The service answers at {address}")
            return True
        time.sleep(0.02)
    say(f"The service did not answer within {_START_SECONDS:.0f} seconds.")
    return False


def _say(text: str) -> None:
    print(text, flush=True)
