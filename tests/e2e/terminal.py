"""The command line as people run it: processes of their own, with a service's settings or against it."""

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from e2e.forked import Forked
from e2e.service import PATIENCE, Service, inherited
from fake_builds import a_body as a_plain_body

PLACE = ("--version", "25.12.0", "--target", "pico/nine", "--profile", "acme_widget-5")
WHERE = ("here", "server")


def environment_of(service: Service) -> Mapping[str, str]:
    """What makes a command work on this service's installation."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("ASU_")}
    outer.pop("CONTAINER_HOST", None)
    settings = {f"ASU_{name.upper()}": str(value) for name, value in service.settings().items()}
    home = str(service.directory)
    return {**outer, **settings, "HOME": home, "XDG_RUNTIME_DIR": home, "COLUMNS": "100"}


def start(service: Service, *arguments: str) -> Forked:
    """A running command; its directory is that of the service."""
    service.directory.mkdir(parents=True, exist_ok=True)
    # Whoever starts the tests in the background lets them ignore Ctrl-C.
    with inherited(signal.SIGINT, signal.SIG_DFL):
        return Forked(
            "asu_builder", *arguments, environment=environment_of(service), directory=service.directory
        )


class Ended:
    """A command that has ended."""

    def __init__(self, process: Forked, *, seconds: float = PATIENCE) -> None:
        try:
            self.out, self.err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        self.code = process.returncode
        assert "Traceback" not in self.err, self.err


def run(service: Service, *arguments: str, seconds: float = PATIENCE) -> Ended:
    """A command, run to its end."""
    return Ended(start(service, *arguments), seconds=seconds)


def wait_for(process: Forked, words: str) -> None:
    """Reads standard error up to a line with these words; fails at its end."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return
    raise AssertionError("".join(seen))


def interrupt(process: Forked) -> None:
    """Ctrl-C."""
    process.send_signal(signal.SIGINT)


def images_in(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def a_body(**changes: object) -> dict[str, object]:
    """A request for what `PLACE` names."""
    return a_plain_body(version="25.12.0", **changes)


def place(service: Service, where: str) -> tuple[str, ...]:
    """Options by which a command works on the installation or on the running service."""
    return ("--server", f"http://127.0.0.1:{service.port}") if where == "server" else ()
