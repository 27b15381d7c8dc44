"""What somebody has chosen is kept: in the address, in the tab, in the browser, and for another device."""

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from browser.conftest import A_REQUEST, FORM, Open, Past, Site
from browser.watched import PHONE, Window
from podman_service import APK_VERSION, OPKG_VERSION, SAMPLE_TARGET

CANARY = "canary-4711"
SCRIPT = f"echo {CANARY}"


def test_the_choice_is_in_the_address_and_what_is_private_in_this_tab_alone(
    window: Open, site: Site, past: Past
) -> None:
    seen = window(permissions=["clipboard-read", "clipboard-write"]).open(FORM)
    page = seen.page
    page.get_by_role("combobox", name="Add a package").fill("htop")
    page.keyboard.press("Enter")
    page.get_by_text("Options", exact=True).click()
    page.locator("#on_missing").check()
    page.locator("#defaults").fill(SCRIPT)
    page.wait_for_url(re.compile("on_missing=drop"))
    page.get_by_role("button", name="Copy the link").click()
    expect(page.locator("#form-said")).to_contain_text("the first-boot script")
    shared = page.evaluate("navigator.clipboard.readText()")
    assert shared == page.url and "htop" in shared
    page.get_by_role("button", name="Remember in this browser").click()

    page.reload()
    expect(page.locator('.chip[data-package="htop"]')).to_be_visible()
    expect(page.locator("#defaults")).to_have_value(SCRIPT)
    expect(page.locator("#on_missing")).to_be_checked()
    seen.require_accessible()

    # Who gets the link has all but what is private; a favourite holds as little.
    other = seen.context.new_page()
    other.goto("/")
    other.locator("#favourites").get_by_role("link").click()
    expect(other.locator('.chip[data-package="htop"]')).to_be_visible()
    expect(other.locator("#defaults")).to_have_value("")
    assert parse_qs(urlsplit(other.url).query) == parse_qs(urlsplit(shared).query)

    page.locator("#submit").click()
    page.wait_for_url(re.compile("/build/[0-9a-f]{64}"))
    page.go_back()
    expect(page.locator('.chip[data-package="htop"]')).to_be_visible()
    expect(page.locator("#defaults")).to_have_value(SCRIPT)
    assert page.url == shared
    assert CANARY in page.evaluate("JSON.stringify(sessionStorage)")
    assert CANARY not in "\n".join([*told_by(seen), other.url, site.service.stderr()])


def told_by(seen: Window) -> Iterator[str]:
    """Everything that a server, its log or a page that is left might learn, without the bodies of forms."""
    for request in seen.requests:
        yield f"{request.url} {request.all_headers()}"
    yield seen.page.url
    yield str(seen.page.evaluate("JSON.stringify(localStorage) + document.cookie"))


_NOTES = """
window.told = [];
window.Notification = class extends EventTarget {
  static permission = "default";
  static async requestPermission() { return "granted"; }
  constructor(title) { super(); told.push(title); }
};
"""
"""Notifications that are noted: a browser without a screen shows none."""


@pytest.mark.long
def test_a_notification_tells_when_a_build_is_done(window: Open) -> None:
    seen = window()
    seen.context.add_init_script(_NOTES)
    page = seen.open(f"{FORM}&packages=sample-slow+htop&diff_packages=0").page
    page.locator("#submit").click()
    page.get_by_label("Tell me when it is done").check()
    page.wait_for_function("() => told.length === 1")
    assert "Acme Widget 5" in page.evaluate("told[0]")
    expect(page.get_by_label("Tell me when it is done")).to_be_hidden()


@pytest.mark.long
def test_packages_go_along_to_another_version_and_device(window: Open) -> None:
    seen = window().open(FORM)
    page = seen.page
    page.get_by_role("combobox", name="Add a package").fill("htop sample-nosuch")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Remove ppp-mod-pppoe").click()
    page.locator("#version").select_option(OPKG_VERSION)
    page.get_by_role("button", name="Change").click()
    expect(page.locator("#kept")).to_contain_text(APK_VERSION)
    expect(page.locator("#kept")).to_contain_text("sample-nosuch")
    expect(page.locator('.chip[data-package="htop"]')).to_be_visible()
    assert page.locator('.chip[data-package="ppp-mod-pppoe"]').count() == 0
    assert "was=" not in page.url
    page.get_by_role("link", name="Choose another device").click()
    page.get_by_role("combobox", name="Device").press_sequentially("umbrella")
    page.get_by_role("option", name="Umbrella Combined+").click()
    page.wait_for_url(re.compile("profile=acme_combined"))
    expect(page.locator('.chip[data-package="htop"]')).to_be_visible()
    assert page.locator('.chip[data-package="kmod-acme-usb"]').count() == 0, "the other device's own"
    # Without a script too.
    plain = window(java_script_enabled=False).open(FORM + "&packages=htop&diff_packages=1").page
    plain.locator("#version").select_option(OPKG_VERSION)
    plain.get_by_role("button", name="Change").click()
    # A default package that is new in the other version comes along.
    expect(plain.locator("#packages")).to_have_value("opkg htop")
    expect(plain.locator("#kept")).to_be_visible()


@pytest.mark.long
def test_a_hundred_and_fifty_packages_are_usable_on_a_phone(window: Open) -> None:
    seen = window(width=PHONE).open(FORM)
    page = seen.page
    page.get_by_role("button", name="Edit as text").tap()
    names = [f"kmod-sample-package-{number:03}" for number in range(150)]
    page.locator("#packages").fill(" ".join(names))
    expect(page.locator("#all-packages")).to_be_visible()
    page.wait_for_function("() => location.search.includes('kmod-sample-package-149')")
    assert len(page.url) < 8192
    expect(page.locator("#submit")).to_be_in_viewport()
    page.reload()
    expect(page.locator(".chip")).to_have_count(150)
    seen.require_no_sideways_scrolling()
    expect(page.locator("#submit")).to_be_in_viewport()


@pytest.mark.long
def test_a_device_that_is_not_in_a_version_leads_to_those_that_have_it(window: Open) -> None:
    page = (
        window(java_script_enabled=False)
        .open(f"/build?version={OPKG_VERSION}&search=nothing+of+this+kind")
        .page
    )
    expect(page.locator("#elsewhere")).to_have_count(0)
    query = f"version=21.02.0&target={SAMPLE_TARGET}&profile={A_REQUEST['profile']}"
    seen = window(java_script_enabled=False).open(f"/build?{query}", status=404)
    expect(seen.page.locator("#elsewhere")).to_contain_text(APK_VERSION)
    seen.page.locator("#elsewhere").get_by_role("link").first.click()
    expect(seen.page.locator("#build-form")).to_be_visible()


def test_official_images_come_first_in_german_too(window: Open) -> None:
    seen = window(locale="de-DE", width=PHONE).open(FORM)
    official = seen.page.locator("#official")
    link = official.get_by_role("link").first
    expect(link).to_have_attribute("href", re.compile(rf"/releases/{APK_VERSION}/targets/{SAMPLE_TARGET}/"))
    expect(official.locator("code").first).to_have_text(re.compile("[0-9a-f]{64}"))
    expect(official.get_by_role("heading")).to_have_text("Offizielle Images")
    expect(seen.page.get_by_role("button", name="Link kopieren")).to_be_visible()
    seen.require_accessible()
    seen.require_no_sideways_scrolling()
