"""The goals of the Makefile: what `make <goal>` prints and does, up to the files in BIN_DIR."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from . import images, rootfs, usign
from .configuration import Arguments, Configuration, Profile, sanitise
from .console import RECIPE_LINES, GoalFailed, err, out
from .faults import Stopped, suffer
from .images import Assembly, Image
from .packages import Catalog, Offer, Package
from .rootfs import PostinstFailed, Rootfs

if TYPE_CHECKING:
    from .apk import Apk
    from .opkg import Opkg


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
        separator, strip_abi = self._configuration.manifest_separator, self._arguments.strip_abi
        for line in images.manifest_lines(packages, separator=separator, strip_abi=strip_abi):
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
        if self._is_apk:
            out("".join(f"{dependency}\n" for dependency in package.depends))
            return
        from .opkg import shown

        for dependency in package.depends:
            out(f"\t{shown(dependency)}")

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

    def _manager(self) -> Apk | Opkg:
        # Late: each make compiles what it loads, and no goal needs both.
        if self._is_apk:
            from .apk import Apk

            return Apk(self._tree)
        from .opkg import Opkg

        return Opkg(self._tree)

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
        chosen, available = self._arguments.rootfs_filesystem, self._configuration.filesystems
        if self._configuration.selects_filesystem and chosen and chosen not in available:
            if len(chosen.split()) != 1:
                out(f'ROOTFS_FILESYSTEM must be a single value, got "{chosen}"')
            else:
                out(f'Filesystem "{chosen}" is not available!')
                out(f"Available filesystems: {' '.join(available)}")
            raise GoalFailed((lines.check_profile, "_check_filesystem", 1))
        if goal == "image" and "'" in profile.title:
            # Upstream pastes titles into a single-quoted shell word; such devices cannot be built there
            # either.
            err("bash: -c: line 1: unexpected EOF while looking for matching `''")
            err("bash: -c: line 2: syntax error: unexpected end of file")
            raise GoalFailed((lines.image, "_call_image", 2))
        return Build(self._tree, self._configuration, profile, self._arguments, self._manager())


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


class Build:
    """A build of one profile in one directory.

    The steps are called in the order in which they are written here.
    """

    def __init__(
        self,
        tree: Path,
        configuration: Configuration,
        profile: Profile,
        arguments: Arguments,
        manager: Apk | Opkg,
    ) -> None:
        self._tree = tree
        self._configuration = configuration
        self._profile = profile
        self._arguments = arguments
        self._manager = manager
        self._lines = RECIPE_LINES[configuration.package_manager]
        self._wanted = wanted(configuration, profile, arguments.packages)
        self._work = tree / "build_dir" / f"target-{configuration.architecture}_musl"
        self._rootfs = Rootfs(self._work / f"root-{configuration.board}")

    def announce(self) -> None:
        """The head of make's output; tools are checked once per directory."""
        stamp = self._tree / "tmp" / ".prereq-checked"
        if not stamp.exists():
            stamp.parent.mkdir(exist_ok=True)
            stamp.touch()
            for tool in ("true", "working-make", "proper-umask", "tar", "find", "python3-stdlib"):
                out(f"Checking '{tool}'... ok.")
        words = [*self._wanted, *self._manager.banner()]
        out(f"Building images for {self._configuration.board} - {self._profile.title}")
        out(f"Packages: {' '.join(words)}")
        if self._configuration.package_manager == "opkg":
            out("\n\nInstalling packages...")

    def install(self, *, quiet: bool) -> list[Package]:
        """Fill the root file system. Raises GoalFailed."""
        goal = "_call_manifest" if quiet else "_call_image"
        line = self._lines.manifest if quiet else self._lines.image
        try:
            return self._manager.install(self._wanted, self._rootfs, quiet=quiet)
        except GoalFailed as failure:
            raise GoalFailed(*failure.trace, (line, goal, 2)) from failure

    def prepare_rootfs(self) -> None:
        """Overlay, post-install scripts, services, in this order. Raises GoalFailed."""
        out("\nFinalizing root filesystem...")
        if self._arguments.files:
            self._rootfs.overlay(self._tree / self._arguments.files)
        if self._arguments.add_local_key:
            if self._configuration.package_manager == "opkg":
                text = (self._tree / "key-build.pub").read_text()
                self._rootfs.write(f"etc/opkg/keys/{usign.parse_public(text)[0]}", text.encode())
            else:
                key = self._tree / "keys" / "local-public-key.pem"
                self._rootfs.write("etc/apk/keys/local-public-key.pem", key.read_bytes())
        try:
            self._rootfs.run_postinst()
        except PostinstFailed as failure:
            err(f"postinst script {failure.script} has failed with exit code {failure.status}")
            prepare = (self._lines.prepare_rootfs, "prepare_rootfs", 1)
            raise GoalFailed(prepare, (self._lines.image, "_call_image", 2)) from failure
        self._rootfs.enable_services(self._arguments.disabled_services)
        self._rootfs.finish(self._configuration.epoch)

    def make_images(self, packages: list[Package]) -> None:
        """Images and reports into BIN_DIR. Raises GoalFailed; too big images are reported and survived."""
        out("\nBuilding images...")
        try:
            for package in packages:
                suffer(package.fault, self._tree)
        except Stopped as reason:
            err(f"sample: {reason}")
            raise self._images_failed() from reason
        # A relative BIN_DIR is upstream's trap: images and reports part company, and exit 0 hides it.
        chosen = Path(self._arguments.bin_dir or f"bin/targets/{self._configuration.target}")
        image_folder = report_folder = self._tree / chosen
        if self._arguments.bin_dir and not chosen.is_absolute():
            image_folder = self._tree / "target/linux" / self._configuration.board / "image" / chosen
        image_folder.mkdir(parents=True, exist_ok=True)
        report_folder.mkdir(parents=True, exist_ok=True)
        prefix = self._configuration.file_prefix(self._arguments.extra_image_name)
        assembly = self._assembly(image_folder, f"{prefix}-{self._profile.id}")
        try:
            listed = list(self._images(assembly))
        except rootfs.OutOfSpace as error:
            failed = f"failed to allocate {error.blocks} blocks, out of space?"
            err(f"error: ext4_allocate_best_fit_partial: {failed}")
            err(f"make[3]: *** [{self._tree}/include/image.mk:397: {self._work}/root.ext4] Error 1")
            raise self._images_failed() from error
        except rootfs.ToolFailed as error:
            err(f"sample: {error}")
            raise self._images_failed() from error
        name = f"{prefix}-{self._profile.id.lower()}"
        separator = self._configuration.manifest_separator
        lines = images.manifest_lines(packages, separator=separator, strip_abi=False)
        (image_folder / f"{name}.manifest").write_text("".join(f"{line}\n" for line in lines))
        images.write_sbom(image_folder / f"{name}.bom.cdx.json", packages)
        path = report_folder / "profiles.json"
        images.write_profiles_json(path, self._configuration, self._profile, prefix, listed)
        out("\nCalculating checksums...")
        images.write_checksums(report_folder)

    def _assembly(self, folder: Path, prefix: str) -> Assembly:
        key = None
        if self._configuration.package_manager == "opkg":  # apk builds have no key-build and stay unsigned
            key = usign.parse_secret((self._tree / "key-build").read_text())
        size = self._arguments.rootfs_partsize
        megabytes = int(size) if size.isdigit() else self._configuration.rootfs_partsize
        work = self._work / f"linux-{self._configuration.target.replace('/', '_')}"
        return Assembly(self._configuration, self._profile, folder, prefix, megabytes, key, work)

    def _images(self, assembly: Assembly) -> Iterator[Image]:
        if "/" in sanitise(self._arguments.extra_image_name):
            err("cp: cannot create regular file: No such file or directory")
            raise self._images_failed()
        root, epoch = self._rootfs.path, self._configuration.epoch
        if self._profile.rootfs_tarball:
            path = assembly.folder / f"{assembly.prefix}-rootfs.tar.gz"
            path.write_bytes(rootfs.tar_gz(root, epoch))
        chosen = self._arguments.rootfs_filesystem if self._configuration.selects_filesystem else ""
        recipes = [recipe for recipe in self._profile.images if chosen in ("", recipe.filesystem)]
        for filesystem in dict.fromkeys(recipe.filesystem for recipe in recipes):
            blob = rootfs.make_blob(root, filesystem, epoch=epoch, megabytes=assembly.rootfs_megabytes)
            for recipe in recipes:
                image = images.write(assembly, recipe, blob) if recipe.filesystem == filesystem else None
                if image:
                    yield image
        for artifact in self._profile.artifacts:
            yield images.write_artifact(assembly, artifact)
        if self._profile.kernel:
            path = assembly.folder / f"{assembly.prefix}-kernel.bin"
            path.write_bytes(images.kernel(self._configuration))

    def _images_failed(self) -> GoalFailed:
        return GoalFailed((self._lines.build_image, "build_image", 2), (self._lines.image, "_call_image", 2))


def wanted(configuration: Configuration, profile: Profile, requested: Iterable[str]) -> list[str]:
    """The requested names in their order, then default and profile packages and `kernel`, sorted.

    Every `-x` removes both `x` and `-x`, wherever they stand; so `x -x` cancels out and no word with a
    leading dash is left. What a removed package was needed for brings it back through dependencies, without a
    word.
    """
    requested = list(requested)
    own = _without_removed([*configuration.default_packages, *profile.packages, "kernel"])
    return _without_removed([*requested, *sorted(set(own))])


def _without_removed(names: list[str]) -> list[str]:
    removed = {name[1:] for name in names if name.startswith("-")}
    return [name for name in names if not name.startswith("-") and name not in removed]


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
