"""What it costs to sign an image: the service and the process that holds the key, beside the bare library."""

import hashlib
import os
import random
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from asu_builder.domain.job import Image
from asu_builder.signing import usign
from asu_builder.signing.holders import FileKey
from asu_builder.signing.signer import Signing
from bench.figures import Figure, Yardstick, alternate

_MEGABYTES = 32
_SMALL = b"one file, so that a process is started"
_BUDGET, _BARE_BUDGET, _START_BUDGET = 1.2, 1.3, 150.0


def signing(*, rounds: int) -> Iterator[Figure]:
    """Signs what the library signs, verifies and digests alone, in turn; then starts what signs."""
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name:
        folder = Path(name)
        key = usign.make_key()
        (folder / "key").write_text(key.text())
        (folder / "key").chmod(0o600)
        image, small = folder / "image.bin", folder / "small.bin"
        image.write_bytes(random.Random(1).randbytes(_MEGABYTES << 20))
        small.write_bytes(_SMALL)
        holder = FileKey(folder / "key", idle_seconds=60)
        signs = Signing(holder, certificate=None, offered=folder)
        signs.sign_file(small)
        content = image.read_bytes()
        values = alternate(
            rounds,
            {
                "ours": partial(_ours, signs, holder, image),
                "bare": partial(_bare, key, content),
                "digest": partial(_digest, content),
            },
        )
        per_megabyte = {kind: [value / _MEGABYTES for value in found] for kind, found in values.items()}
        bare = per_megabyte["bare"]
        with_digest = [one + other for one, other in zip(bare, per_megabyte["digest"], strict=True)]
        yield Figure(
            "an image signed and verified, CPU per MB",
            "ms",
            per_megabyte["ours"],
            _BUDGET,
            Yardstick("library with SHA-256", with_digest),
        )
        yield Figure(
            "the same beside signing and verifying alone",
            "ms",
            per_megabyte["ours"],
            _BARE_BUDGET,
            Yardstick("library", bare),
        )
        starts = [_start(folder / "key", small) for _ in range(rounds)]
        yield Figure("the process that signs, once for a build, CPU", "ms", starts, _START_BUDGET)


def _ours(signs: Signing, holder: FileKey, image: Path) -> float:
    """CPU of both processes in milliseconds."""
    told = Image(image.name, "combined", "", "", image.stat().st_size)
    before = _cpu(holder)
    signs.sign_image(told, image)
    return _cpu(holder) - before


def _cpu(holder: FileKey) -> float:
    nanoseconds = Path(f"/proc/{holder.pid()}/schedstat").read_text().split()[0]
    return int(nanoseconds) / 1e6 + time.process_time() * 1e3


def _bare(key: usign.SecretKey, content: bytes) -> float:
    before = time.process_time()
    usign.is_signed(content, key.sign(content), key.public)
    return (time.process_time() - before) * 1e3


def _digest(content: bytes) -> float:
    before = time.process_time()
    hashlib.sha256(content)
    return (time.process_time() - before) * 1e3


def _start(key: Path, small: Path) -> float:
    """CPU of a process from its start to its end, with one small signature."""
    before = os.times()
    holder = FileKey(key, idle_seconds=0)
    holder.sign(small)
    while holder.pid() is not None:
        time.sleep(0.01)
    after = os.times()
    return (after.children_user + after.children_system - before.children_user - before.children_system) * 1e3
