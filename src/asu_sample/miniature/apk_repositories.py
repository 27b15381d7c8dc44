"""`repositories` and the indexes of the apk flavour.

The texts and rules are apk's: one index URL per line, keys tried by content, untrusted or unreachable
repositories ignored with a warning. The inner format of our `packages.adb` is made up: one marker line, a
two-line usign signature, then JSON. Real ones are ADB files signed with ECDSA P-256.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from . import archives, configuration, usign
from . import packages as index
from .console import err
from .sources import Catalog, Location, Offer, Unreachable

_MARKER = "asu-builder sample index, not an ADB file"
INDEX = "packages.adb"


def render_index(text: str, key: usign.SigningKey) -> bytes:
    """A `packages.adb` of ours: `text` from `packages.render_json`, signed."""
    return f"{_MARKER}\n{key.sign(text.encode())}{text}".encode()


def parse_index(data: bytes, trusted: list[bytes]) -> str | None:
    """The JSON of a `packages.adb`, or None when it is broken or no trusted raw key signed it."""
    lines = data.decode(errors="replace").split("\n", 3)
    if len(lines) != 4 or lines[0] != _MARKER:
        return None
    signature = f"{lines[1]}\n{lines[2]}\n"
    text = lines[3]
    return text if any(usign.verify(key, text.encode(), signature) for key in trusted) else None


class ApkRepositories:
    """The repositories of an apk ImageBuilder directory; `unreachable` are those that warn again at every
    lookup."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self.unreachable: list[str] = []

    def load(self) -> Catalog:
        """Fetch and check all indexes; the local one comes first, added by the Makefile and not by the
        file."""
        self._make_local_index()
        trusted = self._trusted_keys()
        offers: list[Offer] = []
        for line in ("packages/" + INDEX, *self._lines()):
            if not line.endswith(".adb"):
                # A directory, in which apk looks for an index of the second format.
                index_v2 = f"{line.rstrip('/')}/{self._architecture()}/APKINDEX.tar.gz"
                warning = f"WARNING: updating and opening {index_v2}: unexpected end of file"
                err(warning)
                self.unreachable.append(warning)
                continue
            folder, _, name = line.rpartition("/")
            location = Location(folder, self._tree)
            try:
                text = parse_index(location.fetch(name), trusted)
            except Unreachable as error:
                warning = f"{location.url}/{name}: {error}"
                err(f"WARNING: updating and opening {warning}")
                self.unreachable.append(f"WARNING: opening {warning}")
                continue
            if text is None:
                err(f"WARNING: opening {location.url}/{name}: UNTRUSTED signature")
                continue
            offers.extend(Offer(package, location) for package in index.parse_json(text))
        return Catalog(offers)

    def _lines(self) -> list[str]:
        path = self._tree / "repositories"
        if not path.exists():  # a standalone ImageBuilder of the apk flavour has none
            return []
        lines = (line.strip() for line in path.read_text().splitlines())
        words = (line.split() for line in lines if line and not line.startswith("#"))
        # `@tag url` names a pinned repository, `set` and `v3` lines are apk's own business: only the URL
        # matters here.
        return [parts[-1] for parts in words if "/" in parts[-1]]

    def _architecture(self) -> str:
        return configuration.load(self._tree).architecture

    def _trusted_keys(self) -> list[bytes]:
        keys = []
        for path in sorted((self._tree / "keys").iterdir()):
            try:
                keys.append(usign.parse_pem(path.read_text()))
            except (ValueError, OSError):
                continue
        return keys

    def local_key(self) -> usign.SigningKey:
        """The key that signs the local index, made at first use; it lies in `keys/`, as in the real tree."""
        private = self._tree / "keys" / "local-private-key.pem"
        if private.exists():
            return usign.parse_secret(private.read_text())
        err("Generate local signing keys...")
        err("read EC key")
        err("writing EC key")
        key = usign.SigningKey(seed=os.urandom(32), key_id=os.urandom(8))
        private.write_text(key.secret_text())
        private.chmod(0o600)
        (self._tree / "keys" / "local-public-key.pem").write_text(key.public_pem())
        return key

    def _make_local_index(self) -> None:
        key = self.local_key()
        folder = self._tree / "packages"
        if (folder / INDEX).exists():
            return
        err(f"WARNING: opening {folder / INDEX}: No such file or directory")
        err("Package list missing or not up-to-date, generating it.\n")
        err("Building package index...")
        packages = []
        for path in sorted(folder.glob("*.apk")):
            data = path.read_bytes()
            content = archives.read(data, suffix=".apk")
            packages.append(archives.described(content, path.name, data, hashlib.sha256(data).hexdigest()))
        (folder / INDEX).write_bytes(render_index(index.render_json(packages), key))
