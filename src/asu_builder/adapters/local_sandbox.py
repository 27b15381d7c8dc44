"""How a local command is started: under bubblewrap, or plainly where the operator chose so."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from asu_builder.adapters.limits import Limits

INNER_WORKDIR = "/builder"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Only what tools need to start: the rest of /etc is nobody's business in there.
_SYSTEM_SETTINGS = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd", "group", "localtime"),
    *("resolv.conf", "hosts", "nsswitch.conf", "ssl", "ca-certificates", "pki"),
)
_TRY_SECONDS = 10

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
os.execvpe(sys.argv[2], sys.argv[2:], os.environ)
"""


def limited(arguments: Sequence[str], limits: Limits) -> list[str]:
    """The command that sets what the kernel can limit per process, and then becomes `arguments`.

    Memory and the number of processes are the guard's: the kernel counts those per process and
    per user, neither of which is a build.
    """
    values = {
        "RLIMIT_FSIZE": limits.file_size,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_CORE": 0,
    }
    return [sys.executable, "-I", "-S", "-c", _SET_LIMITS, json.dumps(values), *arguments]


def sandboxed(
    arguments: Sequence[str],
    directory: Path,
    *,
    temporary: Path,
    network: bool,
    environment: Mapping[str, str],
) -> list[str]:
    """The bubblewrap command: nothing of the host but its programs, all of that read-only.

    `/tmp` is a directory of the copy, not memory, so that the disk watch sees what is put there.
    """
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if network:
        command.append("--share-net")
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    for name in _SYSTEM_SETTINGS:
        command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    command += ["--bind", str(temporary), "/tmp", "--bind", str(directory), INNER_WORKDIR]
    command += ["--remount-ro", "/", "--chdir", INNER_WORKDIR, "--clearenv"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    return [*command, "--", *arguments]


def bubblewrap_works() -> bool:
    """Whether bubblewrap is here and allowed to do its work, which only trying tells."""
    if shutil.which("bwrap") is None:
        return False
    with TemporaryDirectory(prefix="asu-try-") as place:
        command = sandboxed(
            ["true"], Path(place), temporary=Path(place), network=False, environment={"PATH": DEFAULT_PATH}
        )
        try:
            trial = subprocess.run(command, capture_output=True, timeout=_TRY_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
    return trial.returncode == 0
