"""The goals of the Makefile: what `make <goal>` prints and does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from . import queries
from .apk import Apk
from .arguments import Arguments
from .build import Build
from .configuration import Configuration
from .console import GoalFailed, err, out
from .help_text import HELP
from .installation import RECIPE_LINES, PackageManager
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
        for line in queries.describe(self._configuration):
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
        """What one package needs."""
        name = self._required_package("package_depends")
        queries.depends(self._manager().load(), name, apk=self._is_apk)

    def package_whatdepends(self) -> None:
        """What needs one package."""
        name = self._required_package("whatdepends")
        queries.what_depends(self._manager().load(), name, apk=self._is_apk)

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

    def _required_package(self, goal: str) -> str:
        if not self._arguments.package:
            out(f"Variable `PACKAGE` is not set but required by `{goal}`")
            raise GoalFailed()
        return self._arguments.package

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
