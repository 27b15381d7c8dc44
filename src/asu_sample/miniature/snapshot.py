"""What `setup.sh` does in a container that starts without an ImageBuilder: fetch, verify, unpack.

Inputs come from the environment as in upstream's containers. The signature of sha256sums is usign's, standing
in for GPG; every failure ends with a non-zero status and leaves nothing unpacked.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from . import local_proxies, usign


class SetupFailed(Exception):
    """The ImageBuilder cannot be had; the text says why."""


def _fetch(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(local_proxies()))
    try:
        with opener.open(url, timeout=30) as answer:
            data: bytes = answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise SetupFailed(f"{url}: HTTP {error.code}") from error
    except (OSError, ValueError) as error:
        raise SetupFailed(f"{url}: {error}") from error
    return data


def main() -> None:
    """Fetch into the current directory. Raises SetupFailed."""
    host = os.environ.get("UPSTREAM_URL") or os.environ.get("FILE_HOST") or "https://downloads.openwrt.org"
    if "://" not in host:  # published containers name a bare host, which wget takes for plain HTTP
        host = f"http://{host}"
    version_path = os.environ.get("VERSION_PATH", "snapshots")
    folder = f"{host.rstrip('/')}/{version_path}/targets/{os.environ.get('TARGET', 'x86/64')}"
    directory = Path.cwd()
    keys = directory / "keys"
    sums = _verified_sums(folder, keys)
    pattern = os.environ.get("DOWNLOAD_FILE", "imagebuilder-.*x86_64.tar.[xz|zst]")
    lines = [line for line in sums.splitlines() if re.search(pattern, line)]
    if len(lines) != 1:
        raise SetupFailed(f"{len(lines)} files match {pattern}")
    digest, _, name = lines[0].partition(" *")
    data = _fetch(f"{folder}/{name}")
    if hashlib.sha256(data).hexdigest() != digest:
        raise SetupFailed(f"{name}: checksum mismatch")
    shutil.rmtree(keys)  # one-shot, as upstream's script
    path = directory / Path(name).name
    path.write_bytes(data)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                inner = member.name.partition("/")[2]
                if not inner or ".." in Path(inner).parts or not (member.isreg() or member.isdir()):
                    continue
                member.name = inner
                archive.extract(member, directory)
    finally:
        path.unlink()
    print(f"{name}: OK")


def _verified_sums(folder: str, keys: Path) -> str:
    sums = _fetch(f"{folder}/sha256sums")
    signature = _fetch(f"{folder}/sha256sums.sig").decode(errors="replace")
    for path in sorted(keys.glob("*")):
        try:
            public = usign.parse_public(path.read_text())[1]
        except ValueError:
            continue
        if usign.verify(public, sums, signature):
            return sums.decode()
    raise SetupFailed(f"{folder}/sha256sums: no trusted key made its signature")


if __name__ == "__main__":
    try:
        main()
    except SetupFailed as failure:
        sys.exit(f"sample setup: {failure}")
