"""A Podman service of the tests' own: private storage, private socket, stopped by its pid.

Nothing of the host's Podman is seen or changed. Where the host's default runtime cannot start a
container (nested or hybrid cgroups), the service is started again with runc and lower ulimits.
"""

import fcntl
import os
import pickle
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple, TypeVar

import pytest

from asu_sample.container import import_image
from asu_sample.distribution import Distribution, write_distribution
from tools import require_tool, tool_missing

SAMPLE_REGISTRY = "localhost/sample"
SAMPLE_TARGET, OTHER_TARGET = "pico/nine", "x86/64"
APK_VERSION, OPKG_VERSION = "25.12.0", "24.10.5"
_READY_WITHIN = 15.0
_MODEST = """
[engine]
runtime = "runc"
exit_command_delay = 5
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
"""

Made = TypeVar("Made")


class SharedImages(NamedTuple):
    """Storage that holds the sample ImageBuilders, for services that only read it."""

    storage: Path
    modest: bool
    """Whether this host starts containers only for a service that asks less of it."""


def service_folder() -> Path:
    """A new folder for a service, its name as short as can be: Podman takes 50 bytes for its state's."""
    return Path(tempfile.mkdtemp(prefix="p"))


class PodmanService:
    """One `podman system service` on a temporary socket."""

    def __init__(self, directory: Path, *, images: Path | None = None) -> None:
        """`directory` is one of `service_folder`; it has the images of the storage `images` too."""
        self.directory = directory
        self.socket = directory / "podman.sock"
        self.storage = directory / "root"
        self.modest = False
        self._images = images
        self.process: subprocess.Popen[bytes] | None = None
        self._environment: Mapping[str, str] = os.environ

    def be_modest(self) -> None:
        """From the next start on, ask less of the host."""
        self.modest = True
        configuration = self.directory / "containers.conf"
        configuration.write_text(_MODEST)
        self._environment = {**os.environ, "CONTAINERS_CONF": str(configuration)}

    def start(self) -> None:
        """Returns when the service accepts connections."""
        self.socket.unlink(missing_ok=True)
        command = [*self.command(), "system", "service", "--time=0", f"unix://{self.socket}"]
        with (self.directory / "service.log").open("ab") as log:
            # In its own directory: Podman's monitor notes a lack of memory in a file where it runs.
            self.process = subprocess.Popen(
                command, cwd=self.directory, env=dict(self._environment), stdout=log, stderr=log
            )
        ends = monotonic() + _READY_WITHIN
        while not self.socket.exists():
            if self.process.poll() is not None or monotonic() > ends:
                self.stop()
                raise RuntimeError((self.directory / "service.log").read_text()[-500:])
            sleep(0.02)

    def stop(self) -> None:
        """Ends the service at once; containers live on."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self) -> None:
        """Takes containers and storage away."""
        subprocess.run(
            [*self.command(), "rm", "--all", "--force", "--time=0"], check=False, capture_output=True
        )
        self.stop()
        self._end_monitors()
        if os.getuid() == 0:
            subprocess.run(["umount", self.storage / "overlay"], check=False, capture_output=True)
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            # Rootless storage holds files of other users of our own user namespace.
            subprocess.run(["podman", "unshare", "rm", "-rf", self.directory], check=False)

    def _end_monitors(self) -> None:
        """Each exec's monitor stays for minutes and would then make the storage anew."""
        ours = str(self.directory).encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if b"conmon" in command and ours in command:
                    os.kill(int(entry.name), signal.SIGKILL)

    def containers(self, label: str) -> list[str]:
        """Ids of the containers with a label, running or not."""
        found = subprocess.run(
            [*self.command(), "ps", "--all", "--quiet", "--filter", f"label={label}"],
            check=True,
            capture_output=True,
            text=True,
            env=dict(self._environment),
        )
        return found.stdout.split()

    def variables(self) -> dict[str, str]:
        """What its commands run with."""
        return dict(self._environment)

    def command(self) -> list[str]:
        """How the command line reaches the same storage."""
        place = self.directory
        return [
            *("podman", "--root", str(self.storage), "--runroot", str(place / "run")),
            *("--network-config-dir", str(place / "networks")),
            *(("--storage-opt", f"overlay.imagestore={self._images}") if self._images else ()),
        ]


