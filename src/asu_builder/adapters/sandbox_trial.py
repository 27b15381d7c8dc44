"""Whether the sandbox of local builds keeps its promises here, which only trying tells."""

import contextlib
import logging
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from asu_builder.adapters.limits import Limits
from asu_builder.adapters.local_sandbox import DEFAULT_PATH, limited, sandboxed
from asu_builder.adapters.seccomp import filter_program

_TRY_SECONDS = 20
_FORBIDDEN = (
    *("/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness", "/proc/sysrq-trigger"),
    *("/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/sys/power/state"),
    *("/etc/passwd", "/usr/bin/env"),
)
"""Each is opened for writing, and nothing is written: an open that succeeds is enough to know."""

# What it prints before its last line got through. A shell is all that every ImageBuilder needs anyway.
_PROBE = """
for file in "$HOST_FILE" $FORBIDDEN; do
    if ( : >> "$file" ) 2>/dev/null; then echo "it can write to $file"; fi
done
if [ -e "$HOST_FILE" ]; then echo "it sees files of the host"; fi
if [ -e /etc/shadow ] || [ -e /root/.ssh ] || [ -e /proc/1/root/etc/shadow ]; then
    echo "it sees what only root should"
fi
if [ -n "$NETWORK" ]; then
    if [ "$(readlink /proc/self/ns/net)" = "$NETWORK" ]; then echo "it shares the host's network"; fi
    if bash -c ": </dev/tcp/127.0.0.1/$PORT" 2>/dev/null; then echo "it can connect to the host"; fi
fi
if [ "$(readlink /proc/self/ns/pid)" = "$PROCESSES" ]; then echo "it sees the host's processes"; fi
echo done
"""

_log = logging.getLogger(__name__)


class Trial(Struct, frozen=True):
    """What came of it. `fault` is empty for a sandbox that holds."""

    fault: str
    filtered: bool = False
    """Whether system calls can be filtered too."""


def try_sandbox(*, network: bool = False) -> Trial:
    """Starts a shell in the sandbox that tries what a build must not be able to do."""
    if shutil.which("bwrap") is None:
        return Trial("bubblewrap is missing")
    filtered = bool(filter_program())
    fault = _try(network=network, filtered=filtered)
    if fault and filtered:
        unfiltered = _try(network=network, filtered=False)
        if not unfiltered:
            _log.warning("bubblewrap cannot filter system calls here (%s); builds run without that.", fault)
            return Trial("")
    return Trial(fault, filtered)


def bubblewrap_works() -> bool:
    """Whether builds may run under bubblewrap here."""
    return not try_sandbox().fault


def _try(*, network: bool, filtered: bool) -> str:
    """What got through or did not work; nothing when the sandbox holds."""
    with TemporaryDirectory(prefix="asu-try-") as place, _listener() as port:
        inside = Path(place, "inside")
        inside.mkdir()
        secret = Path(place, "of-the-host")
        secret.write_text("not for builds\n", encoding="ascii")
        environment = {
            "PATH": DEFAULT_PATH,
            "HOST_FILE": str(secret),
            "FORBIDDEN": " ".join(_FORBIDDEN),
            "NETWORK": "" if network else _namespace("net"),
            "PROCESSES": _namespace("pid"),
            "PORT": str(port),
        }
        limits = Limits()
        command = sandboxed(
            ["sh", "-c", _PROBE],
            inside,
            temporary=inside,
            network=network,
            environment=environment,
            filtered=filtered,
            processes=limits.processes,
        )
        try:
            ended = subprocess.run(
                limited(command, limits, filtered=filtered),
                capture_output=True,
                timeout=_TRY_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bubblewrap does not work: {error}"
    *breaches, last = ended.stdout.decode(errors="replace").splitlines() or [""]
    if ended.returncode or last != "done":
        said = ended.stderr.decode(errors="replace").strip()[:300]
        return f"bubblewrap may not create its sandbox here: {said or f'exit {ended.returncode}'}"
    return "the sandbox does not hold: " + ", ".join(breaches) if breaches else ""


def _namespace(kind: str) -> str:
    return str(Path(f"/proc/self/ns/{kind}").readlink())


@contextlib.contextmanager
def _listener() -> Iterator[int]:
    """A port of this host that a build must not reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])
