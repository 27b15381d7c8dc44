"""Ranking: what somebody types finds the device that they hold in their hands."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asu_builder.domain.search import Device, DeviceIndex, Title, name_devices, plain
from factories import UPSTREAM, many_devices
from yardstick import takes_at_most

ARCHERS = ("v5", "v2", "v10", "v1")


def a_device(vendor: str, model: str, variant: str = "", **changes: str) -> Device:
    name = plain(f"{vendor} {model} {variant}").replace(" ", "-")
    return Device(
        Title(vendor=vendor, model=model, variant=variant),
        changes.get("target", "ath79/generic"),
        changes.get("profile", name),
    )


SHELF = DeviceIndex(
    [
        *(a_device("TP-Link", "Archer C7", variant) for variant in ARCHERS),
        a_device("TP-Link", "Archer C70", "v1"),
        a_device("TP-Link", "TL-WR1043ND", "v1"),
        a_device("Linksys", "WRT3200ACM", target="mvebu/cortexa9"),
        a_device("Archer", "Box"),
        a_device("Acme", "Starcher"),
        a_device("Éclair", "Größe 5"),
        *name_devices(
            "both_name",
            "pico/nine",
            [Title(vendor="Acme", model="Combined"), Title("Umbrella Combined+")],
            ["acme,board-name"],
        ),
        *name_devices("untitled_thing", "pico/nine", []),
    ]
)


def titles(text: str, limit: int = 20) -> list[str]:
    return [str(device.title) for device in SHELF.search(text, limit).devices]


@pytest.mark.parametrize("text", ["archer c7 v5", "C7 ARCHER V5", "v5   c7,archer", "TP-Link Archer C7 v5"])
def test_words_stand_in_any_order_and_case(text: str) -> None:
    assert titles(text)[0] == "TP-Link Archer C7 v5"


def test_whole_words_come_first_then_beginnings_then_what_is_inside() -> None:
    assert titles("archer") == [
        "Archer Box",
        *(f"TP-Link Archer C7 {variant}" for variant in ("v1", "v2", "v5", "v10")),
        "TP-Link Archer C70 v1",
        "Acme Starcher",
    ]
    assert titles("archer c7")[-1] == "TP-Link Archer C70 v1"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("eclair grosse", "Éclair Größe 5"),
        ("ÉCLAIR", "Éclair Größe 5"),
        ("mvebu", "Linksys WRT3200ACM"),
        ("linksys-wrt3200acm", "Linksys WRT3200ACM"),
        ("acme,board-name", "Acme Combined"),
        ("wr1043", "TP-Link TL-WR1043ND v1"),
        ("tlwr1043nd", "TP-Link TL-WR1043ND v1"),
        ("untitled", "untitled_thing"),
    ],
)
def test_a_device_is_found_by_every_name_without_accents_and_punctuation(text: str, title: str) -> None:
    found = SHELF.search(text, 20)
    assert str(found.devices[0].title) == title
    assert not found.guessed


def test_each_title_of_a_profile_is_a_device_and_finds_the_others() -> None:
    assert titles("umbrella") == ["Umbrella Combined+", "Acme Combined"]
    assert {device.profile for device in SHELF.search("combined", 9).devices} == {"both_name"}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("archr c7 v5", "TP-Link Archer C7 v5"),
        ("lnksys", "Linksys WRT3200ACM"),
        ("tplnik wr1043nd", "TP-Link TL-WR1043ND v1"),
        ("wrt3200amc", "Linksys WRT3200ACM"),
    ],
)
def test_a_mistyped_name_is_found_and_called_a_guess(text: str, title: str) -> None:
    found = SHELF.search(text, 5)
    assert str(found.devices[0].title) == title
    assert found.guessed


def test_what_resembles_nothing_finds_nothing() -> None:
    found = SHELF.search("qqqqqq", 5)
    assert (found.devices, found.more, found.guessed) == ((), False, False)


def test_without_words_come_the_first_ones_in_order_of_their_titles() -> None:
    found = SHELF.search(" -+ ", 3)
    assert [str(device.title) for device in found.devices] == [
        "Acme Combined",
        "Acme Starcher",
        "Archer Box",
    ]
    assert found.more


def test_more_says_whether_the_limit_hides_any() -> None:
    assert SHELF.search("archer c7", 5).more is False
    assert SHELF.search("archer c7", 4).more is True


_TITLES = st.builds(
    Title, st.text(max_size=8), st.text(max_size=12), st.text(max_size=12), st.text(max_size=5)
)
_DEVICES = st.lists(
    st.builds(Device, _TITLES, st.sampled_from(["a/b", "c/d"]), st.text("abc_-5", min_size=1, max_size=9)),
    max_size=12,
)


@given(_DEVICES)
def test_every_device_is_found_by_its_own_title_before_those_of_other_titles(
    devices: Sequence[Device],
) -> None:
    index = DeviceIndex(devices)
    for device in devices:
        own = plain(str(device.title))
        if len(own.split()) > 12 or not own:
            continue
        found = index.search(str(device.title), len(devices))
        assert device in found.devices
        assert plain(str(found.devices[0].title)) == own
        assert not found.guessed


@given(_DEVICES, st.text(max_size=64), st.integers(1, 5))
def test_what_is_found_are_some_of_the_devices_within_the_limit_and_always_the_same(
    devices: Sequence[Device], text: str, limit: int
) -> None:
    found = DeviceIndex(devices).search(text, limit)
    assert len(found.devices) <= limit
    left = list(devices)
    for device in found.devices:
        left.remove(device)
    assert DeviceIndex(reversed(devices)).search(text, limit) == found
    assert not found.more or len(found.devices) == limit


@given(_DEVICES, st.lists(st.text("abc5 ", min_size=1, max_size=4), min_size=1, max_size=4))
def test_every_word_counts_and_their_order_does_not_for_who_is_found(
    devices: Sequence[Device], words: Sequence[str]
) -> None:
    index = DeviceIndex(devices)
    found = index.search(" ".join(words), 99)
    turned = index.search(" ".join(reversed(words)), 99)
    if not found.guessed:
        assert {id(device) for device in found.devices} == {id(device) for device in turned.devices}
        assert len(index.search(" ".join(words[:1]), 99).devices) >= len(found.devices)


def test_all_real_devices_of_a_target_are_found_first_by_their_title_and_by_a_mistyped_one() -> None:
    listed = UPSTREAM / "releases/25.12.0/targets/ath79/generic/profiles.json"
    profiles = json.loads(listed.read_text())["profiles"]
    devices = [
        device
        for name, profile in profiles.items()
        for device in name_devices(name, "ath79/generic", [Title(**title) for title in profile["titles"]])
    ]
    index = DeviceIndex(devices)
    assert len(devices) > 370
    for device in devices:
        assert str(index.search(str(device.title), 1).devices[0].title) == str(device.title)
        vendor = device.title.vendor.split()[0]
        if len(vendor) >= 6 and vendor.isalpha():
            mistyped = vendor[:3] + vendor[4] + vendor[3] + vendor[5:]
            rest = str(device.title).removeprefix(vendor)
            found = index.search(f"{mistyped}{rest}", 20)
            assert str(device.title) in [str(each.title) for each in found.devices], mistyped


@pytest.mark.timed
@pytest.mark.parametrize("text", ["", "a", "i e a", "archer c7", "archr c7", "qqqqq", "x" * 64])
def test_a_search_among_2500_devices_is_one_of_milliseconds(text: str) -> None:
    index = DeviceIndex(many_devices(2500))
    index.search("load what a guess needs", 20)
    assert takes_at_most(lambda: index.search(text, 20), 2, least=0)
