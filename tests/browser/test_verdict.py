"""What the form foretells: while somebody types, at the package that causes it, and with its repair."""

import re
import time
from contextlib import suppress
from typing import Any

import pytest
from playwright.sync_api import Error, Locator, Page, Route, expect

from browser.conftest import FORM, Open, Past, Site
from browser.watched import DESKTOP, Window
from podman_service import OPKG_VERSION

NARROW = 360
"""CSS pixels of a small phone."""
MOST = 5
"""Previews a second."""


def add(page: Page, *names: str) -> None:
    """Adds packages as chips."""
    for name in names:
        page.get_by_role("combobox", name="Add a package").fill(name)
        page.keyboard.press("Enter")


def chip(page: Page, name: str) -> Locator:
    """The chip of a package."""
    return page.locator(f'.chip[data-package="{name}"]')


@pytest.fixture
def seen(window: Open, past: Past) -> Window:
    """The form of a device whose ImageBuilder was used before."""
    found = window().open(FORM)
    expect(found.page.locator('[data-preview="fine"]')).to_be_visible()
    return found


def test_the_verdict_follows_what_is_typed_and_few_requests_are_made(seen: Window) -> None:
    page = seen.page
    expect(page.locator('[data-preview="fine"]')).to_contain_text(re.compile(r"\d+ with.*\d B|[KM]iB", re.S))
    page.locator("#as-text").click()
    page.keyboard.press("End")
    page.keyboard.press("Control+End")
    before, began = len(seen.requests), time.monotonic()
    page.keyboard.type(" sample-conflict-a sample-conflict-b", delay=60)
    expect(chip(page, "sample-conflict-a")).to_have_class(re.compile(r"\bwrong\b"))
    expect(chip(page, "sample-conflict-b")).to_have_class(re.compile(r"\bwrong\b"))
    expect(chip(page, "dnsmasq")).not_to_have_class(re.compile(r"\bwrong\b"))
    asked = [request for request in seen.requests[before:] if request.method == "POST"]
    lasted = time.monotonic() - began
    assert 1 <= len(asked) <= 1 + MOST * lasted
    # Whatever the keyboard repeats.
    page.locator("#as-text").click()
    page.locator("#rootfs_size_mb").evaluate(
        "field => { field.closest('details').open = true; field.focus(); }"
    )
    before = len(seen.requests)
    with page.expect_response("**/build"):
        for _ in range(30):
            page.keyboard.press("Enter")
    expect(page.locator("#preview[aria-busy]")).to_have_count(0)
    assert len(seen.requests) - before <= MOST
    seen.require_accessible()


def test_an_older_answer_never_replaces_a_newer_one(seen: Window) -> None:
    page, held = seen.page, list[Route]()

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/build", hold_the_first)
    add(page, "sample-servise")
    page.wait_for_function("() => document.querySelector('#preview').ariaBusy === 'true'")
    page.wait_for_timeout(300)
    add(page, "sample-big")
    expect(page.locator('[data-preview="unknown"]')).to_contain_text("sample-servise")
    with suppress(Error):  # nobody waits for it any more
        held[0].fulfill(content_type="text/html", body="<p>An older answer</p>")
    page.wait_for_timeout(100)
    assert "An older answer" not in page.locator("#preview").inner_text()
    expect(page.locator('[data-preview="added"]')).to_contain_text("sample-big")


@pytest.mark.parametrize(
    ("packages", "wrong", "button", "gone"),
    [
        (("sample-servise",), "sample-servise", "Use sample-service", "sample-servise"),
        (
            ("sample-needs-broken",),
            "sample-needs-broken",
            "Remove sample-needs-broken",
            "sample-needs-broken",
        ),
        (
            ("sample-conflict-a", "sample-conflict-b"),
            "sample-conflict-a",
            "Remove sample-conflict-b",
            "sample-conflict-b",
        ),
    ],
)
def test_one_click_repairs_what_cannot_be_installed(
    seen: Window, packages: tuple[str, ...], wrong: str, button: str, gone: str
) -> None:
    page = seen.page
    add(page, *packages)
    expect(chip(page, wrong)).to_have_class(re.compile(r"\bwrong\b"))
    assert chip(page, wrong).get_attribute("title")
    page.locator("#preview").get_by_role("button", name=button).click()
    expect(page.locator('[data-preview="fine"]')).to_be_visible()
    expect(chip(page, gone)).to_have_count(0)
    expect(page.locator(".chip.wrong")).to_have_count(0)


