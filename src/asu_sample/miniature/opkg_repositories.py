"""`repositories.conf`, opkg's signed indexes, and the local index of `packages/`."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from . import archives, usign
from . import packages as index
from .console import err
from .sources import Catalog, Location, Offer, Unreachable


@dataclass(frozen=True)
class Source:
    """A `src` line: name, folder, and whether the index is compressed (`src/gz`)."""

    name: str
    location: Location
    compressed: bool

    @property
    def index_name(self) -> str:
        """`Packages.gz` or `Packages`."""
        return "Packages.gz" if self.compressed else "Packages"


class OpkgRepositories:
    """The repositories of an opkg ImageBuilder directory. `errors` collects what opkg prints at its end."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self.errors: list[str] = []

    def load(self) -> Catalog:
        """Fetch and check all indexes, with opkg's chatter on stderr; bad repositories are dropped, never
        fatal."""
        self._make_local_index()
        sources, check = self._read_configuration()
        (self._tree / "dl").mkdir(exist_ok=True)
        offers: list[Offer] = []
        for source in sources:
            text = self._fetch_index(source, check=check)
            if text is not None:
                offers.extend(Offer(package, source.location) for package in index.parse_paragraphs(text))
        return Catalog(offers)

    def _read_configuration(self) -> tuple[list[Source], bool]:
        sources: dict[str, Source] = {}
        check = False
        for line in (self._tree / "repositories.conf").read_text().splitlines():
            words = line.split()
            if words[:1] == ["option"]:
                check = check or words[1:2] == ["check_signature"]
            elif len(words) == 3 and words[0] in ("src", "src/gz"):
                _, name, url = words
                if name in sources:
                    declared = f"({name} {url}). Skipping."
                    self.errors.append(f"opkg_conf_parse_file: Duplicate src declaration {declared}")
                    continue
                sources[name] = Source(name, Location(url.rstrip("/"), self._tree), words[0] == "src/gz")
        return list(sources.values()), check

    def _fetch_index(self, source: Source, *, check: bool) -> str | None:
        # Local `src` folders are printed as they are written, remote and `src/gz` ones as URLs.
        shown = source.location.url if source.compressed else source.location.text
        url = f"{shown}/{source.index_name}"
        err(f"Downloading {url}")
        try:
            data = source.location.fetch(source.index_name)
            text = gzip.decompress(data) if source.compressed else data
        except (Unreachable, OSError, EOFError) as error:
            err(f"*** Failed to download the package list from {url}\n")
            self.errors.append(f"opkg_download: Failed to download {url}, wget returned {wget_code(error)}.")
            return None
        (self._tree / "dl" / source.name).write_bytes(text)
        err(f"Updated list of available packages in {self._tree / 'dl' / source.name}")
        if check and not self._is_trusted(source, text, shown):
            err("Remove wrong Signature file.")
            return None
        return text.decode()

    def _is_trusted(self, source: Source, text: bytes, shown: str) -> bool:
        err(f"Downloading {shown}/Packages.sig")
        try:
            signature = source.location.fetch("Packages.sig").decode()
            # Only the name counts: opkg looks up keys/<id named in the signature> (its keys are files, not a
            # set).
            key = (self._tree / "keys" / usign.signer(signature)).read_text()
            good = usign.verify(usign.parse_public(key)[1], text, signature)
        except Unreachable as error:
            err("Signature file download failed.")
            failed = f"Failed to download {shown}/Packages.sig, wget returned {wget_code(error)}."
            self.errors.append(f"opkg_download: {failed}")
            return False
        except (OSError, ValueError):
            good = False
        err("Signature check passed." if good else "Signature check failed.")
        return good

    def _make_local_index(self) -> None:
        key = self.local_key()
        folder = self._tree / "packages"
        err("Package list missing or not up-to-date, generating it.\n")
        err("Building package index...")
        packages = []
        for path in sorted(folder.glob("*.ipk")):
            data = path.read_bytes()
            content = archives.read(data, suffix=".ipk")
            packages.append(archives.described(content, path.name, data, hashlib.sha256(data).hexdigest()))
        text = index.render_paragraphs(packages).encode()
        (folder / "Packages").write_bytes(text)
        (folder / "Packages.gz").write_bytes(gzip.compress(text, mtime=0))
        (folder / "Packages.sig").write_text(key.sign(text))

    def local_key(self) -> usign.SigningKey:
        """The throw-away key of this directory; made at first use, with its certificate, its public half
        trusted."""
        path = self._tree / "key-build"
        if path.exists():
            return usign.parse_secret(path.read_text())
        err("Generate local signing keys...")
        key = usign.SigningKey(seed=os.urandom(32), key_id=os.urandom(8))
        path.write_text(key.secret_text())
        path.chmod(0o600)
        (self._tree / "key-build.pub").write_text(key.public_text())
        err("Generate local certificate...")
        certificate = usign.certificate(key, key, issued_at=int(time.time()))
        (self._tree / "key-build.ucert").write_bytes(certificate)
        (self._tree / "key-build.ucert.revoke").write_bytes(b"")
        (self._tree / "keys" / key.fingerprint).write_text(key.public_text())
        return key


def wget_code(error: Exception) -> int:
    """With which number wget ends: 8 where a server answered with an error, 4 where none answered."""
    return 8 if getattr(error, "answered", False) else 4


def is_fingerprint(name: str) -> bool:
    """Whether a file name in `keys/` is one opkg would look up."""
    return re.fullmatch(r"[0-9a-f]{16}", name) is not None
