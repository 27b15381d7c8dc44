"""Somebody chooses a device, asks for an image, watches it being built, and takes it home."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, WebSocketRoute, expect

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from browser.conftest import FORM, Open, get_to_know_upstream
from browser.pictures import Pictures
from browser.watched import DESKTOP, PHONE, Faults, Window
from e2e.conftest import local_settings
from e2e.service import Service
from e2e.slow_imagebuilder import write_slow_imagebuilder
from podman_service import APK_VERSION, SAMPLE_TARGET

HASH = re.compile(r"/build/([0-9a-f]{64})$")
HOSTILE = '</pre><script>document.title = "taken"</script><img src=x onerror=document.title=1><b>&amp;</b>'
BUILDS_WITHIN = 120_000
"""Milliseconds; many times what a build takes."""


def ask_for(window: Window, packages: str) -> None:
    """Fills the form and sends it; returns at the build's own page."""
    window.open(FORM)
    for name in packages.split():
        window.page.get_by_role("combobox", name="Add a package").fill(name)
        window.page.keyboard.press("Enter")
        window.page.locator(f'.chip[data-package="{name}"]').wait_for()
    window.page.locator("#submit").click()
    window.page.wait_for_url(HASH)


def expect_completed(page: Page) -> None:
    """Waits until the page says by itself that the images are there."""
    expect(page.locator("#state")).to_have_text("Completed", timeout=BUILDS_WITHIN)
    expect(page.locator("#images li").first).to_be_visible()


def expect_log_to_grow(page: Page) -> None:
    """Waits until there is more in the log than now, and still no end of the build."""
    before = page.locator("#log").inner_text()
    page.wait_for_function(
        "(length) => document.getElementById('log').innerText.length > length", arg=len(before)
    )
    assert page.locator("#log").inner_text().startswith(before.rstrip())


def test_a_build_is_watched_live_and_its_image_is_what_the_page_says(
    window: Open, pictures: Pictures, tmp_path: Path
) -> None:
    seen = window()
    ask_for(seen, "sample-slow-5")
    page = seen.page
    steps = page.locator("#stages [aria-current=step]")
    expect(steps).to_have_attribute("data-step", "building_image", timeout=BUILDS_WITHIN)
    expect_log_to_grow(page)
    expect_log_to_grow(page)
    seen.require_accessible()
    pictures.take(seen, "build-live-desktop")
    expect_completed(page)
    require_download(page, tmp_path)


def require_download(page: Page, folder: Path) -> None:
    """Takes the first image; fails when it has another SHA-256 than the page shows."""
    first = page.locator("#images li").first
    with page.expect_download() as begun:
        first.get_by_role("link", name="Download").click()
    kept = folder / begun.value.suggested_filename
    begun.value.save_as(kept)
    assert kept.name == first.locator(".file").inner_text()
    shown = first.locator(".digest code").inner_text()
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == shown


@pytest.mark.long
@pytest.mark.parametrize("look", ["phone", "dark"])
def test_a_running_build_can_be_read_on_a_phone_and_in_the_dark(
    look: str, window: Open, pictures: Pictures
) -> None:
    seen = window(
        width=PHONE if look == "phone" else DESKTOP, color_scheme="dark" if look == "dark" else "light"
    )
    ask_for(seen, f"sample-slow-60 sample-{'service' if look == 'phone' else 'uses-lib'}")
    expect(seen.page.locator("#log .line").first).to_be_visible()
    seen.require_accessible(Faults.OF_COLOUR if look == "dark" else Faults.OF_SHAPE)
    seen.require_no_sideways_scrolling()
    pictures.take(seen, f"build-live-{look}")
    seen.page.locator("#cancel").click()
    expect(seen.page.locator("#state")).to_have_text("Cancelled", timeout=BUILDS_WITHIN)


def test_a_failure_is_explained_and_its_correction_is_one_click_away(window: Open) -> None:
    seen = window()
    ask_for(seen, "sample-servise")
    page = seen.page
    expect(page.locator("#state")).to_have_text(re.compile("Failed|Not built"), timeout=BUILDS_WITHIN)
    expect(page.locator("#advice")).to_contain_text("sample-servise")
    expect(page.locator("#advice")).to_have_attribute("data-reason", "impossible_selection")
    failed = page.url
    page.locator("#corrections").get_by_role("button", name="sample-service").click()
    page.wait_for_url(HASH)
    assert page.url != failed
    expect_completed(page)
    expect(page.locator("#manifest")).to_contain_text("sample-service")


