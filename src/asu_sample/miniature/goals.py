"""The goals of the Makefile: what `make <goal>` prints and does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from .apk import Apk
from .build import Build
from .configuration import Arguments, Configuration
from .console import GoalFailed, err, out
from .opkg import Opkg
from .sources import RECIPE_LINES, Catalog, Offer, PackageManager


class Goals:
    """The goals of one ImageBuilder directory with one set of variables."""

    def __init__(self, tree: Path, configuration: Configuration, arguments: Arguments) -> None:
        self._tree = tree
        self._configuration = configuration
        self._arguments = arguments

    def run(self, goal: str) -> None:
        """Reach a goal by name. Raises GoalFailed."""
        goals: dict[str, Callable[[], None]] = {
            "help": self.help,
            "info": self.info,
            "manifest": self.manifest,
            "image": self.image,
            "package_depends": self.package_depends,
            "package_whatdepends": self.package_whatdepends,
            "package_list": self.package_list,
            "clean": self.clean,
        }
        goals[goal]()

    def help(self) -> None:
        """The default goal."""
        out(HELP)

    def info(self) -> None:
        """Target, revision, default packages and all profiles, in the grammar that drivers parse."""
        for line in describe(self._configuration):
            out(line)

    def manifest(self) -> None:
        """Install and list, build nothing; stdout holds only the list."""
        build = self._build("manifest")
        packages = build.install(quiet=True)
        for line in build.manifest(packages, strip_abi=self._arguments.strip_abi):
            out(line)

    def image(self) -> None:
        """Build everything for one profile."""
        build = self._build("image")
        build.announce()
        packages = build.install(quiet=False)
        build.prepare_rootfs()
        build.make_images(packages)

    def package_depends(self) -> None:
        """What one package needs. An unknown name fails with apk and prints nothing with opkg."""
        _, offer = self._find_required("package_depends")
        if offer is None:
            return
        package = offer.package
        out(f"{package.identity if self._is_apk else package.name} depends on:")
        for dependency in package.depends:
            out(dependency if self._is_apk else f"\t{dependency}")
        if self._is_apk:
            out()

    def package_whatdepends(self) -> None:
        """What needs one package. An unknown name fails with apk and prints nothing with opkg."""
        catalog, offer = self._find_required("whatdepends")
        if offer is None:
            return
        name = self._arguments.package
        if not self._is_apk:
            out(f"Root set:\n  {name}\nWhat depends on root set")
        for package in catalog.dependents(name):
            if self._is_apk:
                out(f"{package.identity} {package.architecture} {{sample}} (Apache-2.0)")
            else:
                out(f"\t{package.name} {package.version}\tdepends on {name}")

    def package_list(self) -> None:
        """Everything on offer; with apk this goal always fails, as upstream's does."""
        catalog = self._manager().load()
        if self._is_apk:
            raise GoalFailed((RECIPE_LINES["apk"].package_install, "package_list", 1))
        for package in catalog.packages():
            out(f"{package.name} - {package.version} - {package.size}")

    def clean(self) -> None:
        """Remove what builds left; an output folder outside of this directory stays."""
        chosen = Path(self._arguments.bin_dir or "bin")
        paths = [self._tree / name for name in ("tmp", "dl", "build_dir")]
        output = (self._tree / chosen).resolve()
        if self._tree.resolve() in output.parents:
            paths.append(output)
        out("rm -rf " + " ".join(str(path) for path in paths))
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)

    @property
    def _is_apk(self) -> bool:
        return self._configuration.package_manager == "apk"

    def _manager(self) -> PackageManager:
        return Apk(self._tree) if self._is_apk else Opkg(self._tree)

    def _find_required(self, goal: str) -> tuple[Catalog, Offer | None]:
        if not self._arguments.package:
            out(f"Variable `PACKAGE` is not set but required by `{goal}`")
            raise GoalFailed()
        catalog = self._manager().load()
        offer = catalog.find(self._arguments.package)
        if self._is_apk:
            out("OK: 0 B in 0 packages")
            if offer is None:
                raise GoalFailed()
        return catalog, offer

    def _build(self, goal: str) -> Build:
        lines = RECIPE_LINES[self._configuration.package_manager]
        profile = self._configuration.profile(self._arguments.profile)
        if profile is None:
            out(f'Profile "{self._arguments.profile}" does not exist!')
            out('Use "make info" to get a list of available profile names.')
            raise GoalFailed((lines.check_profile, "_check_profile", 1))
        self._check_filesystem(lines.check_profile)
        if goal == "image" and "'" in profile.title:
            # Upstream pastes titles into a single-quoted shell word; such devices cannot be built there
            # either.
            err("bash: -c: line 1: unexpected EOF while looking for matching `''")
            err("bash: -c: line 2: syntax error: unexpected end of file")
            raise GoalFailed((lines.image, "_call_image", 2))
        return Build(self._tree, self._configuration, profile, self._arguments, self._manager())

    def _check_filesystem(self, line: int) -> None:
        chosen = self._arguments.rootfs_filesystem
        if not chosen or not self._configuration.selects_filesystem:
            return
        available = self._configuration.filesystems
        if len(chosen.split()) != 1:
            out(f'ROOTFS_FILESYSTEM must be a single value, got "{chosen}"')
        elif chosen not in available:
            out(f'Filesystem "{chosen}" is not available!')
            out(f"Available filesystems: {' '.join(available)}")
        else:
            return
        raise GoalFailed((line, "_check_filesystem", 1))


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


HELP = """\
Available Commands:
	help:	This help text
	info:	Show a list of available target profiles
	clean:	Remove images and temporary build files
	image:	Build an image (see below for more information).
	manifest: Show all package that will be installed into the image
	package_whatdepends: Show which packages have a dependency on this
	package_depends: Show installation dependency of the package

Building images:
	By default 'make image' will create an image with the default
	target profile and package set. You can use the following parameters
	to change that:

	make image PROFILE="<profilename>" # override the default target profile
	make image PACKAGES="<pkg1> [<pkg2> [<pkg3> ...]]" # include extra packages
	make image FILES="<path>" # include extra files from <path>
	make image BIN_DIR="<path>" # alternative output directory
	make image EXTRA_IMAGE_NAME="<string>" # add this to the file names
	make image DISABLED_SERVICES="<svc1> [<svc2>]" # disable these services
	make image ADD_LOCAL_KEY=1 # store the local signing key in images
	make image ROOTFS_PARTSIZE="<size>" # root partition size in MegaBytes

This is the sample ImageBuilder of ASU Builder. Its images flash nothing."""
