"""owut: the command line client of current OpenWrt. Facts on clients, §2.5, §2.6, §3 and §4."""

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from e2e.clients.crash import ClientCrash, ClientError, need
from e2e.clients.device import Device
from e2e.clients.owut_check import Check, Plan, object_of
from e2e.clients.sockets import Reply
from e2e.clients.uclient import Uclient

_NOT_COMPARED = ("kernel", "libc", "libgcc")


@dataclass
class Owut:
    """One run of `owut upgrade`; from release 2026.03.30 on it follows redirects."""

    server: str
    device: Device
    interval: float = 2.0
    first_interval: float = 0.5
    follows_redirects: bool = False
    initial_script: str | None = None
    rootfs_size_mb: int | None = None
    added: tuple[str, ...] = ()
    displayed: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """The methods of each request about the build, in order."""

    def __post_init__(self) -> None:
        self.server = self.server.rstrip("/")
        self._http = Uclient("uclient-fetch", self.follows_redirects, timeout=30.0)

    def upgrade(self, version: str) -> bytes:
        """From the check to the verified image."""
        plan = self.check(version)
        return self.download(plan, self.build(plan))

    def check(self, version: str) -> Plan:
        """Reads overview, upstream's profiles and both package indexes."""
        return Check(self.server, self.device, self._http).plan(version, added=self.added)

    def offered(self) -> dict[str, str]:
        """The newest version of each usable branch."""
        return Check(self.server, self.device, self._http).offered()

    def build(self, plan: Plan) -> Any:
        """POST, then HEAD until something else than 202 comes; the finished document."""
        reply = self._ask("POST", f"{self.server}/api/v1/build", self.body(plan))
        document = self._document(reply)
        status, shown = reply.status, document
        self._show(shown)
        pause, method = self.first_interval, "HEAD"
        request_hash = need(document, "request_hash", str) if status == 202 else ""
        url = f"{self.server}/api/v1/build/{request_hash}"
        while status == 202:
            time.sleep(pause)
            pause = self.interval
            try:
                reply = self._ask(method, url)
            except OSError:
                continue  # the HTTP client keeps the status of the answer before
            if reply.status == 405 and method == "HEAD":
                method = "GET"
                continue
            status = reply.status
            if method == "HEAD" and status != 202:
                reply = self._ask("GET", url)
                status = reply.status
            self._show({**shown, **_progress(reply)})
        return self._finished(status, self._document(reply) if reply.body else document)

    def download(self, plan: Plan, build: Any) -> bytes:
        """The one image of the device's kind, after every comparison that owut makes."""
        self._require_as_planned(plan, build)
        kinds = ("combined-efi",) if self.device.efi else ("sysupgrade", "combined", "sdcard")
        images = [
            image
            for image in need(build, "images", list)
            if image.get("filesystem") == self.device.rootfs_type and need(image, "type", str) in kinds
        ]
        if not images:
            raise ClientError("no image fits this device")
        name, digest = need(images[0], "name", str), need(images[0], "sha256", str)
        reply = self._ask("GET", f"{self.server}/store/{need(build, 'bin_dir', str)}/{name}")
        if reply.status != 200:
            raise ClientError("Couldn't download image", reply.status)
        # A line of a sums file, for sha256sum.
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or hashlib.sha256(reply.body).hexdigest() != digest:
            raise ClientError("checksum verification failed")
        return reply.body

    def body(self, plan: Plan) -> bytes:
        """What it posts."""
        body: dict[str, object] = {
            "client": "owut/2026.03.30",
            "version": plan.version,
            "version_code": plan.version_code,
            "target": self.device.target,
            "profile": plan.profile,
            "diff_packages": True,
            "filesystem": self.device.rootfs_type,
        }
        if None in plan.packages.values():
            body["packages"] = list(plan.packages)
        else:
            body["packages_versions"] = plan.packages
        if self.initial_script is not None:
            if len(self.initial_script) > plan.max_defaults_length:
                raise ClientError("the script is too long for this server")
            body["defaults"] = self.initial_script
        if self.rootfs_size_mb is not None:
            body["rootfs_size_mb"] = min(self.rootfs_size_mb, plan.max_rootfs_size_mb)
        return json.dumps(body).encode()

    def _finished(self, status: int, document: Any) -> Any:
        if status == 200 and need(document, "status", int) == 200:
            return document
        # It reads on whatever came, and prints null for a status that is not there.
        shown = [f"{document.get('detail')} ({document.get('status')})"]
        shown += [str(document[key]) for key in ("error", "stdout", "stderr") if key in document]
        raise ClientError("\n".join(shown), status)

    def _require_as_planned(self, plan: Plan, build: Any) -> None:
        request = need(build, "request", dict)
        for key in ("version_code", "rootfs_size_mb", "defaults"):
            if key not in request:
                raise ClientCrash(f"request.{key} is missing")
        if need(build, "version_code", str) != plan.version_code:
            raise ClientError(f"version_code is {build['version_code']}, not {plan.version_code}")
        manifest = need(build, "manifest", dict)
        for name, version in plan.packages.items():
            if name not in _NOT_COMPARED and (name not in manifest or manifest[name] != version):
                raise ClientError(f"{name} is {manifest.get(name)} in the image and was to be {version}")

    def _show(self, progress: Mapping[str, Any]) -> None:
        text = str(progress.get("detail"))
        ahead = f" - {progress.get('queue_position')} ahead of you" if text == "queued" else ""
        if self.displayed[-1:] != [text + ahead]:
            self.displayed.append(text + ahead)

    def _ask(self, method: str, url: str, body: bytes | None = None) -> Reply:
        self.asked.append(method)
        return self._http.ask(method, url, body)

    def _document(self, reply: Reply) -> Any:
        try:
            json.loads(reply.body)
        except ValueError:
            raise ClientError(f"Error: {reply.body.decode(errors='replace')}", reply.status) from None
        return object_of(reply)


def _progress(reply: Reply) -> dict[str, str]:
    """A poll says it in two headers; they take the place of the fields of the first answer."""
    step, position = reply.header("x-imagebuilder-status"), reply.header("x-queue-position")
    return ({"detail": step} if step else {}) | ({"queue_position": position} if position else {})