@pytest.mark.long
def test_packages_that_do_not_exist_are_left_out_on_request(seen: Window) -> None:
    page = seen.page
    add(page, "sample-servise")
    expect(page.locator('[data-preview="unknown"]')).to_be_visible()
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Leave out packages that do not exist").check()
    expect(page.locator('[data-preview="left-out"]')).to_contain_text("sample-servise")
    expect(page.locator('[data-preview="fine"]')).to_be_visible()
    seen.require_accessible()
    page.locator("#submit").click()
    expect(page.locator("#state")).to_have_text("Completed")
    expect(page.locator("#dropped")).to_contain_text("sample-servise (did you mean sample-service?)")
    page.locator("#request summary").click()
    page.locator("#today").click()
    expect(page.locator("#unchanged")).to_contain_text("Nothing has changed")
    seen.require_accessible()


@pytest.mark.long
def test_a_request_that_is_refused_says_why_and_leads_on(window: Open, site: Site, past: Past) -> None:
    seen = window(width=NARROW)
    for number in range(3):  # one a minute is built all the same, to prove the verdict
        seen.open(f"{FORM}&packages=sample-servise+no-such-{number}")
        seen.page.locator("#submit").click()
        expect(seen.page.locator("#state")).to_have_text(re.compile("Failed|Not built"))
        if seen.page.locator("#refused").count():
            break
    page = seen.page
    expect(page.locator("#state")).to_have_text("Not built")
    expect(page.locator("#refused")).to_contain_text("no build was started")
    seen.require_accessible()
    seen.require_no_sideways_scrolling()
    page.locator("#corrections").get_by_role("button", name="Build without").click()
    expect(page.locator("#state")).to_have_text("Completed")


def test_what_cannot_be_told_yet_is_said_kindly(window: Open, past: Past) -> None:
    page = window().open(FORM.replace("25.12.0", "25.12.0-rc1")).page
    untold = page.locator('[data-preview="untold"]')
    expect(untold).to_contain_text("All packages exist")
    expect(untold).to_contain_text("the build itself finds out")
    expect(untold).to_contain_text("has not been used here yet")


@pytest.mark.long
@pytest.mark.parametrize(
    "options", [{}, {"java_script_enabled": False, "width": NARROW}, {"color_scheme": "dark"}]
)
def test_what_an_update_changes_is_seen_from_the_form(window: Open, past: Past, options: Any) -> None:
    seen = window(**{"width": DESKTOP, **options}).open(FORM)
    page = seen.page
    page.locator("#compare summary").click()
    page.locator("#from_version").select_option(OPKG_VERSION)
    page.locator("#compare").get_by_role("button", name="Compare").click()
    page.wait_for_url(re.compile("/compare"))
    expect(page.locator("#summary")).to_contain_text("upgraded")
    expect(page.locator("#summary")).to_contain_text("→")
    if options.get("java_script_enabled", True):
        seen.require_accessible()
    seen.require_no_sideways_scrolling()


@pytest.mark.long
def test_a_build_is_compared_with_another_version_and_another_build(window: Open, past: Past) -> None:
    seen = window().open(f"/build/{past.built}")
    page = seen.page
    page.locator("#request summary").click()
    page.locator("#what-changes").click()
    expect(page.locator("#compare-form")).to_be_visible()
    seen.open(f"/build/{past.built}").page.locator("#request summary").click()
    page.locator("#compare-with").click()
    page.get_by_label("Second build").fill(past.older)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#summary")).to_contain_text("the same")
    seen.require_accessible()
