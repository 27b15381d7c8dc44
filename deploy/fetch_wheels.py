"""Fetches every locked wheel for several versions of CPython: fetch_wheels.py LOCK DIRECTORY 3.11 3.12 …

pip evaluates the markers of a lock file for the Python that runs it, so each version gets a file of its
own. Ends with an error where a wheel is missing or is not the locked one.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

PLATFORM = "manylinux_2_28_x86_64"
_OLDER = ("manylinux_2_27_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux1_x86_64")
_ENTRY = re.compile(r"\n(?=\S)")


def locked_for(lock: str, version: str) -> Iterator[str]:
    """The entries of a lock file that hold for this version, with their hashes and without markers."""
    for entry in _ENTRY.split(lock):
        pinned, slash, rest = entry.partition("\\")
        if not slash or pinned.startswith("#"):
            continue
        requirement = Requirement(pinned.strip())
        environment = {"python_version": version, "python_full_version": f"{version}.0"}
        if requirement.marker is None or requirement.marker.evaluate(environment):
            requirement.marker = None
            yield f"{requirement} \\{rest.rstrip()}\n"


def fetch(lock: str, directory: Path, version: str) -> None:
    """Raises `CalledProcessError` where pip does not find a locked wheel."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(locked_for(lock, version))
        file.flush()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--implementation", "cp"]
        command += ["--python-version", version]
        for platform in (PLATFORM, *_OLDER):
            command += ["--platform", platform]
        subprocess.run([*command, "--dest", str(directory), "--requirement", file.name], check=True)


def name_newer(directory: Path) -> None:
    """Lets the names of wheels for an older glibc say that they fit ours, too: pex looks for no other."""
    for wheel in directory.glob("*_x86_64.whl"):
        if PLATFORM not in wheel.name and any(older in wheel.name for older in _OLDER):
            wheel.rename(wheel.with_name(f"{wheel.stem}.{PLATFORM}.whl"))


def main() -> None:
    """See the module."""
    lock, directory, *versions = sys.argv[1:]
    for version in versions:
        fetch(Path(lock).read_text(), Path(directory), version)
    name_newer(Path(directory))


if __name__ == "__main__":
    main()
