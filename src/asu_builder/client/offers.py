"""What a server can build, asked for over HTTP; the documents are those of docs/api.md."""

from typing import Any
from urllib.parse import quote, urlencode

from asu_builder.client.server import Server
from asu_builder.domain.errors import AsuError, Unavailable


class ServerOffers:
    """What one server offers. Everything raises what the server refuses with, in our words."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def pause_after(self, error: AsuError) -> float:
        """As many seconds as the server said."""
        return float(getattr(error, "retry_after", 1))

    def branches(self) -> list[dict[str, Any]]:
        """Every branch with its `name`, `versions` (newest first) and `targets`."""
        return list(self._server.fetch("GET", "/api/v1/overview").document["branches"].values())

    def latest(self) -> list[str]:
        """The latest releases, the upcoming one first if there is any."""
        return list(self._server.fetch("GET", "/api/v1/latest").document["latest"])

    def devices(self, version: str, text: str, limit: int) -> dict[str, Any]:
        """Devices by words of their names."""
        return self._search("devices", version=version, search=text, limit=limit)

    def device(self, version: str, target: str, profile: str) -> dict[str, Any]:
        """One device by its profile or a name that it reports."""
        path = f"/api/v1/devices/{quote(version)}/{quote(target)}/{quote(profile)}"
        return self._server.fetch("GET", path).document

    def packages(self, version: str, target: str, text: str, limit: int) -> dict[str, Any]:
        """Packages by words of their names."""
        return self._search("packages", version=version, target=target, search=text, limit=limit)

    def unknown_packages(self, body: bytes) -> dict[str, list[str]]:
        """Names in a request that no index has, each with those it may mean."""
        found = self._server.fetch("POST", "/api/v1/packages/preview", body=body).document
        if not found["indexes_known"]:
            raise Unavailable("The server does not know the package indexes yet.", retry_after=1)
        return {entry["name"]: entry["suggestions"] for entry in found["unknown"]}

    def _search(self, what: str, **asked: str | int) -> dict[str, Any]:
        return self._server.fetch("GET", f"/api/v1/{what}?{urlencode(asked)}").document
