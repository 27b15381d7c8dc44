"""What changes between builds and between versions, for programs and as a page."""

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlencode

import pytest
from msgspec import structs

from asgi_client import AsgiClient
from asu_builder.domain.errors import BuildProblem, TooManyRequests
from asu_builder.domain.preflight import Feasibility, Foretold, PackageIndexes
from asu_builder.domain.release import Release, TargetProfiles
from factories import a_request
from still_preflight import Told
from unit.http.pages.conftest import FORM, SmallUpstream, text_of
from web_scene import Scene

OLD = {"kernel": "6.6.110~aa-r1", "vim": "9.0-r1", "gone": "1", "luci": "25.1"}
NEW = {"kernel": "6.12.62~bb-r1", "vim": "9.1-r1", "new": "2", "luci": "25.1"}
BODY = {"version": "24.10.5", "target": "pico/nine", "profile": "acme_widget-5", "packages": ["vim"]}
PLACE = "target=pico/nine&profile=acme_widget-5&packages=vim"


class TwoReleases(Told):
    """Foretells the first question with the older packages, the second with the newer ones."""

    def resolve(self, known: PackageIndexes, names: Sequence[str]) -> Foretold:
        self.asked.append(())
        packages: Mapping[str, str] = OLD if len(self.asked) == 1 else NEW
        size = 1_000_000 * len(self.asked)
        return Foretold(Feasibility.FINE, packages=packages, download_size=size, installed_size=3 * size)


@pytest.fixture
def client(scene: Scene) -> Iterator[AsgiClient]:
    scene.upstream = SmallUpstream()
    scene.resolver = TwoReleases()
    with AsgiClient(scene.app()) as running:
        yield running


def two_builds(scene: Scene) -> tuple[str, str]:
    return (
        scene.builds.complete(a_request(), manifest=OLD),
        scene.builds.complete(a_request(packages=("other",)), manifest=NEW),
    )


def test_two_builds_are_compared_by_what_is_in_them(scene: Scene, client: AsgiClient) -> None:
    before, after = two_builds(scene)
    found = client.get(f"/api/v1/build/{before}/compare/{after}").json
    assert found["changes"] == {
        "added": {"new": "2"},
        "removed": {"gone": "1"},
        "upgraded": {"kernel": ["6.6.110~aa-r1", "6.12.62~bb-r1"], "vim": ["9.0-r1", "9.1-r1"]},
        "downgraded": {},
        "unchanged": 1,
        "kernel": ["6.6.110~aa-r1", "6.12.62~bb-r1"],
    }
    assert found["from"]["request_hash"] == before and found["to"]["request_hash"] == after
    assert found["to"]["image_sizes"]
    page = text_of(client.get(f"/compare?build={before}&other={after}"))
    assert "2 upgraded, 0 downgraded, 1 new, 1 gone, 1 the same" in page
    assert "6.6.110~aa-r1 → 6.12.62~bb-r1" in page


def test_only_finished_builds_can_be_compared(scene: Scene, client: AsgiClient) -> None:
    before, _ = two_builds(scene)
    running = scene.builds.build(a_request(packages=("slow",)))
    answer = client.get(f"/api/v1/build/{before}/compare/{running}")
    assert answer.status == 409 and "has no result: it is building" in answer.json["detail"]
    for unknown in ("0" * 64, "xyz"):
        assert client.get(f"/api/v1/build/{unknown}/compare/{before}").status == 404
        assert client.get(f"/compare?build={before}&other={unknown}").status == 404


class OtherDefaults(SmallUpstream):
    """The older release has other default packages."""

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        described = super().target_profiles(release, target)
        if described is None or release.version != "24.10.4":
            return described
        defaults = ("base-files", "old-default", "dnsmasq", "swconfig")
        return structs.replace(described, default_packages=defaults)


