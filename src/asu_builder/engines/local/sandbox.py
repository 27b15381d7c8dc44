"""How a local command is confined: bubblewrap, forbidden system calls, and a probe whether that works."""

import json
import logging
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from asu_builder.engines.guard import Limits
from asu_builder.engines.way_out import INNER_SOCKET

_X86_64, _AARCH64 = 0xC000003E, 0xC00000B7
_MACHINES = {"x86_64": (_X86_64, 0), "aarch64": (_AARCH64, 1)}
"""What the kernel calls them, and their column in the tables of numbers."""
_X32 = 0x40000000
"""Added to the numbers of x86-64's calls with short pointers, which no program uses."""

_NUMBERS: Mapping[str, tuple[int, int]] = {
    # Mounts and namespaces.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    # Other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "move_pages": (279, 239),
    # Parts of the kernel that everybody shares.
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "lookup_dcookie": (212, 18),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "nfsservctl": (180, 42),
    "syslog": (103, 116),
    # The machine.
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "vhangup": (153, 58),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
}
"""On x86-64 and on aarch64."""
_X86_ONLY = {"iopl": 172, "ioperm": 173}
_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)

_NEW_NAMESPACES = 0x7E020000
"""The bits of clone's flags that ask for one."""
_FAMILIES = (1, 2, 10, 16)
"""Unix, IPv4, IPv6 and netlink; others load modules, and one of them leads to a machine's host."""

# What the program is made of: linux/bpf_common.h and linux/seccomp.h.
_LOAD, _EQUALS, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_REFUSE = (_RETURN, 0, 0, _ERRNO | _EPERM)


@cache
def filter_program(machine: str = "") -> bytes:
    """The program for this machine, or for one named as `uname -m` does; nothing where none is known."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        return b""
    architecture, column = _MACHINES[machine]
    refused = [numbers[column] for numbers in _NUMBERS.values()]
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUALS, 1, 0, architecture), _REFUSE, (_LOAD, 0, 0, _NUMBER)]
    if architecture == _X86_64:
        refused = [*_X86_ONLY.values(), *refused]
        steps += [(_AT_LEAST, 0, 1, _X32), _REFUSE]
    for number in refused:
        steps += [(_EQUALS, 0, 1, number), _REFUSE]
    # The flags of clone3 lie in memory, where they cannot be looked at: a C library takes clone then.
    steps += [(_EQUALS, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    steps += [(_EQUALS, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    steps += [(_ANY_BIT, 0, 1, _NEW_NAMESPACES), _REFUSE, (_RETURN, 0, 0, _ALLOW)]
    steps += [(_EQUALS, 0, len(_FAMILIES) + 2, _SOCKET[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    for place, family in enumerate(_FAMILIES):
        steps.append((_EQUALS, len(_FAMILIES) - place, 0, family))
    steps += [(_RETURN, 0, 0, _ERRNO | _EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


INNER_WORKDIR = "/builder"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Only what tools need to start: builds do not see the rest of /etc.
_SYSTEM_SETTINGS = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd", "group", "localtime"),
    *("resolv.conf", "hosts", "nsswitch.conf", "ssl", "ca-certificates", "pki"),
)
_FILTER_DESCRIPTOR = 9
_LIMIT_PROCESSES = 'ulimit -u "$0" 2>/dev/null || ulimit -p "$0" 2>/dev/null; exec "$@"'
_COUNTS_BY_NAMESPACE = (5, 14)
"""The kernel from which on a limit of processes counts those of the sandbox alone."""

# Limits are set between fork and exec by a tiny program: a `preexec_fn` may deadlock in a
# program with threads, and `prlimit` afterwards would come after the first fork. Python ignores
# some signals, which a command would inherit: `yes | head` would print an error, for example.
_SET_LIMITS = """
import json, os, resource, signal, sys
for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
for name, value in json.loads(sys.argv[1]).items():
    limit = getattr(resource, name)
    hard = resource.getrlimit(limit)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))
if sys.argv[2]:
    program = os.memfd_create("filter", 0)
    os.write(program, bytes.fromhex(sys.argv[2]))
    os.lseek(program, 0, os.SEEK_SET)
    os.dup2(program, DESCRIPTOR)
os.execvpe(sys.argv[3], sys.argv[3:], os.environ)
""".replace("DESCRIPTOR", str(_FILTER_DESCRIPTOR))


class Confinement(Struct, frozen=True):
    """How a build's commands are started, and what they may use."""

    sandboxed: bool
    network: bool
    limits: Limits
    filtered: bool
    """Whether some system calls are refused; only in the sandbox."""


