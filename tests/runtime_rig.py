"""What the tests of runtimes share: a spec, and how to make a runtime of each kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from asu_builder.domain.make import ContainerSpec
from asu_builder.domain.release import parse_release
from asu_builder.engines.guard import Limits
from asu_builder.ports import Runtime
from podman_service import APK_VERSION, SAMPLE_TARGET


@dataclass(frozen=True)
class Rig:
    """A runtime's maker; each runtime it makes belongs to the same installation."""

    kind: str
    make: Callable[[Limits], Runtime]


def a_spec(
    version: str = APK_VERSION,
    *,
    target: str = SAMPLE_TARGET,
    deadline: timedelta = timedelta(seconds=60),
    labels: Mapping[str, str] | None = None,
) -> ContainerSpec:
    """What a build of the sample distribution asks for."""
    return ContainerSpec(parse_release(version), target, deadline, labels=labels or {})
