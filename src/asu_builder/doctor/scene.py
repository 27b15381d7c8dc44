"""What the checks look at: settings, environment, and answers that several of them need."""

import os
import pwd
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from asu_builder.doctor.asking import Heard, SocketAnswer, fetch, try_socket
from asu_builder.domain.release import Release, parse_release
from asu_builder.engines.podman.service import socket_candidates
from asu_builder.settings import Settings
from asu_builder.settings.reading import Survey
from asu_builder.upstream.formats import parse_targets, parse_versions

Known = TypeVar("Known")


class Once(Generic[Known]):
    """Asked for by several threads, made by the first; the others wait. An error is raised to each."""

    def __init__(self, make: Callable[[], Known]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: list[Known] = []
        self._error: Exception | None = None

    def __call__(self) -> Known:
        """The value."""
        with self._lock:
            if not self._made and self._error is None:
                try:
                    self._made.append(self._make())
                except Exception as error:
                    self._error = error
                    raise
            if self._error is not None:
                raise self._error
            return self._made[0]


class Scene:
    """One examination of one installation."""

    def __init__(self, survey: Survey, *, environment: Mapping[str, str] = os.environ, url: str = "") -> None:
        """`url` is the public address, or empty."""
        self.survey = survey
        self.settings: Settings = survey.settings
        self.environment = environment
        self.url = url.rstrip("/")
        self.user = _user_name()
        upstream = self.settings.upstream_url.rstrip("/")
        self.versions: Once[Heard] = Once(partial(fetch, f"{upstream}/.versions.json"))
        self.targets: Once[tuple[Release, Mapping[str, str]]] = Once(self._newest_targets)
        self.sockets: Once[tuple[SocketAnswer, ...]] = Once(self._try_sockets)

    @property
    def is_local(self) -> bool:
        """Whether builds run without a container engine, by the rule of `bootstrap.choose_runtime`."""
        settings = self.settings
        if settings.container_runtime == "auto" and settings.imagebuilder_path:
            return not any(answer.present for answer in self.sockets())
        return settings.container_runtime == "local"

    @property
    def socket(self) -> SocketAnswer | None:
        """The one that the service would use, by the rule of `podman_engine.find_socket`."""
        there = [answer for answer in self.sockets() if answer.present]
        return min(there, key=lambda answer: answer.hidden, default=None)

    @property
    def engine(self) -> SocketAnswer | None:
        """The same where it answers well."""
        found = self.socket
        return found if found is not None and found.version else None

    @property
    def store(self) -> Path:
        """Where images are published."""
        return self.settings.public_path / "store"

    def _newest_targets(self) -> tuple[Release, Mapping[str, str]]:
        """The newest stable version and its targets. Raises like `fetch`, and `ValueError`."""
        listed = parse_versions(self.versions().body)
        names = [name for name in (*listed.latest, *listed.listed) if "-" not in name]
        if not names:
            raise ValueError(".versions.json names no released version")
        release = max((parse_release(name) for name in names), key=lambda found: found.order)
        base = self.settings.upstream_url.rstrip("/")
        return release, parse_targets(fetch(f"{base}/{release.path}/.targets.json").body)

    def _try_sockets(self) -> tuple[SocketAnswer, ...]:
        candidates = socket_candidates(self.settings.container_socket_path, environment=self.environment)
        return tuple(try_socket(path) for path in candidates)


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
