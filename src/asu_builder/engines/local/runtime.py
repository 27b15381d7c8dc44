"""ImageBuilders that lie unpacked on this host: a fresh copy of the directory for each build."""

import fcntl
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event

from asu_builder.domain.errors import BuildFailed, EngineUnavailable, FailureReason
from asu_builder.domain.health import CheckResult
from asu_builder.domain.make import ContainerSpec
from asu_builder.engines.guard import Limits, Removals
from asu_builder.engines.local.container import LocalContainer, copy_tree
from asu_builder.engines.local.sandbox import Confinement, SandboxProbe, try_sandbox
from asu_builder.engines.transfer import disk_errors
from asu_builder.engines.way_out import WayOut
from asu_builder.files import is_abandoned, locked
from asu_builder.proxy.channels import BuildProxy
from asu_builder.settings import Settings


def remove_tree(directory: Path) -> None:
    """Removes a tree even where a build has taken away its own rights to it."""

    def retry(function: Callable[[str], object], path: str, _: object) -> None:
        if not os.path.lexists(path):
            return  # somebody was faster
        parent = Path(path).parent
        for place in (parent, Path(path)):
            if place.is_dir() and not place.is_symlink():
                place.chmod(0o700)
        function(path)

    shutil.rmtree(directory, onerror=retry)


log = logging.getLogger(__name__)

_LABELS = "labels.json"


class LocalRuntime:
    """Fulfils `ports.Runtime`; every thread may use it."""

    def __init__(
        self,
        settings: Settings,
        scratch: Path,
        *,
        sandboxed: bool = True,
        proxies: Mapping[str, str] | None = None,
        proxy: BuildProxy | None = None,
        limits: Limits | None = None,
        disk_every: timedelta = timedelta(seconds=3),
    ) -> None:
        """`scratch` is for the copies, best on the file system of the originals, so that they share blocks.

        Without `sandboxed` commands are not run under bubblewrap and always have the network, with
        `proxies` as variables. In it, `proxy` is their way out where `build_network` says so. Only tests
        choose `limits` and `disk_every`, the time between two looks at what a build has written.
        """
        self._settings = settings
        self._scratch = scratch
        self._sandboxed = sandboxed
        self._network = settings.build_network not in ("none", "proxy")
        self._proxy = proxy if sandboxed and settings.build_network == "proxy" else None
        self._proxies = proxies or {}
        self._limits = limits or Limits()
        self._disk_every = disk_every
        self._probe = SandboxProbe("not tried yet" if sandboxed else "")
        self._removals = Removals()

    @contextmanager
    def open(self, spec: ContainerSpec, *, stop: Event) -> Iterator[LocalContainer]:
        """The deadline counts from here on, the copying included."""
        if (result := self.check()).status == "error":
            raise EngineUnavailable(result.sentence)
        target, _, subtarget = spec.target.partition("/")
        names = {"version": spec.release.version, "target": target, "subtarget": subtarget}
        source = Path(self._settings.imagebuilder_path.format(**names))
        if not source.is_dir():
            raise BuildFailed(
                FailureReason.IMAGEBUILDER_MISSING,
                f"Error: Image not found: no ImageBuilder of {spec.release.version} for {spec.target} is on "
                "this server. Choose another version.",
            )
        proxies = self._proxies if self._network or not self._sandboxed else {}
        self._removals.wait_for_room(stop, within=spec.deadline)
        # Commands run elsewhere, so a path that begins here would lead them nowhere.
        home = self._scratch.absolute() / f"asu-{secrets.token_hex(8)}"
        with disk_errors(), locked(home.parent):
            home.mkdir(mode=0o700)
            # Held until the last of its content is gone: a sweep takes only what has no lock.
            lock = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                (home / _LABELS).write_text(json.dumps(dict(spec.labels)))
            except BaseException:
                os.close(lock)  # for the sweep
                raise
        way_out = WayOut(self._proxy)
        try:
            container = LocalContainer(
                home,
                source,
                Confinement(self._sandboxed, self._network, self._limits, self._probe.filtered),
                environment={**proxies, **spec.environment},
                way_out=way_out,
                stop=stop,
                deadline=spec.deadline,
                disk_every=self._disk_every,
            )
            with container.guard.active():
                with disk_errors():
                    container.temporary.mkdir()
                    copy_tree(source, container.builder, step=container.guard.raise_if_killed)
                yield container
        finally:
            way_out.close()
            self._removals.add(home.name, partial(_remove_directory, home, lock))

    def check_registry(self) -> CheckResult:
        return CheckResult("ok", "ImageBuilders lie on this machine; no registry is asked.")

    def make_ready(self, specs: Sequence[ContainerSpec], *, warm: int, stop: Event) -> int:
        """Nothing: an ImageBuilder is copied for each build."""
        return 0

    def close(self) -> bool:
        return self._removals.close()

    def sweep(self, *, keep: Callable[[Mapping[str, str]], bool]) -> int:
        """Removes what former lives left behind; a copy whose process lives is locked and stays."""
        removed = 0
        with disk_errors(), locked(self._scratch):
            for directory in self._scratch.glob("asu-*"):
                if not keep(_labels(directory)) and is_abandoned(directory):
                    remove_tree(directory)
                    removed += 1
        return removed

    def check(self) -> CheckResult:
        """Whether the sandbox works and the scratch directory can be written."""
        if self._probe.fault:
            # Remembered once it works: a sandbox is not lost while we run.
            self._probe = try_sandbox(network=self._network)
        if self._probe.fault:
            log.warning("No local builds: %s.", self._probe.fault)
            return CheckResult(
                "error",
                "bubblewrap is missing, or its sandbox does not hold here; install it, or use Podman.",
            )
        fixed, varies, _ = self._settings.imagebuilder_path.partition("{")
        base = Path(fixed + "x").parent if varies else Path(fixed)
        if not base.is_dir():
            return CheckResult("error", f"The ImageBuilder directory {base} does not exist.")
        with suppress(OSError):
            self._scratch.mkdir(parents=True, exist_ok=True)
        if not os.access(self._scratch, os.W_OK | os.X_OK):
            return CheckResult("error", f"The scratch directory {self._scratch} cannot be written.")
        return CheckResult("ok", "ImageBuilder directories are there.")


def _remove_directory(home: Path, lock: int) -> None:
    try:
        remove_tree(home)
    except OSError as error:
        log.warning("could not remove %s: %s", home, error)
    finally:
        os.close(lock)


def _labels(directory: Path) -> Mapping[str, str]:
    try:
        labels = json.loads((directory / _LABELS).read_text())
    except (OSError, ValueError):
        return {}
    return labels if isinstance(labels, dict) else {}
