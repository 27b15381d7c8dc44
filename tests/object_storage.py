"""A real S3 server, SeaweedFS from its wheel: one for the whole run, started by the first that needs it."""

import fcntl
import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from factories import eventually
from ports import free_port
from tools import require_tool

BUCKET = "tests"
_KEY, _SECRET = "key-of-tests", "secret-of-tests"
_LIMITED = "limited-key"
_STARTED: "list[subprocess.Popen[bytes]]" = []
"""By this process, and shared; they end with the run."""
_PORTS = ("master", "volume", "filer", "s3")


class S3(NamedTuple):
    """Where it listens, and what it lets in."""

    port: int

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def options(self, **changes: str) -> Mapping[str, str]:
        """The setting `store_options` for a key that may do everything."""
        return {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": _KEY,
            "secret_access_key": _SECRET,
            **changes,
        }

    def place(self, name: str) -> str:
        """The address of an empty place in the bucket that all tests share; no two have the same name."""
        return f"s3://{BUCKET}/{name}"

    def make_bucket(self) -> None:
        """Makes the bucket."""
        import obstore
        from obstore.store import S3Store

        store = S3Store(BUCKET, client_options={"allow_http": True}, **self.options())  # type: ignore[arg-type]
        # Here writing makes a bucket, which stays when the object goes.
        obstore.put(store, "first", b"")
        obstore.delete(store, "first")


def s3_server() -> S3:
    """The server of this run. It ends with the run: its folder names it."""
    require_tool("s3", str(Path(sys.executable).with_name("weed")))
    folder = Path(tempfile.gettempdir()) / "s3"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = folder / "port"
        if not known.exists():
            process, port = _start(folder)
            _STARTED.append(process)
            known.write_text(str(port))
        return S3(int(known.read_text()))


@contextmanager
def start_s3(folder: Path) -> Iterator[S3]:
    """A server of its own, with its files in this folder, until the block ends."""
    require_tool("s3", str(Path(sys.executable).with_name("weed")))
    folder.mkdir(exist_ok=True)
    process, port = _start(folder)
    try:
        yield S3(port)
    finally:
        process.kill()
        process.wait()


def _start(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    ports = {name: (free_port(), free_port()) for name in _PORTS}
    credentials = [{"accessKey": _KEY, "secretKey": _SECRET}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = {
        "identities": [
            {"name": "tests", "credentials": credentials, "actions": actions},
            {
                "name": "limited",
                "credentials": [{"accessKey": _LIMITED, "secretKey": _SECRET}],
                "actions": ["Read:other", "List:other"],
            },
        ]
    }
    config = folder / "s3.json"
    config.write_text(json.dumps(identities))
    command = [str(Path(sys.executable).with_name("weed")), "server", "-filer", "-s3", f"-dir={folder}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}"]
    command += ["-volume.max=50", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    for name, (port, grpc) in ports.items():
        command += [f"-{name}.port={port}", f"-{name}.port.grpc={grpc}"]
    for name in ("filer", "s3"):
        command.append(f"-{name}.localSocket={folder / name}.sock")
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(os.environ)
        )
    port = ports["s3"][0]

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-4000:]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status in (200, 403)
        except OSError:
            return False
        finally:
            connection.close()

    assert eventually(answers), (folder / "log").read_text()[-4000:]
    S3(port).make_bucket()
    return process, port