def test_a_list_of_all_packages_begins_with_the_default_ones_of_each_version(scene: Scene) -> None:
    scene.upstream, scene.resolver = OtherDefaults(), Told()
    chosen = {
        "diff_packages": True,
        "packages": ["base-files", "kmod-usb2", "vim"],
        "from_version": "24.10.4",
    }
    with AsgiClient(scene.app()) as client:
        assert client.post("/api/v1/packages/compare", BODY | chosen).status == 200
    before, after = scene.resolver.asked
    assert "old-default" in before and "-old-default" not in before, "the older release has it"
    assert "old-default" not in after
    for names in (before, after):
        assert {"vim", "kmod-usb2", "-dnsmasq"} <= set(names)


def test_two_versions_are_compared_by_what_is_foretold(client: AsgiClient) -> None:
    found = client.post("/api/v1/packages/compare", BODY | {"from_version": "24.10.4"}).json
    assert (found["from"]["version"], found["to"]["version"]) == ("24.10.4", "24.10.5")
    assert found["changes"]["upgraded"]["vim"] == ["9.0-r1", "9.1-r1"]
    assert (found["from"]["download_size"], found["to"]["installed_size"]) == (1_000_000, 6_000_000)
    assert found["to"]["packages"] == 4


def test_what_cannot_be_foretold_is_not_compared(scene: Scene, client: AsgiClient) -> None:
    scene.resolver = Told(Foretold(Feasibility.IMPOSSIBLE, problem=BuildProblem(missing=("vim",))))
    with AsgiClient(scene.app()) as other:
        found = other.post("/api/v1/packages/compare", BODY | {"from_version": "24.10.4"}).json
        assert found["changes"] is None
        assert (found["to"]["verdict"], found["to"]["problem"]) == ("impossible", {"missing": ["vim"]})
        page = text_of(other.get(f"/compare?{PLACE}&version=24.10.5&from_version=24.10.4"))
        assert page.count('data-verdict="impossible"') == 2 and "missing (vim)" in page


@pytest.mark.parametrize("wrong", [{}, {"from_version": ""}, {"from_version": 3}, {"from_version": "<b>"}])
def test_the_version_before_must_be_one(client: AsgiClient, wrong: dict[str, object]) -> None:
    answer = client.post("/api/v1/packages/compare", BODY | wrong)
    assert answer.status == 422 and "from_version" in answer.json["detail"]


def test_an_unknown_version_is_refused_with_its_name(client: AsgiClient) -> None:
    answer = client.post("/api/v1/packages/compare", BODY | {"from_version": "19.07.1"})
    assert answer.status == 400 and "19.07.1" in answer.json["detail"]
    page = client.get(f"/compare?{PLACE}&version=24.10.5&from_version=19.07.1")
    assert page.status == 400 and "19.07.1" in text_of(page)


def test_comparing_counts_as_a_preview(scene: Scene) -> None:
    scene.limit_previews = lambda _: TooManyRequests("Slower, please.", retry_after=9)
    with AsgiClient(scene.app()) as client:
        answer = client.post("/api/v1/packages/compare", BODY | {"from_version": "24.10.4"})
        assert answer.status == 429 and answer.header("retry-after") == "9"
        assert client.get(f"/compare?{PLACE}&version=24.10.5&from_version=24.10.4").status == 429


def test_the_page_is_reached_from_a_build_and_from_the_form(scene: Scene, client: AsgiClient) -> None:
    before, _ = two_builds(scene)
    page = text_of(client.get(f"/build/{before}"))
    assert f'href="/compare?build={before}"' in page and "from_version=" in page
    sent = {**BODY, "packages": "vim", "do": "compare", "from_version": "24.10.4", "defaults": "a secret"}
    answer = client.post("/build", urlencode(sent).encode(), FORM)
    where = answer.header("location") or ""
    assert answer.status == 303 and where.startswith("/compare?") and "secret" not in where
    shown = text_of(client.get(where))
    assert "1 new, 1 gone" in shown and '<option value="24.10.4" selected>' in shown


def test_without_anything_chosen_it_asks(client: AsgiClient) -> None:
    assert 'id="compare-builds"' in text_of(client.get("/compare"))
    assert 'id="compare-form"' in text_of(
        client.get(f"/compare?{PLACE}&version=24.10.5&from_version=24.10.5")
    )
