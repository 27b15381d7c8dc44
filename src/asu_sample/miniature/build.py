"""One `make manifest` or `make image`: from the selection to the files in BIN_DIR."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from . import faults, images, rootfs, usign
from .configuration import Arguments, Configuration, Profile, sanitise
from .console import GoalFailed, err, out
from .images import Assembly, Image
from .packages import Package
from .rootfs import PostinstFailed, Rootfs, report_postinst
from .sources import RECIPE_LINES, PackageManager


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
        manager: PackageManager,
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

    def manifest(self, packages: list[Package], *, strip_abi: bool) -> list[str]:
        """The lines of the manifest."""
        separator = self._configuration.manifest_separator
        return images.manifest_lines(packages, separator=separator, strip_abi=strip_abi)

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
            report_postinst(failure)
            prepare = (self._lines.prepare_rootfs, "prepare_rootfs", 1)
            raise GoalFailed(prepare, (self._lines.image, "_call_image", 2)) from failure
        self._rootfs.enable_services(self._arguments.disabled_services)
        self._rootfs.finish(self._configuration.epoch)

    def make_images(self, packages: list[Package]) -> None:
        """Images and reports into BIN_DIR. Raises GoalFailed; too big images are reported and survived."""
        out("\nBuilding images...")
        try:
            for package in packages:
                faults.suffer(package.fault, self._tree)
        except faults.Stopped as reason:
            err(f"sample: {reason}")
            raise self._images_failed() from reason
        image_folder, report_folder = self._folders()
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
        lines = self.manifest(packages, strip_abi=False)
        (image_folder / f"{name}.manifest").write_text("".join(f"{line}\n" for line in lines))
        images.write_sbom(image_folder / f"{name}.bom.cdx.json", packages)
        path = report_folder / "profiles.json"
        images.write_profiles_json(path, self._configuration, self._profile, prefix, listed)
        out("\nCalculating checksums...")
        images.write_checksums(report_folder)

    def _folders(self) -> tuple[Path, Path]:
        """Where images and reports go.

        A relative BIN_DIR is upstream's trap: the two part company, and exit 0 hides it.
        """
        chosen = self._arguments.bin_dir
        target = self._configuration.target
        if not chosen:
            folders = (self._tree / "bin/targets" / target,) * 2
        elif Path(chosen).is_absolute():
            folders = (Path(chosen),) * 2
        else:
            folders = (
                self._tree / "target/linux" / self._configuration.board / "image" / chosen,
                self._tree / chosen,
            )
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        return folders

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
