"""auc: the C client of 21.02 to 23.05. Facts on clients, §2.5, §2.6, §3.2–§3.4 and §4."""

import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

from e2e.clients.crash import ClientCrash, ClientError, is_a
from e2e.clients.device import Device
from e2e.clients.sockets import Reply
from e2e.clients.uclient import Uclient

_BAD_MESSAGE = "Bad message (74)"
_URL_BYTES = 256
_NAMED_BY_GENERIC = ("x86/64", "x86/generic")
_KINDS = ("sysupgrade", "combined", "combined-efi", "sdcard")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that auc could go to."""

    version: str
    path: str
    version_number: str
    version_code: str
    branch: Any


@dataclass
class Auc:
    """One run of `auc -y`. Fields of another type than it expects are skipped as if they were absent."""

    server: str
    device: Device
    interval: float = 1.0
    displayed: list[str] = field(default_factory=list)
    profiles_asked: int = 0

    def __post_init__(self) -> None:
        self._http = Uclient("auc (0.3.2)", follows_redirects=True, timeout=15.0)

    def upgrade(self, version: str) -> bytes:
        """From the branches to the verified image."""
        candidates = {candidate.version: candidate for candidate in self.candidates()}
        if version not in candidates:
            raise ClientError("No data available")
        return self.download(self.build(candidates[version], self.packages(candidates[version])))

    def candidates(self) -> list[Candidate]:
        """Each version of each usable branch that has the device's profile: one request for each."""
        branches = self._get("/json/v1/branches.json")
        if is_a(branches, dict):
            branches = list(branches.values())
        found = []
        for branch in branches:
            if not _is_usable(branch) or self.device.target not in branch["targets"]:
                continue
            for version in branch["versions"]:
                path = branch["path"].replace("{version}", version)
                candidate = self._candidate(branch, version, path)
                if candidate:
                    found.append(candidate)
        return found

    def packages(self, candidate: Candidate) -> dict[str, str]:
        """Installed packages, changed where branches say so, with their new versions."""
        architecture = candidate.branch["targets"][self.device.target]
        own = self._get(f"/json/v1/{candidate.path}/targets/{self.device.target}/index.json")
        if _text(own, "architecture") != architecture or not is_a(own.get("packages"), dict):
            raise ClientError(_BAD_MESSAGE)
        flat = self._get(f"/json/v1/{candidate.path}/packages/{architecture}-index.json")
        known = {**flat, **own["packages"]}
        wanted = self._changed(candidate.branch["package_changes"])
        missing = [name for name in wanted if name not in known and name not in ("kernel", "libc", "libgcc")]
        if missing:
            raise ClientError(f"package {missing[0]} not found")
        return {name: known[name] for name in wanted if name in known}

    def build(self, candidate: Candidate, packages: dict[str, str]) -> Any:
        """POST until there is a hash, then GET; the finished document."""
        reply = self._ask("POST", "/api/v1/build", self.body(candidate, packages))
        while reply.status in (201, 202):
            document = _object(reply)
            # Only the texts queued and started in status would mean "go on"; a number is not looked at.
            if _text(document, "status") in ("queued", "started"):
                raise ClientCrash("status is text and never becomes 200: it asks for ever")
            request_hash = _text(document, "request_hash")
            if request_hash is None:
                raise ClientCrash("no request_hash: it POSTs without a pause")
            position = document.get("queue_position")
            self._show(f"{position} ahead" if is_a(position, int) else ".")
            time.sleep(self.interval)
            reply = self._ask("GET", f"/api/v1/build/{request_hash}")
        return self._finished(reply)

    def body(self, candidate: Candidate, packages: dict[str, str]) -> bytes:
        """What it posts."""
        return json.dumps(
            {
                "version": candidate.version_number,
                "version_code": candidate.version_code,
                "target": self.device.target,
                "profile": self._board(),
                "packages_versions": packages,
                "diff_packages": True,
                "filesystem": self.device.rootfs_type,
            }
        ).encode()

    def download(self, build: Any) -> bytes:
        """The best image for the device, with its length and digest compared."""
        image = self._image(build)
        directory, name = _text(build, "bin_dir"), _text(image, "name")
        reply = self._ask("GET", f"/store/{directory}/{name}")
        if self._http.location.rpartition("/")[2] != name or reply.status != 200:
            raise ClientError("image download failed", reply.status)
        if reply.header("content-length") != str(len(reply.body)):
            raise ClientError("image download failed", reply.status)
        if hashlib.sha256(reply.body).hexdigest() != (_text(image, "sha256") or "")[:64]:
            raise ClientError("sha256sum mismatch")
        return reply.body

    def _candidate(self, branch: Any, version: str, path: str) -> Candidate | None:
        self.profiles_asked += 1
        described = self._get(f"/json/v1/{path}/targets/{self.device.target}/{self._board()}.json")
        holds = (
            is_a(described.get("metadata_version"), int)
            and described["metadata_version"] == 1
            and _text(described, "arch_packages") == branch["targets"][self.device.target]
            and is_a(described.get("images"), list)
            and _text(described, "target") == self.device.target
        )
        if not holds:
            return None
        number, code = _text(described, "version_number"), _text(described, "version_code")
        if number is None or code is None:
            raise ClientCrash("version_number or version_code is null, and is copied without a look")
        return Candidate(version, path, number, code, branch)

    def _changed(self, changes: list[Any]) -> list[str]:
        """Changes since the running revision; one with only a target adds."""
        names = dict.fromkeys(self.device.chosen)
        for change in changes:
            revision = change.get("revision", 0)
            if not is_a(revision, int) or (revision != 0 and revision <= self.device.revision_number):
                continue
            source, target = _text(change, "source"), _text(change, "target")
            if source is None or source in names:
                names.pop(source or "", None)
                names.update({target: None} if target else {})
        return list(names)

    def _board(self) -> str:
        generic = self.device.target in _NAMED_BY_GENERIC
        return "generic" if generic else self.device.board_name.replace(",", "_")

    def _finished(self, reply: Reply) -> Any:
        if reply.status == 200:
            return _object(reply)
        if reply.status == 422:
            raise ClientError(f"unknown package {reply.header('x-unknown-package') or '(null)'}", 422)
        if reply.status == 500 and reply.body.startswith(b"{"):
            document = _object(reply)
            shown = (_text(document, key) for key in ("stdout", "stderr", "detail"))
            raise ClientError("\n".join(text for text in shown if text is not None), 500)
        raise ClientError(_BAD_MESSAGE, reply.status)

    def _image(self, build: Any) -> Any:
        images = build.get("images")
        if not is_a(images, list):
            raise ClientError("no images")
        for filesystem in dict.fromkeys((self.device.rootfs_type, "squashfs")):
            for kind in _KINDS:
                if (kind == "combined" and self.device.efi) or (
                    kind == "combined-efi" and not self.device.efi
                ):
                    continue
                for image in images:
                    if _text(image, "filesystem") == filesystem and _text(image, "type") == kind:
                        return image
        raise ClientError("no image fits this device")

    def _show(self, text: str) -> None:
        if self.displayed[-1:] != [text]:
            self.displayed.append(text)

    def _get(self, path: str) -> Any:
        reply = self._ask("GET", path)
        if reply.status != 200:
            raise ClientError(_BAD_MESSAGE, reply.status)
        return reply.json

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Reply:
        url = f"{self.server}{path}"
        if len(url.encode()) >= _URL_BYTES:
            raise ClientCrash(f"the address has {len(url)} bytes: {url}")
        try:
            return self._http.ask(method, url, body)
        except OSError as error:
            raise ClientError(_BAD_MESSAGE) from error


def _is_usable(branch: Any) -> bool:
    """A branch is ignored unless every one of these has the right type."""
    kinds = {"name": str, "path": str, "path_packages": str, "versions": list, "targets": dict}
    return branch.get("enabled") is True and all(is_a(branch.get(key), kind) for key, kind in kinds.items())


def _text(document: Any, key: str) -> str | None:
    value = document.get(key)
    return value if isinstance(value, str) else None


def _object(reply: Reply) -> Any:
    document = reply.json
    if not is_a(document, dict):
        raise ClientError(_BAD_MESSAGE, reply.status)
    return document
