"""A real container registry on loopback, and small container images to put there."""

import io
import os
import re
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from ports import free_port

_READY_WITHIN = 60.0
_PROGRAMS = ("sh", "sleep", "env", "cat")
_CONFIGURATION = """
version: 0.1
log: {{accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class Registry:
    """Debian's `docker-registry`, stopped by its pid."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        configuration = self._directory / "config.yml"
        configuration.write_text(_CONFIGURATION.format(root=self._directory / "images", port=self.port))
        with (self._directory / "log").open("ab") as log:
            command = ["docker-registry", "serve", str(configuration)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        ends = monotonic() + _READY_WITHIN
        while monotonic() < ends:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            sleep(0.05)
        self.stop()
        raise RuntimeError((self._directory / "log").read_text()[-500:])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """The registry is down from here on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pulls(self, tag: str) -> int:
        """How often somebody has asked for the manifest of a tag."""
        log = (self._directory / "log").read_text()
        asked = rf"request\.method=GET .*request\.uri=\"?/v2/\S+/manifests/{re.escape(tag)}\"? "
        return sum(1 for line in log.splitlines() if "response completed" in line and re.search(asked, line))

    def digest(self, tag: str) -> str:
        """SHA-256 of the manifest that a tag names, as it lies on the registry's disk."""
        (link,) = (self._directory / "images").rglob(f"_manifests/tags/{tag}/current/link")
        return link.read_text().removeprefix("sha256:")


def push_image(podman_socket: Path, reference: str, *, marker: str) -> str:
    """Makes a small image whose `/builder/marker` says `marker`, pushes and forgets it; its id."""
    from podman import PodmanClient

    repository, _, tag = reference.rpartition(":")
    with PodmanClient(base_url=f"unix://{podman_socket}", timeout=60) as client:
        changes = ["WORKDIR /builder/", "VOLUME /builder", "ENV PATH=/bin", "ENV PROFILE=from-the-image"]
        query = {"reference": reference, "changes": changes}
        answer = client.api.post("/images/import", params=query, data=_root_filesystem(marker))
        answer.raise_for_status()
        identity: str = client.images.get(reference).id
        client.images.push(repository, tag, tlsVerify=False)
        client.images.remove(reference, force=True)
    return identity


def _root_filesystem(marker: str) -> bytes:
    """A tar with a few programs of this host and the libraries they need."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        programs = [found for name in _PROGRAMS if (found := shutil.which(name))]
        for program in programs:
            archive.add(program, f"bin/{Path(program).name}")
        for library in sorted(_libraries(programs)):
            archive.add(library, library.lstrip("/"))
        note = tarfile.TarInfo("builder/marker")
        note.size = len(marker)
        archive.addfile(note, io.BytesIO(marker.encode()))
    return buffer.getvalue()


def _libraries(programs: list[str]) -> set[str]:
    listing = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True)
    return {path for path in re.findall(r"(/\S+) \(0x", listing.stdout) if os.path.isfile(path)}  # noqa: PTH113
