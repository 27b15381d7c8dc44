"""The Firmware Selector: a web page on an origin of its own. Facts on clients, §2.5, §2.6 and §4."""

import hashlib
import json
import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from e2e.clients.browser import Browser, NetworkError
from e2e.clients.crash import ClientCrash, ClientError, is_a, need
from e2e.clients.sockets import Reply

STEPS = {
    "queued": "Build request queued",
    "started": "Build started",
    "init": "Initializing",
    "container_setup": "Setting up ImageBuilder",
    "download_imagebuilder": "Downloading ImageBuilder archive",
    "unpack_imagebuilder": "Setting up ImageBuilder",
    "validate_revision": "Validating revision",
    "validate_manifest": "Validating package selection",
    "calculate_packages_hash": "Validating package selection",
    "building_image": "Generating image",
}
_JSON = {"Content-Type": "application/json"}
_FIRST = ("sysupgrade", "factory")


@dataclass(frozen=True, slots=True)
class Shown:
    """What the page shows of a finished build: links and where they lead, heading, package field."""

    links: dict[str, str]
    heading: str
    packages: str
    log: str | None


@dataclass
class FirmwareSelector:
    """One page; `old` is a release up to 5.0.3, which leaves its user alone with most errors."""

    server: str
    version: str
    target: str
    profile: str
    version_code: str = ""
    packages: str = ""
    """The text field, separated by anything."""
    script: str = ""
    interval: float = 5.0
    old: bool = False
    extra: dict[str, object] = field(default_factory=dict)
    """Keys of a configured page or a fork."""
    displayed: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.browser = Browser("https://firmware-selector.example.org")

    def build(self) -> Shown:
        """POST, then GET after each answer of 202; what is shown in the end."""
        reply = self._fetch("POST", "/api/v1/build", json.dumps(self._request()).encode())
        while reply.status == 202:
            document = _parse(reply)
            self._show(document)
            time.sleep(self.interval)
            if is_a(document.get("request_hash"), str):
                reply = self._fetch("GET", f"/api/v1/build/{document['request_hash']}")
            else:
                reply = self._fetch("POST", "/api/v1/build", json.dumps(self._request()).encode())
        if reply.status == 200:
            return self._links(_parse(reply))
        raise self._failed_by(reply)

    def click(self, url: str) -> bytes:
        """Follows a link of the page; it is a download only if the server says so."""
        reply = self.browser.follow_link(url)
        if reply.status != 200 or not reply.header("content-disposition").startswith("attachment"):
            raise ClientError("the browser opens a page instead of a download", reply.status)
        return reply.body

    def _request(self) -> dict[str, object]:
        return {
            "client": "ofs/5.1.0",
            "version": self.version,
            "version_code": self.version_code,
            "target": self.target,
            "profile": self.profile,
            "packages": [name for name in re.split(r"[\s,]+", self.packages) if name],
            "defaults": self.script,
            "diff_packages": True,
            "repositories": {},
            "repository_keys": [],
            **self.extra,
        }

    def _fetch(self, method: str, path: str, body: bytes | None = None) -> Reply:
        self.asked.append(method)
        try:
            return self.browser.fetch(method, f"{self.server}{path}", body=body, headers=_JSON)
        except NetworkError as error:
            raise ClientError(str(error)) from error

    def _show(self, document: Any) -> None:
        step = document.get("imagebuilder_status") or document.get("detail") or "init"
        # An unknown step is shown as the name of the text that is missing.
        text = STEPS.get(step, f"tr-{step}")
        position = document.get("queue_position")
        text += f" ({position})" if position else ""
        if self.displayed[-1:] != [text]:
            self.displayed.append(text)

    def _failed_by(self, reply: Reply) -> ClientCrash | ClientError:
        if self.old and reply.status not in (400, 422, 500):
            return ClientCrash("the spinner turns for ever")
        document = _parse(reply)
        key = "error" if self.old and "error" in document else "detail"
        detail = document.get(key)
        if detail is None:
            too_big = "images are too big" in document.get("stderr", "")
            detail = "The images are too big" if too_big else "Unknown error"
        if not is_a(detail, str):
            return ClientCrash(f"detail has no startsWith: {detail!r}")
        log = "".join(f"\n{document[key]}" for key in ("stderr", "stdout") if document.get(key))
        return ClientError(detail + log, reply.status)

    def _links(self, build: Any) -> Shown:
        titles = need(build, "titles", list)
        if not all(is_a(title, dict) for title in titles):
            raise ClientCrash("titles are no objects")
        for key in ("version_number", "version_code", "target"):
            need(build, key, str)
        # JavaScript's Date.
        datetime.fromisoformat(need(build, "build_at", str))
        images = need(build, "images", list)
        images.sort(key=lambda image: (need(image, "type", str) not in _FIRST, need(image, "name", str)))
        directory = f"{self.server}/store/{need(build, 'bin_dir', str)}"
        for image in images:
            need(image, "sha256", str)
        log = None
        if "stderr" in build:
            log = need(build, "stderr", str) + need(build, "stdout", str)
        return Shown(
            {image["name"]: f"{directory}/{image['name']}" for image in images},
            "Custom build" if "build_cmd" in build else "Build",
            # Without a manifest it takes the document for upstream's and wipes the field.
            self.packages if "manifest" in build else "",
            log,
        )


def digest_of(content: bytes) -> str:
    """What a careful user compares with the digest the page shows."""
    return hashlib.sha256(content).hexdigest()


def _parse(reply: Reply) -> Any:
    document = reply.json
    if not is_a(document, dict):
        raise ClientCrash(f"JSON that is no object: {document!r}")
    return document
