"""A runtime that answers the ImageBuilder's make goals itself; all else is left to the plain local one.

It passes the contract suite of `Runtime`, and builds within a few milliseconds without a child process:
what a service costs beside its builds can be seen in thousands of them. `python -m fake_runtime` is the
service with it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from shutil import move
from threading import Event, Lock

from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import Traffic
from asu_builder.domain.make import STDERR, STDOUT, CommandResult, ContainerSpec, OutputCallback
from asu_builder.engines.guard import Limits
from asu_builder.engines.local.container import copy_tree
from asu_builder.engines.local.runtime import LocalRuntime
from asu_builder.ports import Container, Runtime
from asu_builder.settings import Settings
from fake_make import FakeMake

_LOOK_SECONDS = 0.05


class FakeRuntime:
    """Fulfils `ports.Runtime`; every thread may use it. `template` names unpacked sample ImageBuilders.

    The plain runtime beneath it copies empty directories; a container becomes a real copy when
    something is asked of it that needs one. `pace` is how long every `make image` takes at least.
    """

    def __init__(
        self,
        template: str,
        scratch: Path,
        *,
        limits: Limits | None = None,
        pace: timedelta = timedelta(0),
    ) -> None:
        """`scratch` is for the containers and need not exist."""
        self._template = template
        self._pace = pace
        self._blank = scratch / "blank"
        self._blank.mkdir(parents=True, exist_ok=True)
        self._plain = LocalRuntime(
            Settings(imagebuilder_path=f"{self._blank}/{{version}}/{{target}}/{{subtarget}}"),
            scratch,
            sandboxed=False,
            limits=limits,
        )
        self._reading = Lock()
        self._makes: dict[Path, FakeMake] = {}

    @contextmanager
    def open(self, spec: ContainerSpec, *, stop: Event) -> Iterator[Container]:
        """As the plain runtime, from an ImageBuilder without content."""
        target, _, subtarget = spec.target.partition("/")
        source = Path(self._template.format(version=spec.release.version, target=target, subtarget=subtarget))
        if source.is_dir():
            (self._blank / spec.release.version / spec.target).mkdir(parents=True, exist_ok=True)
        with self._plain.open(spec, stop=stop) as container:
            make = None if spec.environment else self._make(source)
            yield _FakeContainer(container, source, make=make, pause=lambda: self._pause(container, stop))

    def _make(self, source: Path) -> FakeMake:
        with self._reading:
            if source not in self._makes:
                self._makes[source] = FakeMake(source)
            return self._makes[source]

    def _pause(self, container: Container, stop: Event) -> None:
        left = self._pace.total_seconds()
        while left > 0:
            stop.wait(min(left, _LOOK_SECONDS))
            left -= _LOOK_SECONDS
            _require_life(container)

    def make_ready(self, specs: Sequence[ContainerSpec], *, warm: int, stop: Event) -> int:
        return 0

    def close(self) -> bool:
        """As the plain runtime."""
        return self._plain.close()

    def sweep(self, *, keep: Callable[[Mapping[str, str]], bool]) -> int:
        """As the plain runtime."""
        return self._plain.sweep(keep=keep)

    def check(self) -> CheckResult:
        """As the plain runtime."""
        return self._plain.check()

    def check_registry(self) -> CheckResult:
        """As the plain runtime."""
        return self._plain.check_registry()


class _FakeContainer:
    """A directory with nothing but what was written into it, until somebody wants to see more."""

    def __init__(
        self, container: Container, source: Path, *, make: FakeMake | None, pause: Callable[[], None]
    ) -> None:
        self.identity, self.workdir, self.warnings = container.identity, container.workdir, container.warnings
        self.origin = container.origin
        self._container = container
        self._source = source
        self._make = make
        """None once the container is a real copy: commands may have changed it."""
        self._pause = pause
        self._unpacked = False
        self._count = 0

    is_proxied = False
    traffic: Traffic | None = None

    def allow(self, urls: Sequence[str]) -> None:
        """Nothing is fetched here."""

    def run(
        self,
        arguments: Sequence[str],
        *,
        output: Path,
        environment: Mapping[str, str] | None = None,
        on_output: OutputCallback | None = None,
    ) -> CommandResult:
        """In this process where it is a goal that can be imitated, else for real."""
        if self._make is None or environment or not self._make.understands(arguments):
            self._unpack()
            return self._container.run(arguments, output=output, environment=environment, on_output=on_output)
        _require_life(self._container)
        made = self._make.run(arguments)
        if arguments[1] == "image":
            self._pause()
        self._count += 1
        stdout, stderr = (output / f"make-{self._count}.{stream}" for stream in ("stdout", "stderr"))
        stdout.write_text(made.stdout)
        stderr.write_text(made.stderr)
        for stream, text in ((STDOUT, made.stdout), (STDERR, made.stderr)):
            if on_output and text:
                on_output(stream, text.encode())
        return CommandResult(made.status, stdout, stderr)

    def exists(self, path: str) -> bool:
        """Written by somebody, or part of the ImageBuilder."""
        original = self._source / path
        return self._container.exists(path) or (
            not self._unpacked and original.is_file() and not original.is_symlink()
        )

    def read_bytes(self, path: str) -> bytes:
        """Of the real copy."""
        self._unpack()
        return self._container.read_bytes(path)

    def write_files(self, files: Mapping[str, str]) -> None:
        """Needs no copy: what is written lies over it when it comes."""
        self._container.write_files(files)

    def collect(self, directory: str, into: Path) -> Sequence[str]:
        """Of what lies there."""
        return self._container.collect(directory, into)

    def _unpack(self) -> None:
        """Puts the whole ImageBuilder beneath what was written until now."""
        if self._unpacked:
            return
        self._unpacked, self._make = True, None
        builder = Path(self.workdir)
        early = builder.with_name("early")
        builder.rename(early)
        copy_tree(self._source, builder, step=lambda: None)
        for path in early.rglob("*"):
            if path.is_file():
                place = builder / path.relative_to(early)
                place.parent.mkdir(parents=True, exist_ok=True)
                move(path, place)


def _require_life(container: Container) -> None:
    """Raises what ended the container, if something has: any question to it would."""
    container.exists("Makefile")


def main() -> None:
    """`asu-builder serve`, or the command of the arguments, with this runtime in place of the settings'."""
    import os
    import sys
    from functools import partial

    from asu_builder import app
    from asu_builder.cli import serving
    from asu_builder.settings import load_settings, parse_duration

    pace = parse_duration(os.environ.get("FAKE_PACE", "0"))
    settings = load_settings()

    def fake(_: Runtime) -> Runtime:
        scratch = settings.database_path.parent / "builds"
        return FakeRuntime(settings.imagebuilder_path, scratch, pace=pace)

    # The command looks it up when it starts, so everything else is as an operator would have it.
    app.assemble = partial(app.assemble, watch=fake)
    serving.serve(command=" ".join(sys.argv[1:]) or "serve")


if __name__ == "__main__":
    main()
