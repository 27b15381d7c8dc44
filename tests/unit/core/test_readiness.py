"""What is made ready ahead: what new builds have asked for most, of the latest versions."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from threading import Event
from unittest.mock import MagicMock

import pytest

from asu_builder.core.readiness import Readiness
from asu_builder.domain.errors import EngineUnavailable, UpstreamUnavailable
from asu_builder.domain.job import Tally
from asu_builder.domain.make import ContainerSpec
from asu_builder.domain.release import parse_release
from asu_builder.settings import Settings

NOW = datetime(2026, 12, 1, tzinfo=UTC)
ASKED = {"24.10.5 x86/64": 9, "24.10.5 ath79/generic": 9, "25.12.0 x86/64": 7, "24.10.4 x86/64": 99}


class Runtime:
    """Notes what it is to make ready."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], int]] = []
        self.is_down = False
        self.stops: list[Event] = []

    def make_ready(self, specs: Sequence[ContainerSpec], *, warm: int, stop: Event) -> int:
        if self.is_down:
            raise EngineUnavailable("gone")
        self.calls.append(([f"{spec.release.version} {spec.target}" for spec in specs], warm))
        self.stops.append(stop)
        assert not any(spec.labels or spec.environment for spec in specs)
        return warm


class Scene:
    """One process, whose clock a test moves."""

    def __init__(self, asked: Mapping[str, int] = ASKED, **settings: int) -> None:
        self.runtime, self.catalog, self.statistics = Runtime(), MagicMock(), MagicMock()
        self.catalog.latest.return_value = ["25.12.0", "24.10.5"]
        self.catalog.release = parse_release
        self.statistics.tally.return_value = [Tally(0, label, count) for label, count in asked.items()]
        self.seconds = 0.0
        self.readiness = Readiness(
            lambda: self.runtime,  # type: ignore[arg-type,return-value] # as much of it as is called
            self.statistics,
            self.catalog,
            settings=Settings(**settings),  # type: ignore[arg-type]
            now=lambda: NOW,
            clock=lambda: self.seconds,
        )


def test_the_most_asked_targets_of_the_latest_versions_are_pulled() -> None:
    scene = Scene(prepull=2)
    scene.readiness.make_ready()
    assert scene.runtime.calls == [(["24.10.5 ath79/generic", "24.10.5 x86/64"], 0)]
    (kinds,), options = scene.statistics.tally.call_args
    assert kinds == ("request",) and options["by"] == "version_and_target"
    assert options["since"] == NOW - timedelta(days=7)
    scene.seconds += 590
    scene.readiness.make_ready()
    assert len(scene.runtime.calls) == 1
    scene.seconds += 20
    scene.readiness.make_ready()
    assert len(scene.runtime.calls) == 2


def test_warm_containers_are_looked_after_in_each_round_and_counted_seldom() -> None:
    scene = Scene(prepull=3, warm_containers=1)
    for _ in range(3):
        scene.readiness.make_ready()
    most = "24.10.5 ath79/generic"
    first = [most, "24.10.5 x86/64", "25.12.0 x86/64"]
    assert scene.runtime.calls == [(first, 1), ([most], 1), ([most], 1)]
    assert scene.statistics.tally.call_count == 1
    assert scene.readiness.standing == 1


@pytest.mark.parametrize(("settings", "asked"), [({}, ASKED), ({"prepull": 3, "warm_containers": 2}, {})])
def test_nothing_is_made_ready_where_nothing_is_chosen_or_was_asked_for(
    settings: Mapping[str, int], asked: Mapping[str, int]
) -> None:
    scene = Scene(asked, **settings)
    scene.readiness.make_ready()
    assert scene.runtime.calls == [] and scene.readiness.standing == 0


def test_what_does_not_answer_is_asked_again_in_the_next_round() -> None:
    scene = Scene(warm_containers=1)
    scene.catalog.latest.side_effect = UpstreamUnavailable("gone")
    scene.readiness.make_ready()
    scene.catalog.latest.side_effect = None
    scene.runtime.is_down = True
    scene.readiness.make_ready()
    assert scene.runtime.calls == []
    scene.runtime.is_down = False
    scene.readiness.make_ready()
    assert scene.runtime.calls == [(["24.10.5 ath79/generic"], 1)]


def test_a_stop_breaks_off_what_is_under_way_and_begins_nothing() -> None:
    scene = Scene(warm_containers=1)
    scene.readiness.make_ready()
    scene.readiness.stop()
    assert scene.runtime.stops[0].is_set()
    scene.readiness.make_ready()
    assert len(scene.runtime.calls) == 1
