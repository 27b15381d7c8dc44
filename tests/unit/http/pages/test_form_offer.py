"""What the form offers for a device, and what the Firmware Selector is told."""

import json
import re

from asgi_client import AsgiClient
from asu_builder.core.search import DescribedDevice
from asu_builder.domain.release import Branches
from asu_builder.http.pages.form_offer import (
    BUILT_IN_NAMES,
    firmware_selector_config,
    has_web_interface,
    make_offer,
    offered_names,
)
from asu_builder.settings import Settings

DEVICE = DescribedDevice("Acme Widget", "ath79/tiny", "acme_widget", ("base", "ppp"), (), ())
RELEASE = Branches().release("24.10.5")


def told(text: str) -> dict[str, object]:
    """The values of a `config.js`, without the address that the browser finds."""
    whole = re.fullmatch(r"var config = (.*);\n", text, re.DOTALL)
    assert whole
    values: dict[str, object] = json.loads(
        whole[1].replace("new URL(document.currentScript.src).origin", "1")
    )
    return values


def test_the_more_special_word_counts() -> None:
    settings = Settings(
        form_packages=("luci", "vim"),
        form_suggestions={"A": ("a",), "B": ("b",)},
        form_links={"Wiki": "https://wiki.example.org/{target}", "Forum": "https://f.example.org"},
        form_for={
            "acme_widget": {"packages": ("luci",), "links": {"Forum": ""}},
            "24.10": {"packages": ("tmux",), "suggestions": {"A": ("c",)}},
            "ath79": {"packages": ("-luci", "-ppp")},
            "25.12": {"packages": ("never",)},
        },
    )
    offer = make_offer(settings, DEVICE, RELEASE)
    assert offer.added_to(["base", "ppp"]) == ["base", "vim", "tmux", "luci"]
    assert offer.suggestions == (("A", ("c",)), ("B", ("b",)))
    assert offer.links == (("Wiki", "https://wiki.example.org/ath79"),)
    assert offered_names(settings, DEVICE, RELEASE) == {"luci", "vim", "tmux", "a", "b", "c"}


def test_the_names_that_the_settings_begin_with_are_translated() -> None:
    settings = Settings()
    assert set(BUILT_IN_NAMES) == {*settings.form_suggestions, *settings.form_links}


def test_a_release_has_notes_and_a_snapshot_none() -> None:
    told = [
        dict(make_offer(Settings(), DEVICE, Branches().release(version)).links).get("Release notes")
        for version in ("24.10.5", "24.10-SNAPSHOT", "SNAPSHOT")
    ]
    assert told == ["https://openwrt.org/releases/24.10/notes-24.10.5", None, None]


def test_a_value_in_a_link_leads_nowhere_else() -> None:
    device = DescribedDevice("A/B & C?#", "x/y", "p", (), (), ())
    settings = Settings(form_links={"Wiki": "https://wiki.example.org/?q={title}"})
    ((_, address),) = make_offer(settings, device, RELEASE).links
    assert address == "https://wiki.example.org/?q=A%2FB%20%26%20C%3F%23"


def test_luci_needs_its_web_server() -> None:
    with_one = ("luci", "luci-light", "luci-ssl", "luci-ssl-openssl", "luci-nginx")
    without = ("luci-base", "luci-app-firewall", "luci-i18n-base-de", "luci-theme-bootstrap", "lucid")
    assert [name for name in (*with_one, *without) if has_web_interface([name])] == list(with_one)


def test_the_firmware_selector_is_told_of_this_server(client: AsgiClient) -> None:
    answer = client.get("/firmware-selector/config.js")
    found = told(answer.body.decode())
    assert (answer.status, answer.header("content-type")) == (200, "text/javascript; charset=utf-8")
    assert found["asu_url"] == 1 and found["asu_extra_packages"] == ["luci", "luci-app-attendedsysupgrade"]
    assert found["versions"] == ["SNAPSHOT", "24.10.5", "24.10.4"] and found["default_version"] == "24.10.5"
    assert found["image_url"] == "https://downloads.example.org" and "{title}" in str(found["info_url"])


def test_the_firmware_selector_is_told_no_more_than_it_understands() -> None:
    settings = Settings(
        provenance_key="file:/k",
        provenance_builder="https://asu.example.org",
        repository_allow_list=("https://feeds.example.org",),
        form_repositories={
            "own": "https://feeds.example.org/{branch}/{version}/{target}/{subtarget}",
            "by-arch": "https://feeds.example.org/{arch}",
        },
        form_links={"Wiki": "https://wiki.example.org/{profile}"},
    )
    found = told(firmware_selector_config(settings, [], ""))
    assert found["asu_repositories"] == {
        "own": "https://feeds.example.org/{openwrt_branch}/{openwrt_version}/{target}/{subtarget}"
    }
    assert found["asu_url"] == "https://asu.example.org"
    assert not {"info_url", "versions", "default_version"} & found.keys()
