"""A container image under a release's tag that holds another release."""

import json
import logging
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from asgi_client import AsgiClient
from asu_builder.app import assemble
from asu_builder.core.catalog import Catalog
from asu_builder.domain.errors import Side, Unavailable
from asu_builder.domain.release import Branches, Release, TargetProfiles
from asu_builder.package_rules import LocalPackageChanges
from asu_builder.ports import Upstream
from asu_sample.distribution import Distribution
from factories import a_request, eventually
from integration.test_documents import settings
from odd_server import odd_server
from pipeline_rig import Bench

OF_UPSTREAM = "r1-a"


def test_it_is_found_right_after_make_info_and_is_not_the_users_fault(
    tmp_path: Path, sample_world: Distribution
) -> None:
    """Facts §9: a wrong container under a release's tag shows right after `make info`."""
    bench = Bench(tmp_path, sample_world.template)
    bench.pipeline._released_revision = lambda _: OF_UPSTREAM
    failure = bench.failure()
    assert failure.side is Side.INFRASTRUCTURE
    assert "(requested r1-a)" in failure.detail
    assert bench.witness.commands == ["make info"]


class OneTarget:
    """An upstream that knows one target, or is away."""

    def __init__(self, revision: str = OF_UPSTREAM, *, away: bool = False) -> None:
        self._revision = revision
        self._away = away

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        if self._away:
            raise Unavailable("upstream does not answer")
        return TargetProfiles(self._revision, "pico_9kc", {}) if target == "pico/nine" else None


@pytest.mark.parametrize(
    ("upstream", "changes", "revision"),
    [
        (OneTarget(), {}, OF_UPSTREAM),
        (OneTarget(), {"version": "24.10.0-rc1"}, OF_UPSTREAM),
        (OneTarget(), {"version": "SNAPSHOT"}, ""),
        (OneTarget(), {"version": "24.10-SNAPSHOT"}, ""),
        (OneTarget(), {"version": "23.05.5"}, ""),
        (OneTarget(""), {}, ""),
        (OneTarget(), {"target": "no/such"}, ""),
        (OneTarget(away=True), {}, ""),
    ],
    ids=["fixed", "candidate", "main", "branch", "own-numbers", "no-revision", "no-target", "away"],
)
def test_only_a_fixed_release_is_compared_with_what_upstream_says_of_it(
    upstream: OneTarget, changes: Mapping[str, Any], revision: str
) -> None:
    branches = Branches({"23.05": {"own_numbering": True}})
    catalog = Catalog(cast(Upstream, upstream), branches, LocalPackageChanges())
    assert catalog.released_revision(a_request(**changes)) == revision


@pytest.mark.parametrize(
    ("told", "own_numbering", "state"),
    [
        (OF_UPSTREAM, False, ("pending", 1)),
        (OF_UPSTREAM, True, ("completed", 0)),
        (None, False, ("completed", 0)),
        ("", False, ("completed", 0)),
    ],
    ids=["another", "own-numbers", "as-it-is", "none"],
)
def test_the_service_tries_a_wrong_imagebuilder_again_and_blames_nobody_who_asked(
    tmp_path: Path,
    sample_world: Distribution,
    caplog: pytest.LogCaptureFixture,
    told: str | None,
    own_numbering: bool,
    state: tuple[str, int],
) -> None:
    caplog.set_level(logging.INFO)
    place = "releases/25.12.0/targets/pico/nine/profiles.json"
    document = json.loads((sample_world.downloads / place).read_bytes())
    if told is not None:
        document["version_code"] = told
    with odd_server(sample_world.downloads) as server:
        server.odd[place] = json.dumps(document).encode()
        branches = {"25.12": {"own_numbering": own_numbering}}
        chosen = settings(tmp_path, server.url, sample_world, worker_concurrent=1, branches=branches)
        with AsgiClient(assemble(chosen).app) as client:
            body = {"version": "25.12.0", "target": "pico/nine", "profile": "acme_widget-5"}
            answer = client.post("/api/v1/build", body)
            assert answer.status == 202, answer.body
            request_hash = answer.json["request_hash"]

            def found() -> tuple[str, int]:
                with closing(sqlite3.connect(chosen.database_path)) as database:
                    (row,) = database.execute("SELECT state, retries FROM build_jobs").fetchall()
                return row[0], row[1]

            assert eventually(lambda: found() == state), (found(), caplog.text)
            if state[0] == "pending":
                assert client.get(f"/api/v1/build/{request_hash}").status == 202
                assert f"(requested {OF_UPSTREAM})" in caplog.text


def test_a_branch_may_have_numbers_of_its_own() -> None:
    branches = Branches({"24.10": {"own_numbering": True}})
    assert branches.release("24.10.5").own_numbering
    assert not branches.release("25.12.0").own_numbering
