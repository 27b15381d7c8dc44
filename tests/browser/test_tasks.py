"""Eight tasks of somebody with a router: how many clicks, keystrokes and seconds each takes."""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Locator, Page, expect

from browser.conftest import FORM, Open, Past
from browser.watched import Window


@dataclass
class Effort:
    """What a task has taken so far."""

    page: Page
    clicks: int = 0
    keystrokes: int = 0
    started: float = field(default_factory=time.monotonic)

    def click(self, what: Locator) -> None:
        """With the mouse."""
        what.click()
        self.clicks += 1

    def type(self, what: Locator, text: str) -> None:
        """Into a field, which is clicked first unless it has the focus."""
        if not what.evaluate("element => element === document.activeElement"):
            self.click(what)
        self.page.keyboard.type(text)
        self.keystrokes += len(text)


def find_a_misspelt_device(seen: Window, effort: Effort) -> None:
    page = seen.open("/build").page
    effort.type(page.get_by_role("combobox", name="Device"), "wigdet")
    effort.click(page.get_by_role("option", name="Acme Widget 5").first)
    page.wait_for_url(re.compile("profile=acme_widget-5"))


def get_the_official_image(seen: Window, effort: Effort) -> None:
    page = seen.open(FORM).page
    link = page.locator("#official").get_by_role("link").first
    address = link.get_attribute("href") or ""
    # The one thing that may leave this host: a link that somebody follows.
    seen.expect_problem(re.escape(f"left the host: {address}"))
    seen.context.route(address, lambda route: route.fulfill(status=204))
    with page.expect_request(address):
        effort.click(link)


def add_two_packages(seen: Window, effort: Effort) -> None:
    page = seen.open(FORM).page
    field = page.get_by_role("combobox", name="Add a package")
    for name in ("tmux", "htop"):
        effort.type(field, name[:3])
        effort.click(page.get_by_role("option", name=name).first)
        expect(page.locator(f'.chip[data-package="{name}"]')).to_be_visible()


def set_a_first_boot_script(seen: Window, effort: Effort) -> None:
    page = seen.open(FORM).page
    effort.click(page.get_by_text("Options", exact=True))
    effort.type(page.locator("#defaults"), "uci set system.@system[0].hostname=attic")
    expect(page.locator("#defaults")).to_have_value(re.compile("attic"))


def repair_a_wrong_name(seen: Window, effort: Effort) -> None:
    page = seen.open(FORM + "&packages=luci+sample-servise&diff_packages=0").page
    effort.click(page.get_by_role("button", name="Use sample-service"))
    expect(page.locator('.chip[data-package="sample-service"]')).to_be_visible()


def share(seen: Window, effort: Effort) -> None:
    page = seen.open(FORM + "&packages=htop&diff_packages=0").page
    effort.click(page.get_by_role("button", name="Copy the link"))
    expect(page.locator("#form-said")).to_contain_text("copied")
    assert "htop" in page.evaluate("navigator.clipboard.readText()")


def come_back_tomorrow(seen: Window, effort: Effort) -> None:
    page = seen.open(FORM + "&packages=htop&diff_packages=0").page
    page.get_by_role("button", name="Remember in this browser").click()
    page.goto("/build")
    effort.started = time.monotonic()
    effort.click(page.locator("#favourites").get_by_role("link"))
    expect(page.locator('.chip[data-package="htop"]')).to_be_visible()


def upgrade_the_router(seen: Window, effort: Effort) -> None:
    page = seen.open(FORM + "&packages=sample-uses-lib&diff_packages=0").page
    effort.click(page.locator("#submit"))
    images = page.locator("#images")
    images.wait_for()
    with page.expect_download() as download:
        effort.click(images.locator("[data-type*=sysupgrade]").get_by_role("link").first)
    assert "sysupgrade" in download.value.suggested_filename


TASKS: dict[Callable[[Window, Effort], None], int] = {
    find_a_misspelt_device: 2,
    get_the_official_image: 1,
    add_two_packages: 6,
    set_a_first_boot_script: 3,
    repair_a_wrong_name: 2,
    share: 1,
    come_back_tomorrow: 1,
    upgrade_the_router: 2,
}
"""Each with the clicks that it may take."""


@pytest.mark.long
def test_eight_tasks_take_few_clicks(window: Open, past: Past, capsys: pytest.CaptureFixture[str]) -> None:
    taken = {}
    lines = [f"{'task':28}{'clicks':>8}{'at most':>9}{'keystrokes':>12}{'seconds':>9}"]
    for task, most in TASKS.items():
        seen = window(permissions=["clipboard-read", "clipboard-write"], accept_downloads=True)
        effort = Effort(seen.page)
        task(seen, effort)
        seconds = time.monotonic() - effort.started
        taken[task] = effort.clicks
        name = task.__name__.replace("_", " ")
        lines.append(f"{name:28}{effort.clicks:8}{most:9}{effort.keystrokes:12}{seconds:9.1f}")
    with capsys.disabled():
        sys.stdout.write("\n".join(["", *lines, ""]))
    assert {task.__name__: clicks for task, clicks in taken.items() if clicks > TASKS[task]} == {}