def confined(
    arguments: Sequence[str],
    directory: Path,
    confinement: Confinement,
    *,
    temporary: Path,
    environment: Mapping[str, str],
    proxy_socket: Path | None = None,
) -> list[str]:
    """The command that sets what the kernel can limit per process, and then becomes `arguments`, in the
    sandbox if there is one. Only there `environment` is set.

    Memory and the number of processes are the guard's: the kernel counts those per process and
    per user, neither of which is a build.

    In bubblewrap a build has nothing of the host but its programs, all of that read-only.
    `/proc` too: root's writes to `/proc/sys` would reach the whole machine.

    `/tmp` is a directory of the copy, not memory, so that the disk watch sees what is put there. Beside it
    nothing of the host is there but `proxy_socket`, where the build has one.
    """
    limits = confinement.limits
    values = {
        "RLIMIT_FSIZE": limits.file_size,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_CORE": 0,
    }
    program = filter_program().hex() if confinement.filtered else ""
    limited = [sys.executable, "-I", "-S", "-c", _SET_LIMITS, json.dumps(values), program]
    if not confinement.sandboxed:
        return [*limited, *arguments]
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if confinement.network:
        command.append("--share-net")
    # What a build sees of this host.
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    for name in _SYSTEM_SETTINGS:
        command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    command += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--remount-ro", "/proc"]
    command += ["--dev", "/dev", "--remount-ro", "/dev"]
    if confinement.filtered:
        command += ["--seccomp", str(_FILTER_DESCRIPTOR)]
    command += ["--bind", str(temporary), "/tmp", "--bind", str(directory), INNER_WORKDIR]
    if proxy_socket is not None:
        command += ["--ro-bind", str(proxy_socket), INNER_SOCKET]
    command += ["--remount-ro", "/", "--chdir", INNER_WORKDIR, "--clearenv"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    # Not for root, whom the kernel exempts, nor where all processes of our user would count.
    if os.getuid() != 0:
        version = re.match(r"(\d+)\.(\d+)", os.uname().release)
        if version and (int(version[1]), int(version[2])) >= _COUNTS_BY_NAMESPACE:
            arguments = ["sh", "-c", _LIMIT_PROCESSES, str(limits.processes), *arguments]
    return [*limited, *command, "--", *arguments]


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


class SandboxProbe(Struct, frozen=True):
    """What came of it. `fault` is empty for a sandbox that holds."""

    fault: str
    filtered: bool = False
    """Whether system calls can be filtered too."""


def try_sandbox(*, network: bool = False) -> SandboxProbe:
    """Starts a shell in the sandbox that tries what a build must not be able to do."""
    if shutil.which("bwrap") is None:
        return SandboxProbe("bubblewrap is missing")
    filtered = bool(filter_program())
    fault = _try(network=network, filtered=filtered)
    if fault and filtered:
        unfiltered = _try(network=network, filtered=False)
        if not unfiltered:
            _log.warning("bubblewrap cannot filter system calls here (%s); builds run without that.", fault)
            return SandboxProbe("")
    return SandboxProbe(fault, filtered)


def bubblewrap_works() -> bool:
    """Whether builds may run under bubblewrap here."""
    return not try_sandbox().fault


def _try(*, network: bool, filtered: bool) -> str:
    """What got through or did not work; nothing when the sandbox holds."""
    # A build must not reach a server that listens on this host.
    with TemporaryDirectory(prefix="asu-try-") as place, socket.create_server(("127.0.0.1", 0)) as server:
        inside = Path(place, "inside")
        inside.mkdir()
        secret = Path(place, "of-the-host")
        secret.write_text("not for builds\n", encoding="ascii")
        environment = {
            "PATH": DEFAULT_PATH,
            "HOST_FILE": str(secret),
            "FORBIDDEN": " ".join(_FORBIDDEN),
            "NETWORK": "" if network else str(Path("/proc/self/ns/net").readlink()),
            "PROCESSES": str(Path("/proc/self/ns/pid").readlink()),
            "PORT": str(server.getsockname()[1]),
        }
        command = confined(
            ["sh", "-c", _PROBE],
            inside,
            Confinement(sandboxed=True, network=network, limits=Limits(), filtered=filtered),
            temporary=inside,
            environment=environment,
        )
        try:
            ended = subprocess.run(command, capture_output=True, timeout=_TRY_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bubblewrap does not work: {error}"
    *breaches, last = ended.stdout.decode(errors="replace").splitlines() or [""]
    if ended.returncode or last != "done":
        said = ended.stderr.decode(errors="replace").strip()[:300]
        return f"bubblewrap may not create its sandbox here: {said or f'exit {ended.returncode}'}"
    return "the sandbox does not hold: " + ", ".join(breaches) if breaches else ""
