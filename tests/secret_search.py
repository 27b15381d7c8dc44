"""Looks for a signing key where none of it may be: in memory, files and answers, byte by byte."""

import base64
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_PIECE = 1 << 24
_OVERLAP = 256


def secret_forms(key_file: bytes) -> Mapping[str, bytes]:
    """How the secret half in a key's file may lie somewhere; halves of the seed too, for what is cut.

    Of a key in PEM these cover its line, its DER and the seed alone: each holds the seed at some place.
    """
    held = base64.b64decode(key_file.splitlines()[1])
    seed = held[-32:] if key_file.startswith(b"-----BEGIN PRIVATE KEY") else held[40:72]
    assert len(seed) == 32, "what is searched for is the whole seed"
    expanded = hashlib.sha512(seed).digest()
    forms = {
        "seed, first half": seed[:16],
        "seed, second half": seed[16:],
        "scalar": expanded[1:31],  # what is clamped lies at its ends
        "prefix": expanded[32:],
        "hex": seed[:16].hex().encode(),
        "HEX": seed[:16].hex().upper().encode(),
        "hex, second half": seed[16:].hex().encode(),
        "HEX, second half": seed[16:].hex().upper().encode(),
    }
    for before in range(3):
        # Only the letters that nothing but the seed decides.
        text = base64.b64encode(bytes(before) + seed)[-(-before * 8 // 6) : (before + 32) * 8 // 6]
        forms[f"Base64 after {before}"] = text
        forms[f"URL's Base64 after {before}"] = text.translate(bytes.maketrans(b"+/", b"-_"))
    return forms


def found_in(parts: Iterable[bytes], forms: Mapping[str, bytes]) -> set[str]:
    """Which forms are in there; parts that follow each other may share one."""
    found = set()
    before = b""
    for part in parts:
        whole = before + part
        found |= {name for name, form in forms.items() if form in whole}
        before = whole[-_OVERLAP:]
    return found


def found_in_files(folder: Path, forms: Mapping[str, bytes]) -> dict[Path, set[str]]:
    """The plain files below that hold some, with which; what is gone meanwhile holds none."""
    found = {}
    # Unlike a glob it passes over a folder that is gone.
    for path in (Path(below, name) for below, _, names in os.walk(folder) for name in names):
        try:
            if path.is_file() and not path.is_symlink() and (held := found_in(_pieces(path), forms)):
                found[path] = held
        except FileNotFoundError:
            continue
    return found


def memory_of(pid: int) -> Iterator[bytes]:
    """All that a process has written to, as a core dump of it would have it: what no file backs, and more."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            place, permissions, *_ = line.split()
            start, end = (int(part, 16) for part in place.split("-"))
            if "r" not in permissions or "[v" in line:
                continue
            yield bytes(_OVERLAP)  # what does not follow each other shares nothing
            for at in range(start, end, _PIECE):
                memory.seek(at)
                try:
                    yield memory.read(min(_PIECE, end - at))
                except OSError:
                    break  # behind the end of a file


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