def image_of(socket: Path, world: Distribution, version: str) -> str:
    """Imports the sample ImageBuilder of a version; the image's reference."""
    reference = f"{SAMPLE_REGISTRY}:{SAMPLE_TARGET.replace('/', '-')}-v{version}"
    import_image(f"unix://{socket}", reference, world.imagebuilder(version, SAMPLE_TARGET))
    return reference


def can_start_containers(socket: Path, reference: str) -> bool:
    """Whether the engine can really run something, which no question answers."""
    from podman import PodmanClient
    from podman.errors import APIError

    with PodmanClient(base_url=f"unix://{socket}", timeout=30) as client:
        container = client.containers.create(reference, command=["sleep", "60"], network_mode="none")
        try:
            container.start()
            container.kill()
        except APIError:
            return False
        finally:
            container.remove(force=True, v=True)
    return True


def start_with_images(service: PodmanService, world: Distribution, *versions: str) -> list[str]:
    """Starts a service as this host allows, with sample ImageBuilders; their references.

    Raises `RuntimeError` where it does not start, or starts no container.
    """
    service.start()
    references = [image_of(service.socket, world, version) for version in versions]
    if not can_start_containers(service.socket, references[0]):
        service.stop()
        service.be_modest()
        service.start()
        if not can_start_containers(service.socket, references[0]):
            raise RuntimeError("Podman cannot start a container on this host.")
    return references


def once_a_run(name: str, make: Callable[[], Made]) -> Made:
    """What `make` returns in the first worker that asks; the others wait for it, and read it from a file."""
    written = Path(tempfile.gettempdir()) / f"{name}.pickle"
    with written.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not written.exists():
            written.write_bytes(pickle.dumps(make()))
    made: Made = pickle.loads(written.read_bytes())
    return made


@pytest.fixture(scope="session")
def sample_world() -> Distribution:
    """The sample distribution, written once a run; its ImageBuilders are to be copied, not used."""
    return once_a_run("world", _write_world)


def _write_world() -> Distribution:
    made = write_distribution(Path(tempfile.gettempdir()) / "world")
    _compile_scripts(made)
    return made


def _compile_scripts(world: Distribution) -> None:
    """Byte code for all copies of the same scripts: thousands of calls of make start a fifth faster."""
    for scripts in world.imagebuilders.glob("*/*/*/scripts/miniature"):
        for source in scripts.glob("*.py"):
            # Not where PYTHONPYCACHEPREFIX says: builds have an environment of their own.
            compiled = scripts / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(str(source), str(compiled), invalidation_mode=mode)


def _import_images(world: Distribution) -> SharedImages:
    """Storage with all images that tests ask for; raises `RuntimeError` as `start_with_images`."""
    service = PodmanService(service_folder())
    try:
        start_with_images(service, world, APK_VERSION, OPKG_VERSION)
        reference = f"{SAMPLE_REGISTRY}:{OTHER_TARGET.replace('/', '-')}-v{APK_VERSION}"
        builder = world.imagebuilder(APK_VERSION, OTHER_TARGET)
        import_image(f"unix://{service.socket}", reference, builder)
    except BaseException:
        service.remove()
        raise
    service.stop()
    return SharedImages(service.storage, service.modest)


@pytest.fixture(scope="session")
def podman_service(sample_world: Distribution) -> Iterator[PodmanService]:
    """A running service that has the sample ImageBuilders, which are imported once a run: both flavours of
    `SAMPLE_TARGET`, and `APK_VERSION` for `OTHER_TARGET`.
    """
    require_tool("podman")
    try:
        shared = once_a_run("images", lambda: _import_images(sample_world))
    except RuntimeError as error:
        tool_missing("podman", str(error))
    service = PodmanService(service_folder(), images=shared.storage)
    try:
        if shared.modest:
            service.be_modest()
        service.start()
        yield service
    finally:
        service.remove()


@pytest.fixture(scope="session")
def podman_socket(podman_service: PodmanService) -> Path:
    """Where the private service listens."""
    return podman_service.socket


@pytest.fixture(scope="session")
def sample_images(podman_socket: Path) -> str:
    """The registry name of its ImageBuilders."""
    return SAMPLE_REGISTRY
