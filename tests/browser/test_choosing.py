"""Choosing a device and its packages: as somebody types, with the keyboard alone, and when it is wrong."""

import re

import pytest
from playwright.sync_api import Page, expect

from browser.conftest import FORM, Open, Past
from browser.watched import PHONE


def focused(page: Page) -> str:
    """The id of what has the focus."""
    return str(page.evaluate("document.activeElement.id"))


def test_a_device_is_found_and_a_build_asked_for_with_the_keyboard_alone(window: Open) -> None:
    seen = window().open("/build")
    page = seen.page
    # The field to search in has the focus from the start.
    expect(page.get_by_role("combobox", name="Device")).to_be_focused()
    page.keyboard.type("widg")
    options = page.get_by_role("listbox", name="Device").get_by_role("option")
    expect(options).to_have_count(1)
    seen.require_accessible()
    page.keyboard.press("ArrowDown")
    expect(options.first).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("profile=acme_widget-5"))
    tab_to(page, "add-package")
    page.keyboard.type("sample-big")
    expect(page.get_by_role("option", name="sample-big")).to_be_visible()
    seen.require_accessible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator('.chip[data-package="sample-big"]')).to_be_visible()
    tab_to(page, "submit")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/build/[0-9a-f]{64}$"))
    expect(page.locator("#advice")).to_have_attribute("data-reason", "too_big", timeout=120_000)


def tab_to(page: Page, identity: str) -> None:
    """Presses Tab until something has the focus; fails when it never has."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if focused(page) == identity:
            return
    raise AssertionError(f"Tab never reaches #{identity}")


def test_escape_closes_the_list_and_keeps_what_was_typed(window: Open) -> None:
    page = window().open("/build").page
    field = page.get_by_role("combobox", name="Device")
    field.press_sequentially("acme")
    expect(field).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(field).to_have_attribute("aria-expanded", "false")
    expect(field).to_have_value("acme")


def test_a_device_is_chosen_with_a_finger(window: Open) -> None:
    page = window(width=PHONE).open("/build").page
    page.get_by_role("combobox", name="Device").tap()
    page.get_by_role("combobox", name="Device").press_sequentially("umbrella")
    page.get_by_role("option", name="Umbrella Combined+").tap()
    page.wait_for_url(re.compile("profile=acme_combined-v1.5"))


def test_a_misspelt_device_leads_to_the_most_alike(window: Open) -> None:
    page = window(java_script_enabled=False).open("/build?version=25.12.0&search=wigdet").page
    expect(page.locator(".devices")).to_contain_text("Acme Widget 5")


def test_a_package_that_does_not_exist_is_seen_before_the_build_and_replaced(
    window: Open, past: Past
) -> None:
    seen = window().open(FORM)
    page = seen.page
    page.get_by_role("combobox", name="Add a package").fill("sample-servise")
    page.keyboard.press("Enter")
    unknown = page.locator('[data-preview="unknown"]')
    expect(unknown).to_contain_text("sample-servise")
    seen.require_accessible()
    unknown.get_by_role("button", name="Use sample-service").click()
    expect(page.locator('.chip[data-package="sample-service"]')).to_be_visible()
    expect(unknown).to_have_count(0)


def test_the_form_begins_with_luci_and_adds_a_group_with_one_click(window: Open) -> None:
    seen = window(width=PHONE).open(FORM)
    page = seen.page
    luci = page.locator('.chip[data-package="luci"]')
    expect(luci).to_have_class(re.compile("added"))
    # Also before an ImageBuilder was used nothing is said to be impossible.
    expect(page.locator("[data-preview=untold], [data-preview=fine]")).to_be_visible()
    expect(page.locator(".chip.wrong")).to_have_count(0)
    group = page.get_by_role("button", name="WireGuard VPN")
    group.click()
    expect(page.locator('.chip[data-package="luci-proto-wireguard"]')).to_be_visible()
    expect(group).to_have_attribute("aria-pressed", "true")
    group.click()
    expect(page.locator('.chip[data-package="wireguard-tools"]')).to_have_count(0)
    for name in ("luci", "luci-app-attendedsysupgrade"):
        page.get_by_role("button", name=f"Remove {name}", exact=True).click()
    without = page.locator('[data-preview="no-web"]')
    expect(without).to_be_visible()
    seen.require_accessible()
    without.get_by_role("button").click()
    expect(luci).to_be_visible()
    expect(without).to_have_count(0)
    expect(page.get_by_role("link", name="OpenWrt's page of this device")).to_have_attribute(
        "href", re.compile("q=Acme%20Widget%205")
    )
    # What is said of a list at once does not stand in for its preview.
    seen.open(f"{FORM}&packages=htop&diff_packages=1")
    expect(page.locator('[data-preview="added"]')).to_contain_text("htop")
    page.add_script_tag(url="/firmware-selector/config.js")
    assert page.evaluate("config.asu_url === location.origin && config.versions.length > 1")


@pytest.mark.long
def test_a_value_that_cannot_be_is_explained_at_its_field(window: Open) -> None:
    seen = window().open(FORM)
    page = seen.page
    page.get_by_text("Options", exact=True).click()
    page.locator("#rootfs_size_mb").fill("a lot")
    seen.expect_problem("status of 4[0-9][0-9]")
    page.locator("#submit").click()
    expect(page.locator("#rootfs_size_mb")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#rootfs_size_mb")).to_have_value("a lot")
    expect(page.locator("#wrong")).to_be_visible()
    assert focused(page) == "rootfs_size_mb"
    seen.require_accessible()


def test_an_address_that_names_no_build_says_so(window: Open) -> None:
    seen = window().open(f"/build/{'0' * 64}", status=404)
    expect(seen.page.get_by_role("heading", level=1)).to_have_text("Build not found")
    seen.require_accessible()
