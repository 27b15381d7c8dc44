"""One build from the terminal: ask, follow, fetch; end it early when told to."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from msgspec import Struct

from asu_builder.cli.exit_codes import ExitCode, code_of_build
from asu_builder.cli.patience import patiently
from asu_builder.cli.places import BuildsPlace
from asu_builder.cli.views import View
from asu_builder.client.downloads import announced_images, fetch
from asu_builder.client.events import Ended, Event
from asu_builder.client.server import Reply
from asu_builder.domain.errors import AsuError, Unavailable


class Finished(Struct, frozen=True):
    """How it ended: the number to end with, the final document, and the files that are here now."""

    code: ExitCode
    document: dict[str, Any]
    files: tuple[Path, ...] = ()


class BuildRun:
    """One build at one place; `run` may be interrupted by `KeyboardInterrupt`, then `abandon` ends it."""

    def __init__(
        self, place: BuildsPlace, view: View, *, patience: float, on_event: Callable[[Event], None]
    ) -> None:
        """`patience` is how many seconds a place may say that it cannot take the request now."""
        self._place = place
        self._view = view
        self._patience = patience
        self._on_event = on_event
        self._request_hash = ""
        self._cancel_token = ""

    def submit(self, body: bytes) -> Reply:
        """The first answer. Raises what the place refuses with."""
        reply = patiently(
            lambda: self._place.submit(body),
            seconds=self._patience,
            pause_after=self._place.pause_after,
            note=self._view.note,
        )
        self._request_hash = str(reply.document.get("request_hash", ""))
        self._cancel_token = str(reply.document.get("cancel_token", ""))
        return reply

    def run(self, body: bytes, folder: Path | None) -> Finished:
        """Builds, and fetches the images into `folder`, if any. Raises `AsuError`."""
        reply = self.submit(body)
        self._view.note(f"request hash {self._request_hash}")
        if reply.status == 202:
            try:
                self._place.begin(self._request_hash)
                reply = self.follow(self._request_hash)
            except AsuError:
                self._cancel_quietly()
                raise
        code = code_of_build(reply.status, reply.document)
        files = self._fetch(reply.document, folder) if code is ExitCode.DONE and folder else ()
        return Finished(code, reply.document, files)

    def follow(self, request_hash: str) -> Reply:
        """The last answer about a build that goes on."""
        for event in self._place.follow(request_hash):
            self._on_event(event)
            self._view.show(event)
            if isinstance(event, Ended):
                return Reply(event.status, event.document)
        raise Unavailable("The build was not followed to its end.")

    def _fetch(self, document: dict[str, Any], folder: Path) -> tuple[Path, ...]:
        source = self._place.source(document)
        images = announced_images(document)
        return tuple(fetch(image, folder, source, report=self._view.image) for image in images)

    def abandon(self) -> str:
        """Cancels what was begun here; says what became of it."""
        if not self._request_hash:
            return "Nothing was cancelled: the request had not been answered yet."
        if not self._cancel_token:
            return (
                f"The build {self._request_hash} was begun by somebody else, or has ended; it is left alone."
            )
        try:
            self._place.cancel(self._request_hash, self._cancel_token)
        except AsuError as error:
            return f"The build {self._request_hash} was not cancelled: {error}"
        return f"The build {self._request_hash} is cancelled."

    def _cancel_quietly(self) -> None:
        """Leaves no job behind that nobody waits for, where it can still be told to."""
        if self._cancel_token:
            try:
                self._place.cancel(self._request_hash, self._cancel_token)
            except AsuError:
                return


def leave_when_interrupted() -> None:
    """From now on an interrupt ends the process, whatever it does."""
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)


def _leave(_: int, __: FrameType | None) -> None:
    os._exit(ExitCode.CANCELLED)
