"""Builds behind their proxy: runtimes of both kinds, and ImageBuilders that load packages over HTTPS."""

import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

from asu_builder.core.pipeline import Pipeline
from asu_builder.domain.job import BuildResult, Job, JobState
from asu_builder.domain.make import ContainerSpec
from asu_builder.domain.release import Branches
from asu_builder.domain.request import request_hash
from asu_builder.engines.local.runtime import LocalRuntime
from asu_builder.engines.podman.runtime import PodmanRuntime
from asu_builder.engines.podman.service import PodmanOptions
from asu_builder.package_rules import LocalPackageChanges
from asu_builder.ports import Container, Runtime
from asu_builder.proxy.channels import BuildProxy
from asu_builder.settings import Settings
from asu_builder.store.local import LocalStore
from asu_builder.upstream.server import RepositoryStatus
from asu_sample.distribution import repositories
from asu_sample.releases import RELEASES
from asu_sample.server import DownloadServer
from factories import NOON, a_request, eventually
from podman_service import SAMPLE_REGISTRY


class SecureServer(DownloadServer):
    """A download server that speaks HTTPS only, as `localhost`."""

    def __init__(self, root: Path, certificate: Path, **options: Any) -> None:
        super().__init__(root, **options)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )

    @property
    def url(self) -> str:
        return f"https://localhost:{self._server.server_address[1]}"


def write_certificate(folder: Path) -> Path:
    """One file with a key and a certificate of `localhost`, which is its own authority."""
    path = folder / "localhost.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", path, "-out", f"{path}.crt"],
        check=True,
        capture_output=True,
    )
    with path.open("a") as file:
        file.write(Path(f"{path}.crt").read_text())
    return path


class NetworkedRuntime:
    """A runtime whose ImageBuilders name the repositories of a server in place of their own folders."""

    def __init__(self, runtime: Runtime, server_url: str) -> None:
        self.runtime = runtime
        self._url = server_url

    @contextmanager
    def open(self, spec: ContainerSpec, *, stop: Event) -> Iterator[Container]:
        """As the runtime beneath it."""
        release = next(release for release in RELEASES if release.version == spec.release.version)
        lines = []
        for repository in repositories(release, spec.target):
            place = f"{self._url}/{repository.path}"
            apk = release.package_manager == "apk"
            lines.append(f"{place}/packages.adb" if apk else f"src/gz {repository.name} {place}")
        if not apk:
            lines += ["src imagebuilder file:packages", "option check_signature"]
        with self.runtime.open(spec, stop=stop) as container:
            file = "repositories" if apk else "repositories.conf"
            container.write_files({file: "\n".join(lines) + "\n"})
            yield container


class ProxyBench:
    """Builds with one runtime, whose containers have a proxy or a network."""

    def __init__(
        self, kind: str, root: Path, server_url: str, *, podman_socket: Path, template: str, **changes: str
    ) -> None:
        """`kind` is `podman` or `bubblewrap`; `changes` are settings."""
        self.root = root
        self.settings = Settings(
            container_socket_path=str(podman_socket),
            imagebuilder_registry=SAMPLE_REGISTRY,
            imagebuilder_path=template,
            database_path=root / "asu.db",
            **{"build_network": "proxy", "upstream_url": server_url, **changes},  # type: ignore[arg-type]
        )
        self.proxy = BuildProxy(self.settings) if self.settings.build_network == "proxy" else None
        if kind == "podman":
            options = PodmanOptions(self.settings, installation=root.name, proxy=self.proxy)
            self.runtime: Runtime = PodmanRuntime(options)
        else:
            self.runtime = LocalRuntime(self.settings, root / "builds", proxy=self.proxy)
        self.store = LocalStore(root / "store", installation="test")
        self.output: list[bytes] = []
        self.pipeline = Pipeline(
            NetworkedRuntime(self.runtime, server_url),  # type: ignore[arg-type]
            self.store,
            release=Branches().release,
            package_changes=LocalPackageChanges(),
            baseline=lambda request: None,
            repository_status=RepositoryStatus(server_url).ask,
            upstream_url=server_url,
            job_timeout=timedelta(minutes=5),
        )

    @property
    def sockets_path(self) -> bytes:
        """What the paths of sockets begin with."""
        return str(self.settings.sockets_directory).encode()

    def build(self, version: str, **changes: Any) -> BuildResult:
        """Builds a request; what its commands print is in `output`."""
        request = a_request(version=version, **changes)
        job = Job(1, request_hash(request), request, JobState.BUILDING, NOON)
        result = self.pipeline.build(
            job,
            labels={},
            advance=lambda stage: None,
            stop=Event(),
            on_output=lambda stream, chunk: self.output.append(chunk),
        )
        assert isinstance(result, BuildResult)
        return result

    def files(self, version: str, **changes: Any) -> dict[str, bytes]:
        """Content of all published files of a request, by name."""
        folder = self.root / "store" / request_hash(a_request(version=version, **changes))
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def close(self) -> None:
        """Ends what was started."""
        eventually(self.runtime.close)
        if self.proxy:
            self.proxy.close()
