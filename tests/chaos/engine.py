"""The private Podman service and the processes of its containers, to be killed and frozen by pid."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from asu_builder.engines.podman.client import a_client
from factories import eventually
from podman_service import SAMPLE_TARGET, PodmanService


class Engine(PodmanService):
    """One that trusts a registry's certificate, and may be frozen."""

    def trust(self, certificate: Path) -> None:
        """From the next start on."""
        self._environment = {**self._environment, "SSL_CERT_FILE": str(certificate)}

    def be_modest(self) -> None:
        """See the base; keeps what is trusted."""
        trusted = {name: text for name, text in self._environment.items() if name == "SSL_CERT_FILE"}
        super().be_modest()
        self._environment = {**self._environment, **trusted}

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def builds(self) -> dict[str, int]:
        """Names of running build containers, and the pid of each one's first process; asks no engine."""
        found = {}
        for pid, words in _processes():
            if (
                words[0].endswith("conmon")
                and str(self.directory) in " ".join(words)
                and "--exec-attach" not in words
            ):
                name = words[words.index("-n") + 1] if "-n" in words else ""
                children = _children(pid)
                if name.startswith("asu-") and children:
                    found[name] = children[0]
        return found

    def containers(self, installation: str) -> list[str]:
        """Names of all containers with our label, running or not."""
        with a_client(self.socket, timeout=timedelta(seconds=20)) as client:
            filters = {"label": [f"asu.installation={installation}"]}
            return [found.name for found in client.containers.list(all=True, filters=filters)]

    def remove_container(self, name: str) -> None:
        """`podman rm --force --time 0`, through the socket."""
        with a_client(self.socket, timeout=timedelta(seconds=10)) as client:
            query = {"force": True, "v": True, "timeout": 0}
            client.api.delete(f"/containers/{name}", params=query).raise_for_status()

    def forget_image(self, reference: str) -> bool:
        """Takes an image away, or its name where a container uses it; whether it is absent now."""
        with a_client(self.socket, timeout=timedelta(seconds=10)) as client:
            status = client.api.delete(f"/images/{reference}").status_code
            if status == 409:
                status = client.api.post(f"/images/{reference}/untag").status_code
        return status in (200, 201, 404)


def push_images(engine: Engine, references: list[str], repository: str) -> None:
    """Puts images into a registry without TLS and forgets them here."""
    with a_client(engine.socket, timeout=timedelta(seconds=60)) as client:
        for reference in references:
            tag = reference.rpartition(":")[2]
            image = client.images.get(reference)
            image.tag(repository, tag)
            client.images.push(repository, tag, tlsVerify=False)
            client.images.remove(image.id, force=True)


def reference_of(repository: str, version: str) -> str:
    """The name of a version's image, as the service makes it by its template."""
    return f"{repository}:{SAMPLE_TARGET.replace('/', '-')}-v{version}"


def make_certificate(directory: Path) -> Path:
    """A self-signed certificate of 127.0.0.1 with its key, in one file."""
    both = directory / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "30", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    key, certificate = directory / "key.pem", directory / "only.pem"
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    both.write_text(certificate.read_text() + key.read_text())
    return both


def signal_tree(pid: int, number: int) -> None:
    """Signals a container's first process, its commands, and everything that they have started."""
    namespace = _namespace(pid)
    for other in [pid, *(entry for entry, _ in _processes())]:
        if other == pid or (namespace and _namespace(other) == namespace):
            with suppress(ProcessLookupError):
                os.kill(other, number)


def is_gone(pid: int, *, seconds: float = 5.0) -> bool:
    """Whether a process has ended, within some seconds."""
    return eventually(lambda: not Path(f"/proc/{pid}").exists(), seconds=seconds)


def _namespace(pid: int) -> str:
    try:
        found = os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115 - no path, though it reads like one
    except OSError:
        return ""
    return "" if found == os.readlink("/proc/self/ns/pid") else found  # noqa: PTH115


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if words[0]:
                yield int(entry.name), words


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
