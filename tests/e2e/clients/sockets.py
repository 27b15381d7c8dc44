"""One request over one socket, and what came back, byte for byte."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from e2e.clients.crash import ClientCrash


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, wholly read; `headers` are by lower-case name and keep repetitions."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The first of that name, "" for none."""
        return next((value for key, value in self.headers if key == name), "")

    def all(self, name: str) -> list[str]:
        """Each of that name."""
        return [value for key, value in self.headers if key == name]

    @property
    def json(self) -> Any:
        """The body; no client of these survives one that is no JSON where it expects some."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise ClientCrash(f"no JSON with {self.status}: {self.body[:200]!r}") from None


def exchange(
    method: str,
    url: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Reply:
    """One request as a client without any habits of its own would send it. Raises `OSError`."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=timeout)
    target = (place.path or "/") + (f"?{place.query}" if place.query else "")
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        text = answer.read()
        lowered = tuple((name.lower(), value) for name, value in answer.getheaders())
        return Reply(answer.status, lowered, text)
    except http.client.HTTPException as error:
        raise OSError(f"{method} {url}: {error!r}") from error
    finally:
        connection.close()
