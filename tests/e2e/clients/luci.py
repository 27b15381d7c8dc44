"""LuCI's attended sysupgrade page, in a browser on the router's own origin. Facts on clients, §2.5–§4."""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from e2e.clients.browser import Browser, NetworkError, timestamp
from e2e.clients.crash import ClientCrash, ClientError, need
from e2e.clients.device import Device, branch_of, changed, number_of
from e2e.clients.luci_steps import STEPS, STEPS_OF_23_05
from e2e.clients.sockets import Reply

_STOPS_ON = (200, 400, 422, 500)
_JSON = {"Content-Type": "application/json"}
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass
class Luci:
    """One page, from "Search for firmware upgrade" to the checked blob.

    `old` is the page of 23.05: another overview address, fewer steps, a hash that is never
    forgotten. `rebuilders` are servers that are asked to build the same.
    """

    server: str
    device: Device
    interval: float = 5.0
    old: bool = False
    rebuilders: tuple[str, ...] = ()
    rootfs_size_mb: str | None = None
    displayed: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Of each answer to the page's own polls."""
    request_hash: str = ""

    def __post_init__(self) -> None:
        self.browser = Browser("http://192.168.1.1")
        self.rebuilt: dict[str, str] = {}
        self._ended = threading.Event()
        self._end: ClientCrash | ClientError | None = None
        self._done: Any = None
        self._lock = threading.Lock()
        self._polls: list[threading.Thread] = []

    def search(self) -> list[str]:
        """The versions it would offer: those announced before its own, or before its branch's."""
        overview = self._overview()
        need(need(overview, "branches", dict), self.device.branch, dict)
        if self.device.version == "SNAPSHOT":
            newer = number_of(self._revision("SNAPSHOT")) > self.device.revision_number
            return ["SNAPSHOT"] if newer else []
        latest = need(overview, "latest", list)
        offered: list[str] = []
        # Newer pages sort by themselves, as text; older ones trust the order.
        for version in latest if self.old else sorted(latest, reverse=True):
            if version == self.device.version:
                break
            offered.append(version)
            if branch_of(version) == self.device.branch:
                break
        return offered

    def packages(self, version: str, *, added: tuple[str, ...] = ()) -> list[str]:
        """The whole list of installed packages after the branch's changes."""
        branch = need(need(self._overview(), "branches", dict), branch_of(version), dict)
        upto = number_of(self._revision(version))
        changes = need(branch, "package_changes", list)
        return [*sorted(changed(self.device.installed, changes, upto=upto)), *added]

    def build(self, version: str, packages: list[str]) -> Any:
        """Asks every interval, whether or not the answer before has come; the finished document."""
        body = self.body(version, packages)
        self._ended.clear()
        self._end = self._done = None
        if not self.old:
            self.request_hash = ""
        while not self._ended.is_set():
            self._in_background(partial(self._poll, body))
            self._ask_rebuilders(body)
            self._ended.wait(self.interval)
        self.wait_for_polls()
        if self._end:
            raise self._end
        return self._done

    def ask_rebuilders(self, version: str, packages: list[str]) -> None:
        """Once more, while the dialog stays open for them."""
        self._ask_rebuilders(self.body(version, packages))

    def wait_for_polls(self) -> None:
        """Returns when each request that is on its way has its answer."""
        for poll in self._polls:
            poll.join()

    def body(self, version: str, packages: list[str]) -> bytes:
        """What it posts, each time the same."""
        return json.dumps(self._request(version, packages)).encode()

    def install(self, build: Any) -> bytes:
        """Downloads, uploads to the router, and lets the router compare."""
        image = self._image(build)
        url = f"{self.server}/store/{need(build, 'bin_dir', str)}/{need(image, 'name', str)}"
        # It does not look at the status: an error's body would be uploaded too.
        reply = self.browser.fetch("GET", f"{url}?{timestamp()}", headers=_FORM)
        if hashlib.sha256(reply.body).hexdigest() != need(image, "sha256", str):
            raise ClientError("Wrong checksum")
        for server, digest in self.rebuilt.items():
            if digest != image.get("sha256_unsigned"):
                raise ClientError(f"{server} has built something else")
        return reply.body

    def _request(self, version: str, packages: list[str]) -> dict[str, object]:
        request = {
            "version": version,
            "target": self.device.target,
            "profile": self.device.board_name,
            "packages": packages,
            "diff_packages": True,
            "filesystem": self.device.rootfs_type,
            "client": "luci/undefined",
        }
        return request if self.old else {**request, "rootfs_size_mb": self.rootfs_size_mb}

    def _poll(self, body: bytes) -> None:
        try:
            if self.request_hash:
                reply = self._fetch("GET", f"/api/v1/build/{self.request_hash}", headers=_JSON)
            else:
                reply = self._fetch("POST", "/api/v1/build", body=body, headers=_JSON)
        except NetworkError:
            return  # a rejected promise; the timer goes on
        with self._lock:
            self.statuses.append(reply.status)
            try:
                self._take(reply)
            except (ClientCrash, ClientError) as end:
                self._stop(end)

    def _take(self, reply: Reply) -> None:
        if self._ended.is_set():
            return
        if reply.status == 202:
            document = reply.json
            self.request_hash = document.get("request_hash") or self.request_hash
            self._show(document)
        elif reply.status == 200:
            self._image(reply.json)
            self._done = reply.json
            self._ended.set()
        elif reply.status in _STOPS_ON:
            document = reply.json
            # Whatever detail is, it is put into the page as text.
            shown = [_as_text(document.get(key)) for key in ("detail", "stdout", "stderr") if key in document]
            raise ClientError("\n".join(shown), reply.status)

    def _stop(self, end: ClientCrash | ClientError) -> None:
        self._end = end
        self._ended.set()

    def _show(self, document: Any) -> None:
        if "queue_position" in document:
            self._display(f"Queued {document['queue_position']}")
            return
        step = document.get("imagebuilder_status")
        if step in (STEPS_OF_23_05 if self.old else STEPS):
            self._display(STEPS[step])
        elif not self.old:
            raise ClientCrash(f"no step of the table: {step!r}")
        # The old page's box stands still at an unknown step; its polls go on.

    def _display(self, text: str) -> None:
        if self.displayed[-1:] != [text]:
            self.displayed.append(text)

    def _ask_rebuilders(self, body: bytes) -> None:
        for server in self.rebuilders:
            self._in_background(partial(self._rebuild, server, body))

    def _rebuild(self, server: str, body: bytes) -> None:
        """A rebuilder is sent the whole request again and again; its GET is never used."""
        if server in self.rebuilt:
            return
        try:
            reply = self.browser.fetch(
                "POST", f"{server}/api/v1/build?{timestamp()}", body=body, headers=_JSON
            )
        except NetworkError:
            return
        if reply.status == 200:
            self.rebuilt[server] = need(self._image(reply.json), "sha256_unsigned", str)

    def _image(self, build: Any) -> Any:
        kinds = ("combined-efi",) if self.device.efi else ("sysupgrade", "combined")
        for image in need(build, "images", list):
            if image.get("filesystem") == self.device.rootfs_type and image["type"] in kinds:
                return image
        raise ClientCrash("no image of this type and filesystem")

    def _overview(self) -> Any:
        return self._document("/api/overview" if self.old else "/api/v1/overview")

    def _revision(self, version: str) -> str:
        found = self._document(f"/api/v1/revision/{version}/{self.device.target}")
        return need(found, "revision", str)

    def _document(self, path: str) -> Any:
        reply = self._fetch("GET", path)
        if reply.status != 200:
            raise ClientError(f"{path} failed with {reply.status}", reply.status)
        return reply.json

    def _fetch(self, method: str, path: str, **arguments: Any) -> Reply:
        return self.browser.fetch(method, f"{self.server}{path}?{timestamp()}", **arguments)

    def _in_background(self, work: Callable[[], None]) -> None:
        self._polls.append(threading.Thread(target=work, daemon=True))
        self._polls[-1].start()


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else "[object Object]"
