"""Goals that only ask: `info`, `package_depends`, `package_whatdepends`."""

from __future__ import annotations

from collections.abc import Iterator

from .configuration import Configuration
from .console import GoalFailed, out
from .sources import Catalog


def describe(configuration: Configuration) -> Iterator[str]:
    """The lines of `make info`.

    An empty `Packages:` keeps its trailing space; empty device lists have no line.
    """
    yield f'Current Target: "{configuration.target}"'
    if configuration.info_shows_architecture:  # releases before 22.03 do not
        yield f'Current Architecture: "{configuration.kernel_architecture}"'
    yield f'Current Revision: "{configuration.revision}"'
    yield f"Default Packages: {' '.join(configuration.default_packages)}"
    yield "Available Profiles:"
    yield ""
    for profile in configuration.profiles:
        yield f"{profile.id}:"
        yield f"    {profile.title}"
        yield f"    Packages: {' '.join(profile.packages)}"
        yield f"    hasImageMetadata: {int(bool(profile.supported_devices))}"
        if profile.supported_devices:
            yield f"    SupportedDevices: {' '.join(profile.supported_devices)}"


def depends(catalog: Catalog, name: str, *, apk: bool) -> None:
    """Print what `name` depends on. An unknown name fails with apk and prints nothing with opkg."""
    offer = catalog.find(name)
    if apk:
        out("OK: 0 B in 0 packages")
    if offer is None:
        if apk:
            raise GoalFailed()
        return
    package = offer.package
    out(f"{package.identity if apk else package.name} depends on:")
    for dependency in package.depends:
        out(dependency if apk else f"\t{dependency}")
    if apk:
        out()


def what_depends(catalog: Catalog, name: str, *, apk: bool) -> None:
    """Print which packages depend on `name`. An unknown name fails with apk and prints nothing with opkg."""
    if apk:
        out("OK: 0 B in 0 packages")
    if catalog.find(name) is None:
        if apk:
            raise GoalFailed()
        return
    dependents = catalog.dependents(name)
    if apk:
        for package in dependents:
            out(f"{package.identity} {package.architecture} {{sample}} (Apache-2.0)")
        return
    out(f"Root set:\n  {name}\nWhat depends on root set")
    for package in dependents:
        out(f"\t{package.name} {package.version}\tdepends on {name}")
