"""A pipeline over real ImageBuilders of the sample distribution, in the local runtime without a sandbox."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asu_builder.core.one_pass import OnePass
from asu_builder.core.pipeline import Pipeline
from asu_builder.domain.errors import BuildFailed
from asu_builder.domain.job import BuildResult, Job, JobState, Stage
from asu_builder.domain.make import CommandResult, ContainerSpec, OutputCallback
from asu_builder.domain.package_index import FoundPackages
from asu_builder.domain.packages import Baseline
from asu_builder.domain.release import Branches
from asu_builder.domain.request import BuildRequest, request_hash
from asu_builder.engines.local.runtime import LocalRuntime
from asu_builder.package_rules import LocalPackageChanges
from asu_builder.ports import Container, PreflightRecords, Runtime
from asu_builder.settings import Settings
from asu_builder.store.local import LocalStore
from asu_builder.upstream.server import RepositoryStatus
from factories import NOON, a_request, eventually
from podman_service import APK_VERSION


class NotedRuntime:
    """A runtime that also notes every command."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.commands: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    @contextmanager
    def open(self, spec: ContainerSpec, *, stop: threading.Event) -> Iterator[Container]:
        with self._runtime.open(spec, stop=stop) as container:
            run = container.run

            def noted(
                arguments: Sequence[str],
                *,
                output: Path,
                environment: Mapping[str, str] | None = None,
                on_output: OutputCallback | None = None,
            ) -> CommandResult:
                self.commands.append(" ".join(arguments[:2]))
                return run(arguments, output=output, environment=environment, on_output=on_output)

            container.run = noted  # type: ignore[method-assign]
            yield container


class Bench:
    """A pipeline, its store, and what it said on the way."""

    def __init__(
        self,
        root: Path,
        imagebuilder_path: str,
        *,
        upstream_url: str = "http://127.0.0.1:9",
        records: PreflightRecords | None = None,
        one_pass: OnePass | None = None,
        found_packages: Callable[[BuildRequest, Mapping[str, str]], FoundPackages] = lambda *_: (
            FoundPackages()
        ),
    ) -> None:
        self.runtime = LocalRuntime(
            Settings(imagebuilder_path=imagebuilder_path), root / "builds", sandboxed=False
        )
        self.witness = NotedRuntime(self.runtime)
        self.store = LocalStore(root / "store", installation="test")
        self.root = root
        self.stages: list[Stage] = []
        self.baseline: Baseline | None = None
        self.stop = threading.Event()
        self.pipeline = Pipeline(
            self.witness,
            self.store,
            release=Branches().release,
            package_changes=LocalPackageChanges(),
            baseline=lambda request: self.baseline,
            repository_status=RepositoryStatus("http://127.0.0.1:9").ask,
            records=records,
            found_packages=found_packages,
            one_pass=one_pass,
            upstream_url=upstream_url,
            job_timeout=timedelta(minutes=2),
        )

    def build(self, version: str = APK_VERSION, **changes: Any) -> BuildResult:
        request = a_request(version=version, **changes)
        job = Job(1, request_hash(request), request, JobState.BUILDING, NOON)
        result = self.pipeline.build(job, labels={}, advance=self.stages.append, stop=self.stop)
        assert isinstance(result, BuildResult)
        return result

    def commands(self) -> list[str]:
        """What was run since it was last asked."""
        commands, self.witness.commands = self.witness.commands, []
        return commands

    def failure(self, version: str = APK_VERSION, **changes: Any) -> BuildFailed:
        with pytest.raises(BuildFailed) as caught:
            self.build(version, **changes)
        return caught.value

    def is_clean(self) -> bool:
        """Whether nothing but published builds is left on the disk."""
        assert eventually(self.runtime.close)
        left = [path.name for path in self.store_path.iterdir() if len(path.name) != 64]
        ours = all(name in (".lock", ".staging") or name.startswith(".store-of-") for name in left)
        scratch = [*self.store_path.glob(".staging/*"), *(self.root / "builds").glob("asu-*")]
        return ours and not scratch

    @property
    def store_path(self) -> Path:
        return self.root / "store"
