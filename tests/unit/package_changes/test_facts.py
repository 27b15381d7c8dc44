"""Every row of what OpenWrt's history changed, written down apart from rules.yaml."""

from typing import NamedTuple

import pytest

from package_changes.files import built_in_rules
from package_changes.model import ClientChange, Context

BRANCHES = ("21.02", "22.03", "23.05", "24.10", "25.12", "SNAPSHOT")
DSA = ("kmod-dsa-mv88e6xxx",)
PHY22F = ("xrx200-rev1.1-phy22f-firmware", "xrx200-rev1.2-phy22f-firmware")
PHY11G = ("xrx200-rev1.1-phy11g-firmware", "xrx200-rev1.2-phy11g-firmware")


class Row(NamedTuple):
    """Packages that a branch needs on targets; no profiles means all of them."""

    branch: str
    targets: str
    profiles: str
    added: tuple[str, ...]


ROWS = (
    Row("23.05", "mediatek/mt7622", "", ("kmod-mt7622-firmware",)),
    Row(
        "23.05",
        "ath79/generic",
        "buffalo_wzr-hp-g300nh-s dlink_dir-825-b1 netgear_wndr3700 netgear_wndr3700-v2 netgear_wndr3800 "
        "netgear_wndr3800ch netgear_wndrmac-v1 netgear_wndrmac-v2 trendnet_tew-673gru",
        ("kmod-switch-rtl8366s",),
    ),
    Row("23.05", "ath79/generic", "buffalo_wzr-hp-g300nh-rb", ("kmod-switch-rtl8366rb",)),
    Row("24.10", "", "tplink_archer-c6-v2", ("ipq-wifi-tplink_archer-c6-v2",)),
    Row("24.10", "mediatek/filogic mediatek/mt7622 mediatek/mt7623", "", ("fitblk",)),
    Row(
        "25.12",
        "kirkwood/generic",
        "checkpoint_l-50 endian_4i-edge-200 linksys_e4200-v2 linksys_ea3500 linksys_ea4500",
        DSA,
    ),
    Row(
        "25.12",
        "mvebu/cortexa9",
        "cznic_turris-omnia fortinet_fg-30e fortinet_fwf-30e fortinet_fg-50e fortinet_fg-51e fortinet_fg-52e "
        "fortinet_fwf-50e-2r fortinet_fwf-51e iij_sa-w2 linksys_wrt1200ac linksys_wrt1900acs "
        "linksys_wrt1900ac-v1 linksys_wrt1900ac-v2 linksys_wrt3200acm linksys_wrt32x marvell_a370-rd",
        DSA,
    ),
    Row(
        "25.12",
        "mvebu/cortexa53",
        "glinet_gl-mv1000 globalscale_espressobin globalscale_espressobin-emmc "
        "globalscale_espressobin-ultra globalscale_espressobin-v7 globalscale_espressobin-v7-emmc "
        "methode_udpu",
        DSA,
    ),
    Row(
        "25.12",
        "mvebu/cortexa72",
        "checkpoint_v-80 checkpoint_v-81 globalscale_mochabin mikrotik_rb5009 solidrun_clearfog-pro",
        DSA,
    ),
    Row("25.12", "lantiq/xrx200 lantiq/xrx200_legacy", "", ("kmod-dsa-gswip",)),
    Row(
        "25.12",
        "lantiq/xrx200",
        "arcadyan_arv7519rw22 arcadyan_vgv7510kw22-brn arcadyan_vgv7510kw22-nor avm_fritz7412 avm_fritz7430 "
        "buffalo_wbmr-300hpd",
        PHY22F,
    ),
    Row(
        "25.12",
        "lantiq/xrx200",
        "tplink_vr200 tplink_vr200v arcadyan_vgv7519-brn arcadyan_vgv7519-nor arcadyan_vrv9510kwac23 "
        "avm_fritz3370-rev2-hynix avm_fritz3370-rev2-micron avm_fritz3390 avm_fritz3490 "
        "avm_fritz3490-micron avm_fritz5490 avm_fritz5490-micron avm_fritz7360sl avm_fritz7360-v2 "
        "avm_fritz7362sl avm_fritz7490 avm_fritz7490-micron bt_homehub-v5a lantiq_easy80920-nand "
        "lantiq_easy80920-nor zyxel_p-2812hnu-f1 zyxel_p-2812hnu-f3",
        PHY11G,
    ),
    Row("25.12", "lantiq/xrx200_legacy", "alphanetworks_asl56026 netgear_dm200", PHY22F),
    Row("25.12", "lantiq/xrx200_legacy", "tplink_tdw8970 tplink_tdw8980 arcadyan_vg3503j", PHY11G),
    Row("25.12", "bcm53xx/generic", "meraki_mr32", ("kmod-hci-uart",)),
    Row("25.12", "ipq40xx/generic", "linksys_whw03 linksys_whw03v2", ("kmod-hci-uart",)),
    Row(
        "25.12",
        "qualcommax/ipq807x",
        "linksys_mx4200v1 linksys_mx8500 zyxel_nbg7815",
        ("kmod-hci-uart",),
    ),
    Row("25.12", "ath79/mikrotik", "", ("kmod-ag71xx-legacy",)),
)
OTHER_TARGETS = ("x86/64", "mediatek/mt7629", "ath79/nand", "lantiq/xway", "mvebu/cortexa73")
CLIENT_ROWS = (
    ClientChange("firewall", 18611, "firewall4"),
    ClientChange("kmod-nft-nat6", 20282, None, mandatory=True),
    ClientChange("libustream-wolfssl", 21994, "libustream-mbedtls"),
    ClientChange("px5g-wolfssl", 21994, "px5g-mbedtls"),
    ClientChange("wpad-basic-wolfssl", 21994, "wpad-basic-mbedtls"),
    ClientChange("luci-app-diag-core", 25984, None, mandatory=True),
    ClientChange("auc", 26792, "owut"),
    ClientChange("luci-app-opkg", 27897, "luci-app-package-manager"),
    ClientChange("opkg", 28056, "apk-mbedtls"),
)
BRANCH_OFF = {"21.02": 15812, "22.03": 19160, "23.05": 23069, "24.10": 27990, "25.12": 32295}


