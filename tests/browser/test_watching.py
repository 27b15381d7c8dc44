"""The watch over a window sees each kind of trouble that the other tests rely on it to see."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from browser.conftest import Site
from browser.watched import Window

pytestmark = pytest.mark.long

TROUBLES = {
    "an inline script": (
        "document.body.append(Object.assign(document.createElement('script'), {textContent: '1'}))",
        "Content Security Policy",
    ),
    "an inline style": ("document.body.innerHTML = '<p style=\"color: red\">'", "Content Security Policy"),
    "a picture from elsewhere": (
        "new Image().src = 'http://elsewhere.example/'",
        "Content Security Policy|elsewhere",
    ),
    "an error nobody caught": ("setTimeout(() => { throw new Error('by the test') })", "uncaught: .*by the"),
    "a promise nobody watched": ("void Promise.reject(new Error('by the test'))", "uncaught: .*by the"),
    "a warning": ("console.warn('mind the gap')", "warning: mind the gap"),
    "a missing file": ("fetch('/static/0/nothing.css')", "status of 404"),
}


@pytest.fixture
def watched(browser: Browser, site: Site) -> Iterator[Window]:
    """A window at the first page whose problems fail nothing by themselves."""
    window = Window(browser, site.url).open("/")
    yield window
    window.close()


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_is_seen(trouble: str, watched: Window) -> None:
    script, expected = TROUBLES[trouble]
    watched.require_no_problem()
    watched.page.evaluate(f"() => {{ {script} }}")
    watched.wait_for_problem(expected)
    with pytest.raises(AssertionError):
        watched.require_no_problem()
    watched.expect_problem(expected)
    watched.require_no_problem()


def test_a_request_to_another_host_is_seen_where_no_policy_forbids_it(browser: Browser, site: Site) -> None:
    window = Window(browser, site.url, bypass_csp=True).open("/")
    window.page.evaluate("fetch('http://elsewhere.example/x').catch(() => 0)")
    window.wait_for_problem("left the host: http://elsewhere.example/x")
    window.close()


def test_expected_trouble_that_does_not_come_is_a_failure(watched: Window) -> None:
    watched.expect_problem("never seen")
    with pytest.raises(AssertionError, match="never: never seen"):
        watched.require_no_problem()


def test_a_serious_fault_of_access_is_found(watched: Window) -> None:
    watched.require_accessible()
    watched.page.evaluate("document.querySelector('main').innerHTML += '<input>'")
    with pytest.raises(AssertionError, match=r"label \(critical\)"):
        watched.require_accessible()


def test_what_sticks_out_is_named(watched: Window) -> None:
    watched.require_no_sideways_scrolling()
    watched.page.evaluate("document.querySelector('h1').textContent = 'x'.repeat(500)")
    with pytest.raises(AssertionError, match="<h1"):
        watched.require_no_sideways_scrolling()


def test_a_focus_that_nobody_sees_is_found(watched: Window) -> None:
    assert watched.tab_stops(3)
    watched.page.evaluate("document.querySelectorAll('a').forEach((link) => link.style.outline = 'none')")
    with pytest.raises(AssertionError, match="the focus is not seen"):
        watched.tab_stops()
