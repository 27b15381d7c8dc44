"""How a local command is started: under bubblewrap, or plainly where the operator chose so."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from asu_builder.adapters.limits import Limits
from asu_builder.adapters.seccomp import filter_program

INNER_WORKDIR = "/builder"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Only what tools need to start: the rest of /etc is nobody's business in there.
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
# some signals, which a command would inherit: `yes | head` would complain, for example.
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


def limited(arguments: Sequence[str], limits: Limits, *, filtered: bool = False) -> list[str]:
    """The command that sets what the kernel can limit per process, and then becomes `arguments`.

    Memory and the number of processes are the guard's: the kernel counts those per process and
    per user, neither of which is a build. `filtered` hands on the filter that `sandboxed` names.
    """
    values = {
        "RLIMIT_FSIZE": limits.file_size,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_CORE": 0,
    }
    program = filter_program().hex() if filtered else ""
    return [sys.executable, "-I", "-S", "-c", _SET_LIMITS, json.dumps(values), program, *arguments]


def sandboxed(
    arguments: Sequence[str],
    directory: Path,
    *,
    temporary: Path,
    network: bool,
    environment: Mapping[str, str],
    filtered: bool = False,
    processes: int = 0,
) -> list[str]:
    """The bubblewrap command: nothing of the host but its programs, all of that read-only.

    `/proc` too: root's writes to `/proc/sys` would reach the whole machine.

    `/tmp` is a directory of the copy, not memory, so that the disk watch sees what is put there.
    """
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if network:
        command.append("--share-net")
    command += _system()
    if filtered:
        command += ["--seccomp", str(_FILTER_DESCRIPTOR)]
    command += ["--bind", str(temporary), "/tmp", "--bind", str(directory), INNER_WORKDIR]
    command += ["--remount-ro", "/", "--chdir", INNER_WORKDIR, "--clearenv"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    if processes and _can_limit_processes():
        arguments = ["sh", "-c", _LIMIT_PROCESSES, str(processes), *arguments]
    return [*command, "--", *arguments]


def _system() -> list[str]:
    """What a build sees of this host."""
    options = []
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    for name in _SYSTEM_SETTINGS:
        options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    options += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--remount-ro", "/proc"]
    return [*options, "--dev", "/dev", "--remount-ro", "/dev"]


def _can_limit_processes() -> bool:
    """Not for root, whom the kernel exempts, nor where all processes of our user would count."""
    if os.getuid() == 0:
        return False
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return version is not None and (int(version[1]), int(version[2])) >= _COUNTS_BY_NAMESPACE
