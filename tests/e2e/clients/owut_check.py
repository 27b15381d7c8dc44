"""What owut reads before it asks for a build: overview, upstream's profiles, package indexes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e.clients.crash import ClientCrash, ClientError, need, perhaps
from e2e.clients.device import Device, changed, described_upstream, number_of
from e2e.clients.sockets import Reply
from e2e.clients.uclient import Uclient

_NEVER_OFFERED = "23.05.1"


@dataclass(frozen=True, slots=True)
class Plan:
    """What `owut check` has found out: the version to go to, and what will be in it."""

    version: str
    version_code: str
    profile: str
    packages: dict[str, str | None]
    """The wanted names with their versions to be; None for one that no index knows."""
    max_rootfs_size_mb: int
    max_defaults_length: int


@dataclass(frozen=True, slots=True)
class Check:
    """`owut check` and `owut versions`."""

    server: str
    device: Device
    http: Uclient

    def plan(self, version: str, *, added: tuple[str, ...] = ()) -> Plan:
        """Reads overview, upstream's profiles and both package indexes."""
        overview = self._get("/json/v1/overview.json")
        branch = self._branch_of(overview, version)
        path = need(branch, "path", str).replace("{version}", version)
        described = described_upstream(need(overview, "upstream_url", str), path, self.device.target)
        code = need(described, "version_code", str)
        wanted = changed(self.device.chosen, need(branch, "package_changes", list), upto=number_of(code))
        known = self._indexes(path)
        limits = need(overview, "server", dict)
        return Plan(
            version,
            code,
            self._profile(described),
            {name: known.get(name) for name in sorted(wanted | set(added))},
            perhaps(limits, "max_custom_rootfs_size_mb", int) or 1024,
            perhaps(limits, "max_defaults_length", int) or 20480,
        )

    def offered(self) -> dict[str, str]:
        """The newest version of each usable branch."""
        branches = need(self._get("/json/v1/overview.json"), "branches", dict)
        newest = {}
        for name, branch in branches.items():
            if not need(branch, "enabled", bool) or not need(branch, "targets", dict):
                continue
            versions = sorted(need(branch, "versions", list), key=_order)
            usable = [version for version in versions if not version.endswith("-SNAPSHOT")]
            if usable:
                newest[name] = usable[-1]
        return newest

    def _branch_of(self, overview: Any, version: str) -> Any:
        for branch in need(overview, "branches", dict).values():
            if not need(branch, "enabled", bool) or not need(branch, "targets", dict):
                continue
            if version in need(branch, "versions", list) and version != _NEVER_OFFERED:
                return branch
        raise ClientError(f"version {version} is not offered")

    def _indexes(self, path: str) -> dict[str, str]:
        """One map; what the target has wins."""
        flat = self._get(f"/json/v1/{path}/packages/{self.device.architecture}-index.json")
        own = self._get(f"/json/v1/{path}/targets/{self.device.target}/index.json")
        return {**_names_to_versions(flat), **_names_to_versions(need(own, "packages", dict))}

    def _profile(self, described: Any) -> str:
        """Aliases are looked up at upstream, not here."""
        profiles = need(described, "profiles", dict)
        board = self.device.board_name
        for name, profile in profiles.items():
            if board in profile.get("supported_devices", ()) or name == board.replace(",", "_"):
                return str(name)
        if "generic" in profiles:
            return "generic"
        raise ClientError(f"{board} is not among the profiles")

    def _get(self, path: str) -> Any:
        reply = self.http.ask("GET", self.server + path)
        if reply.status != 200:
            raise ClientError(f"{path} failed with {reply.status}", reply.status)
        return object_of(reply)


def object_of(reply: Reply) -> Any:
    """The document of an answer; owut dies of JSON that is no object."""
    document = reply.json
    if not isinstance(document, dict):
        raise ClientCrash(f"JSON that is no object: {document!r}")
    return document


def _names_to_versions(index: Mapping[str, Any]) -> dict[str, str]:
    return {name: need(index, name, str) for name in index}


def _order(version: str) -> tuple[int, ...]:
    """Release candidate before release before branch snapshot."""
    numbers, _, suffix = version.partition("-")
    last = int(suffix[2:]) if suffix.startswith("rc") else {"": 1000}.get(suffix, 2000)
    parts = [int(part) for part in numbers.split(".") if part.isdigit()]
    return (*parts, *([10_000] if len(parts) == 2 else []), last)
