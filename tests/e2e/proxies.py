"""The proxies that the documentation offers, with their very files: only addresses and paths are put in."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from factories import eventually
from ports import free_port
from tools import tool_missing

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROXIES = ("nginx", "caddy")

_NGINX = """
daemon off;
{user}
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log;
worker_processes 2;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {directory}/spool/body;
    proxy_temp_path {directory}/spool/proxy 1 2;
    fastcgi_temp_path {directory}/spool/fastcgi;
    uwsgi_temp_path {directory}/spool/uwsgi;
    scgi_temp_path {directory}/spool/scgi;
    # As Debian has it.
    gzip on;
    include {directory}/asu-builder.conf;
}}
"""
"""What Debian's /etc/nginx/nginx.conf does, in a directory of the test's own."""

_CADDY = """
{{
    admin off
    storage file_system {directory}/caddy
}}
import {directory}/site
"""


def changed(text: str, changes: Sequence[tuple[str, str]]) -> str:
    """A file with some of its words changed; each of them must be there."""
    for old, new in changes:
        assert old in text, f"the file no longer says {old!r}"
        text = text.replace(old, new)
    return text


class Proxy:
    """nginx or Caddy in front of a service, on a port of its own."""

    def __init__(self, kind: str, directory: Path, service_port: int, store: Path) -> None:
        """`store` is where the proxy finds the images that the service has it send."""
        self.directory = directory
        self.port = free_port()
        self.log = directory / "asu-builder.log"
        self.spool = directory / "spool"
        self._service_port = service_port
        self._store = store
        self._process: subprocess.Popen[bytes] | None = None
        self.spool.mkdir(parents=True)
        self._command = self._nginx() if kind == "nginx" else self._caddy()

    def start(self) -> "Proxy":
        """Returns when the port answers."""
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=output,
                env={**os.environ, "HOME": str(self.directory), "XDG_CONFIG_HOME": str(self.directory)},
            )
        assert eventually(self._listens), (self.directory / "output").read_text()
        return self

    def end(self) -> None:
        """Stops it and waits until it has ended."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    def spooled(self) -> list[Path]:
        """What the proxy has put into files on its way, or where it once did."""
        return list(self.spool.glob("*/*"))

    def _listens(self) -> bool:
        assert self._process is not None and self._process.poll() is None, (
            self.directory / "output"
        ).read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=60):
            return True
        return False

    def _nginx(self) -> list[str]:
        site = changed(
            (DEPLOY / "nginx.conf").read_text(),
            [
                ("server 127.0.0.1:8080;", f"server 127.0.0.1:{self._service_port};"),
                ("listen 80;", f"listen 127.0.0.1:{self.port};"),
                ("/var/log/nginx/", f"{self.directory}/"),
                ("/var/lib/asu-builder/public/store", str(self._store)),
            ],
        )
        (self.directory / "asu-builder.conf").write_text(site)
        user = f"user {pwd.getpwuid(0).pw_name};" if os.getuid() == 0 else ""
        main = self.directory / "nginx.conf"
        main.write_text(_NGINX.format(directory=self.directory, user=user))
        return [_program("nginx"), "-e", str(self.directory / "nginx-error.log"), "-c", str(main)]

    def _caddy(self) -> list[str]:
        site = changed(
            (DEPLOY / "Caddyfile").read_text(),
            [
                ("http://asu.example.org, https://asu.example.org", f"http://127.0.0.1:{self.port}"),
                ("localhost:8080", f"127.0.0.1:{self._service_port}"),
                ("/var/log/caddy/", f"{self.directory}/"),
                ("/var/lib/asu-builder/public/store", str(self._store)),
            ],
        )
        (self.directory / "site").write_text(site)
        main = self.directory / "Caddyfile"
        main.write_text(_CADDY.format(directory=self.directory))
        return [_program("caddy"), "run", "--config", str(main), "--adapter", "caddyfile"]


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    return found or tool_missing(name, f"{name} is not installed")