def versions_of(branch: str) -> tuple[str, ...]:
    """Names that a branch's versions have."""
    if branch == "SNAPSHOT":
        return ("SNAPSHOT",)
    return (f"{branch}.0-rc2", f"{branch}.0", f"{branch}.10", f"{branch}-SNAPSHOT")


def selected(version: str, target: str, profile: str, *packages: str) -> tuple[str, ...]:
    """What the built-in rules make of a request."""
    return built_in_rules().apply(Context(version, target, profile, packages)).packages


def devices_of(row: Row) -> list[tuple[str, str]]:
    """Targets with profiles that a row is about."""
    targets = row.targets.split() or ["ath79/generic", "x86/64"]
    return [(target, profile) for target in targets for profile in row.profiles.split() or ["any_device"]]


CASES = [
    pytest.param(row, target, profile, id=f"{row.branch} {target} {profile} {row.added[0]}")
    for row in ROWS
    for target, profile in devices_of(row)
]


@pytest.mark.parametrize(("row", "target", "profile"), CASES)
def test_a_device_gets_what_its_branch_needs_and_no_other_branch_does(
    row: Row, target: str, profile: str
) -> None:
    for branch in BRANCHES:
        for version in versions_of(branch):
            expected = [
                name
                for other in ROWS
                if other.branch == branch
                and (not other.targets or target in other.targets.split())
                and (not other.profiles or profile in other.profiles.split())
                for name in other.added
            ]
            assert selected(version, target, profile, "luci", "nano") == ("luci", "nano", *expected)
            assert (row.added[0] in expected) is (branch == row.branch)


