"""What people choose from, over a download server of plain values."""

import pytest

from asu_builder.core.catalog import Catalog
from asu_builder.core.search import Preview, Search
from asu_builder.domain.errors import BuildNotFound, RequestRejected
from asu_builder.domain.release import Branches
from asu_builder.domain.search import Device, Title
from asu_builder.package_rules import LocalPackageChanges
from factories import a_request
from still_preflight import Told, still_preflight
from web_scene import DescribingUpstream


@pytest.fixture
def upstream() -> DescribingUpstream:
    return DescribingUpstream()


@pytest.fixture
def search(upstream: DescribingUpstream) -> Search:
    return Search(Catalog(upstream, Branches(), LocalPackageChanges()))


def names(search: Search, text: str, limit: int = 20) -> list[str]:
    return [name for name, _ in search.packages("24.10.5", "pico/nine", text, limit).packages]


def test_devices_are_those_of_the_version(search: Search) -> None:
    found = search.devices("24.10.5", "widget", 5)
    assert [device.profile for device in found.devices] == ["acme_widget-5"]
    with pytest.raises(RequestRejected, match=r"Unsupported version: 24\.10\.99"):
        search.devices("24.10.99", "widget", 5)


def test_a_changed_list_of_devices_is_seen_at_once(search: Search, upstream: DescribingUpstream) -> None:
    assert not search.devices("24.10.5", "brandnew", 5).devices
    upstream.listed = (*upstream.listed, Device(Title("Brandnew"), "pico/nine", "acme_new"))
    assert [device.profile for device in search.devices("24.10.5", "brandnew", 5).devices] == ["acme_new"]


def test_packages_that_begin_with_a_text_come_before_those_that_hold_it(search: Search) -> None:
    assert names(search, "lu") == ["luci", "luci-app-vpn", "kmod-flux"]
    assert names(search, "VPN luci") == ["luci-app-vpn"]
    assert names(search, "nothing") == []


def test_packages_of_the_target_win_and_the_limit_says_whether_there_are_more(search: Search) -> None:
    found = search.packages("24.10.5", "pico/nine", "", 2)
    assert found.packages == (("kmod-flux", "2"), ("luci", "1"))
    assert found.more
    assert not search.packages("24.10.5", "pico/nine", "", 4).more


def test_packages_of_no_target_are_not_found(search: Search) -> None:
    with pytest.raises(BuildNotFound, match=r"24\.10\.5 has no target no/such"):
        search.packages("24.10.5", "no/such", "", 5)


@pytest.mark.parametrize("name", ["acme_widget-5", "acme,widget-5", "widget5"])
def test_a_device_is_described_by_its_profile_and_what_it_reports(search: Search, name: str) -> None:
    found = search.device("24.10.5", "pico/nine", name)
    assert (found.title, found.profile) == ("Acme Widget 5", "acme_widget-5")
    assert found.default_packages == ("base-files", "ppp")
    assert found.device_packages == ("kmod-usb", "-ppp")
    assert found.supported_devices == ("acme,widget-5", "widget5")


def test_a_device_without_a_title_is_called_by_its_profile(search: Search) -> None:
    assert search.device("24.10.5", "pico/nine", "acme_old").title == "acme_old"


def test_an_unknown_profile_is_refused_with_those_that_may_have_been_meant(search: Search) -> None:
    with pytest.raises(BuildNotFound) as caught:
        search.device("24.10.5", "pico/nine", "acme,wigdet-5")
    assert str(caught.value) == (
        "24.10.5 has no profile acme,wigdet-5 for pico/nine. Did you mean acme_widget-5?"
    )
    with pytest.raises(BuildNotFound) as caught:
        search.device("24.10.5", "pico/nine", "zzz")
    assert str(caught.value) == "24.10.5 has no profile zzz for pico/nine."
    with pytest.raises(BuildNotFound, match="has no target no/such"):
        search.device("24.10.5", "no/such", "zzz")


def test_only_a_few_versions_are_kept_prepared(search: Search, upstream: DescribingUpstream) -> None:
    for version in upstream.versions().listed:
        assert search.devices(version, "widget", 5).devices
    assert len(upstream.versions().listed) > len(search._prepared)


def test_what_checks_signatures_is_foretold_where_builds_add_it(upstream: DescribingUpstream) -> None:
    changes = LocalPackageChanges()
    catalog = Catalog(upstream, Branches(), changes)

    def foretold(*packages: str, installs_key: bool = True) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What make would be told, and what the package manager was asked for."""
        resolver = Told()
        preview = Preview(catalog, still_preflight(catalog, changes, resolver, installs_key=installs_key))
        selection = preview.look(a_request(packages=packages)).selection
        return selection.packages, tuple(resolver.asked[0])

    for packages, told in foretold("luci"), foretold("luci", "ucert"):
        assert packages.count("ucert") == 1 and told.count("ucert") == 1
    for packages, told in foretold("luci", "-ucert"), foretold("luci", installs_key=False):
        assert "ucert" not in packages and "ucert" not in told
