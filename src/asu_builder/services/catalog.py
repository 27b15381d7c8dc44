"""What can be built here: upstream's offer, resolved to one version, target and profile."""

from dataclasses import replace

from asu_builder.domain.errors import RequestRejected
from asu_builder.domain.release import MAIN, Release, parse_release
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import TargetProfiles, Upstream


class Catalog:
    """Answers from cached metadata; a request waits for upstream only if nothing is known yet."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def resolve(self, request: BuildRequest) -> tuple[BuildRequest, str]:
        """The request with its real profile, and upstream's revision if the version is moving.

        Raises `RequestRejected` for an unknown version, target or profile, with the texts that
        users of the predecessor search for.
        """
        release = parse_release(request.version)
        self._require_version(release)
        described = self._require_target(release, request.target)
        profile = resolve_profile(request.profile, described)
        if profile is None:
            raise RequestRejected(
                f"Unsupported profile: {request.profile}. The requested profile was either dropped or never "
                "existed. Please check the forums for more information."
            )
        # A new value is checked anew, which an unchanged one need not be.
        resolved = request if profile == request.profile else replace(request, profile=profile)
        return resolved, described.revision if release.moving else ""

    def _require_version(self, release: Release) -> None:
        if release.version == MAIN or release.version in self._upstream.versions():
            return
        # A branch snapshot is in no list: upstream has it if it has targets.
        if release.moving and self._upstream.targets(release):
            return
        raise RequestRejected(f"Unsupported version: {release.version}")

    def _require_target(self, release: Release, target: str) -> TargetProfiles:
        targets = self._upstream.targets(release) or {}
        described = self._upstream.target_profiles(release, target) if target in targets else None
        if described is None:
            raise RequestRejected(
                f"Unsupported target: {target}. The requested target was either dropped, is still being "
                "built or is not supported by the selected version. Please check the forums or try again "
                "later."
            )
        return described


def resolve_profile(asked: str, described: TargetProfiles) -> str | None:
    """The profile that a name means: itself, a supported device's, or the only one, `generic`.

    Devices report `vendor,model`; profiles are written with `_` for each comma.
    """
    name = asked.replace(",", "_")
    if name in described.profiles:
        return name
    for profile, supported_devices in described.profiles.items():
        if any(device.replace(",", "_") == name for device in supported_devices):
            return profile
    return "generic" if list(described.profiles) == ["generic"] else None
