"""What this installation can build, in the words of the HTTP interface."""

from typing import Any

from msgspec.structs import asdict

from asu_builder.domain.errors import AsuError, Unavailable
from asu_builder.ports import PackageChanges
from asu_builder.services.catalog import Catalog
from asu_builder.services.preview import OtherNames, Preview
from asu_builder.services.search import Search
from asu_builder.web.incoming import parse_request

_PAUSE_SECONDS = 0.2


class LocalOffers:
    """Speaks as `client.offers.ServerOffers` does."""

    def __init__(self, catalog: Catalog, package_changes: PackageChanges, other_names: OtherNames) -> None:
        self._catalog = catalog
        self._preview = Preview(catalog, package_changes, other_names=other_names)
        self._search = Search(catalog)

    def pause_after(self, error: AsuError) -> float:
        """Soon: what upstream was asked for is here within moments."""
        return _PAUSE_SECONDS

    def branches(self) -> list[dict[str, Any]]:
        """Every branch with `name`, `versions` (newest first), `targets`, and whether that is `complete`."""
        return [
            {
                "name": offer.branch.name,
                "versions": list(offer.versions),
                "targets": dict(offer.targets),
                "complete": offer.complete,
            }
            for offer in self._catalog.offers()
        ]

    def latest(self) -> list[str]:
        """The latest releases, the upcoming one first if there is any."""
        return self._catalog.latest()

    def devices(self, version: str, text: str, limit: int) -> dict[str, Any]:
        """Devices by words of their names."""
        found = self._search.devices(version, text, limit)
        devices = [
            {
                **asdict(device.title),
                "title": str(device.title),
                "target": device.target,
                "profile": device.profile,
            }
            for device in found.devices
        ]
        return {"version": version, "devices": devices, "more": found.more, "guessed": found.guessed}

    def device(self, version: str, target: str, profile: str) -> dict[str, Any]:
        """One device by its profile or a name that it reports."""
        return {"version": version, **asdict(self._search.device(version, target, profile))}

    def packages(self, version: str, target: str, text: str, limit: int) -> dict[str, Any]:
        """Packages by words of their names."""
        found = self._search.packages(version, target, text, limit)
        packages = [{"name": name, "version": release} for name, release in found.packages]
        return {"version": version, "target": target, "packages": packages, "more": found.more}

    def unknown_packages(self, body: bytes) -> dict[str, list[str]]:
        """Names in a request that no index has, each with those it may mean."""
        unknown = self._preview.look(parse_request(body)[0]).unknown
        if unknown is None:
            raise Unavailable("The package indexes are not known yet.", retry_after=1)
        return {entry.name: list(entry.suggestions) for entry in unknown}