@pytest.mark.long
def test_a_build_is_watched_where_no_websocket_comes_through(window: Open) -> None:
    seen = window()
    sockets: list[str] = []

    def refuse(socket: WebSocketRoute) -> None:
        sockets.append(socket.url)
        socket.close()

    seen.context.route_web_socket(re.compile(""), refuse)
    ask_for(seen, "sample-slow-5 sample-uses-lib sample-service")
    expect(seen.page.locator("#log .line").first).to_be_visible()
    expect_log_to_grow(seen.page)
    expect_completed(seen.page)
    assert sockets


@pytest.mark.long
def test_whoever_closes_the_page_finds_the_build_at_its_address(window: Open) -> None:
    seen = window()
    ask_for(seen, "sample-slow-5 sample-big")
    address = seen.page.url
    expect(seen.page.locator("#log .line").first).to_be_visible()
    again = window()
    again.page.goto(address)
    expect(again.page.locator("#log .line").first).to_be_visible()
    seen.page.close()
    expect(again.page.locator("#state")).to_have_text(re.compile("Completed|Failed"), timeout=BUILDS_WITHIN)


@pytest.mark.long
def test_a_build_that_nobody_wants_any_more_is_cancelled(window: Open) -> None:
    seen = window()
    ask_for(seen, "sample-slow-60")
    seen.page.locator("#cancel").click()
    expect(seen.page.locator("#state")).to_have_text("Cancelled", timeout=BUILDS_WITHIN)
    seen.require_accessible()


def test_everything_goes_without_script(window: Open, tmp_path: Path) -> None:
    seen = window(java_script_enabled=False, width=PHONE).open("/build")
    page = seen.page
    page.locator("#version").select_option("24.10.5")
    page.locator("#search").fill("umbrella")
    page.locator("#find").click()
    page.get_by_role("link", name="Umbrella Combined+").click()
    page.locator("#packages").fill("sample-service")
    page.locator("#check").click()
    expect(page.locator("#preview")).to_contain_text("sample-service")
    page.locator("#submit").click()
    # The page itself asks again after five seconds.
    expect_completed(page)
    require_download(page, tmp_path)


@pytest.fixture
def hostile(
    browser: Browser, sample_world: Distribution, browser_upstream: DownloadServer, tmp_path: Path
) -> Iterator[Window]:
    """A window at a service whose ImageBuilder prints what a page could take for its own."""
    template = write_slow_imagebuilder(
        sample_world, tmp_path / "builders", version=APK_VERSION, target=SAMPLE_TARGET, seconds=0
    )
    makefile = tmp_path / "builders" / APK_VERSION / SAMPLE_TARGET / "ready" / "Makefile"
    makefile.write_text(makefile.read_text().replace("@sleep 0;", f"@echo '{HOSTILE}'; sleep 2;"))
    settings = local_settings(sample_world, browser_upstream.url) | {"imagebuilder_path": template}
    service = Service(tmp_path / "service", settings)
    try:
        service.start()
        get_to_know_upstream(service)
        window = Window(browser, f"http://127.0.0.1:{service.port}")
        yield window
        window.close()
        window.require_no_problem()
    finally:
        service.end()


@pytest.mark.long
def test_what_a_build_prints_stays_text(hostile: Window) -> None:
    ask_for(hostile, "sample-postinst-fail")
    page = hostile.page
    # Once as it came live, once as the server renders it.
    expect(page.locator("#log .line", has_text=HOSTILE).first).to_be_visible(timeout=BUILDS_WITHIN)
    expect(page.locator("#state")).to_have_text("Failed", timeout=BUILDS_WITHIN)
    for _ in range(2):
        assert page.locator("#log .line", has_text=HOSTILE).count() > 0
        assert page.locator("#log :is(img, script, b)").count() == 0
        assert page.title() != "taken"
        page.reload()