@pytest.mark.parametrize(("row", "target", "profile"), CASES)
def test_a_device_of_another_target_or_profile_gets_nothing(row: Row, target: str, profile: str) -> None:
    version = f"{row.branch}.1"
    if row.targets:
        for other in OTHER_TARGETS:
            assert set(selected(version, other, profile)).isdisjoint(row.added)
    if row.profiles:
        for near in (f"{profile}-v9", profile[1:], profile.upper(), ""):
            assert set(selected(version, target, near)).isdisjoint(row.added)


@pytest.mark.parametrize("branch", BRANCHES)
def test_auc_gives_way_to_owut_on_24_10_only(branch: str) -> None:
    for version in versions_of(branch):
        after = ("luci", "owut") if branch == "24.10" else ("auc", "luci")
        assert selected(version, "x86/64", "generic", "auc", "luci") == after
        assert selected(version, "x86/64", "generic", "luci") == ("luci",)


def test_owut_keeps_its_place_when_it_is_asked_for_beside_auc() -> None:
    assert selected("24.10.4", "x86/64", "generic", "owut", "auc", "luci") == ("owut", "luci")


@pytest.mark.parametrize("branch", BRANCHES)
def test_modules_that_left_main_are_removed_there_only(branch: str) -> None:
    asked = ("kmod-nf-conntrack6", "luci", "kmod-lib-crc32c")
    for version in versions_of(branch):
        expected = ("luci",) if branch == "SNAPSHOT" else asked
        assert selected(version, "x86/64", "generic", *asked) == expected


@pytest.mark.parametrize("branch", BRANCHES)
def test_translations_of_the_package_manager_have_a_new_name_from_24_10_on(branch: str) -> None:
    asked = ("a", "luci-i18n-opkg-de", "b", "luci-i18n-opkg-pt-br")
    renamed = ("a", "luci-i18n-package-manager-de", "b", "luci-i18n-package-manager-pt-br")
    for version in versions_of(branch):
        expected = renamed if branch in ("24.10", "25.12", "SNAPSHOT") else asked
        assert selected(version, "x86/64", "generic", *asked) == expected


@pytest.mark.parametrize("branch", BRANCHES)
def test_english_translations_are_dropped_everywhere(branch: str) -> None:
    asked = ("luci-i18n-base-en", "luci-i18n-opkg-en", "luci-i18n-base-de", "luci-i18n-en", "luci-app-en")
    for version in versions_of(branch):
        assert selected(version, "x86/64", "generic", *asked) == ("luci-i18n-base-de", "luci-app-en")


def test_clients_are_told_the_whole_table_on_main() -> None:
    assert built_in_rules().client_changes() == CLIENT_ROWS


@pytest.mark.parametrize("branch", BRANCH_OFF)
def test_a_branch_tells_clients_what_happened_before_it_was_branched_off(branch: str) -> None:
    expected = tuple(change for change in CLIENT_ROWS if change.revision <= BRANCH_OFF[branch])
    assert built_in_rules().client_changes(branch) == expected
    assert dict(built_in_rules().branches) == BRANCH_OFF


def test_a_branch_that_nobody_knows_tells_clients_nothing() -> None:
    assert built_in_rules().client_changes("99.01") == ()


@pytest.mark.parametrize("change", CLIENT_ROWS, ids=lambda change: change.source)
@pytest.mark.parametrize("branch", BRANCHES)
def test_the_builder_applies_what_clients_are_told_from_the_same_branch_on(
    change: ClientChange, branch: str
) -> None:
    if change.source == "auc":  # the builder has a rule of its own
        return
    holds = branch == "SNAPSHOT" or change.revision <= BRANCH_OFF[branch]
    expected = (change.target,) if change.target else ()
    for version in versions_of(branch):
        after = ("a", *expected, "z") if holds else ("a", change.source, "z")
        assert selected(version, "x86/64", "generic", "a", change.source, "z") == after
