"""What holds for each page: everybody can read it and use it, on whatever screen."""

import re
from typing import NamedTuple

import pytest
from playwright.sync_api import expect

from browser.conftest import FORM, Open, Past
from browser.pictures import Pictures
from browser.watched import DESKTOP, PHONE, Faults, Window


class Place(NamedTuple):
    """A page as somebody sees it."""

    path: str
    signed_in: bool = False


PAGES = {
    "overview": Place("/"),
    "status": Place("/status"),
    "health": Place("/health"),
    "interface": Place("/docs"),
    "device": Place("/build?version=25.12.0&search=acme"),
    "form": Place("/build?version=25.12.0&target=pico/nine&profile=acme_widget-5"),
    "form-wrong": Place(
        "/build?version=25.12.0&target=pico/nine&profile=acme_widget-5"
        "&packages=luci-app-attendedsysupgrad+sample-conflict-a+sample-conflict-b+sample-needs-broken"
    ),
    "compare": Place(
        "/compare?from_version=24.10.5&version=25.12.0&target=pico/nine&profile=acme_widget-5"
        "&packages=luci+sample-uses-lib"
    ),
    "build-completed": Place("/build/{built}"),
    "build-failed": Place("/build/{failed}"),
    "queue": Place("/queue"),
    "queue-operator": Place("/queue", signed_in=True),
    "statistics": Place("/statistics"),
    "configuration": Place("/configuration", signed_in=True),
}

LOOKS: dict[str, dict[str, object]] = {
    "desktop": {"width": DESKTOP},
    "phone": {"width": PHONE},
    "dark": {"width": DESKTOP, "color_scheme": "dark"},
    "german": {"width": PHONE, "locale": "de-DE"},
}
NEW_IN = {
    "desktop": Faults.ALL,
    "phone": Faults.OF_SHAPE,
    "dark": Faults.OF_COLOUR,
    "german": Faults.ALL,
}
NARROWEST = 320
"""CSS pixels: what WCAG 1.4.10 asks for, a wide window at 400 %."""


USUAL = {"overview", "form", "form-wrong", "build-completed", "build-failed", "queue-operator"}
"""Pages that most visits are to; the others are looked at with the long tests."""


@pytest.fixture(
    params=[pytest.param(name, marks=() if name in USUAL else pytest.mark.long) for name in PAGES]
)
def name(request: pytest.FixtureRequest, past: Past) -> str:
    """Each page, once there is something on it."""
    return str(request.param)


@pytest.fixture
def see(name: str, past: Past, window: Open) -> Open:
    """Opens this test's page in a new window."""

    def opened(**options: object) -> Window:
        place = PAGES[name]
        path = place.path.format(built=past.built, failed=past.failed)
        return window(signed_in=place.signed_in, **options).open(path)

    return opened


@pytest.mark.parametrize(
    "look", [pytest.param(look, marks=() if look == "desktop" else pytest.mark.long) for look in LOOKS]
)
def test_a_page_has_no_serious_fault_of_access(name: str, look: str, see: Open, pictures: Pictures) -> None:
    seen = see(**LOOKS[look])
    seen.require_accessible(NEW_IN[look])
    seen.require_no_sideways_scrolling()
    if look != "german":
        pictures.take(seen, f"{name}-{look}")


@pytest.mark.long
def test_a_page_can_be_read_without_script_used_without_mouse_and_fits_the_narrowest_screen(
    see: Open,
) -> None:
    """Whole sentences and figures; only what acts is left out."""
    # One window for all three: opening one costs more than each of them.
    seen = see()
    with_script = words_of(seen)
    without = words_of(see(java_script_enabled=False))
    assert len(without) > 20
    # The form's preview waits to be asked for.
    preview = seen.page.locator("#preview")
    expected = with_script - (set(preview.inner_text().split()) if preview.count() else set())
    assert len(expected & without) >= 0.7 * len(expected), expected - without

    stops = seen.tab_stops()
    assert "Skip to the content" in stops[0], "everything is reached by the keyboard"
    assert sum('href="/' in stop for stop in stops) >= 5
    seen.require_no_sideways_scrolling(width=NARROWEST)


def test_times_are_in_the_zone_of_the_log_and_the_tooltip_has_the_readers_own(
    window: Open, past: Past
) -> None:
    page = window(timezone_id="Asia/Kolkata", locale="en-GB").open(f"/build/{past.built}").page
    moment = page.locator("time").first
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", moment.text_content() or "")
    page.wait_for_function("document.querySelector('time').title.includes('GMT+5:30')")


def words_of(window: Window) -> set[str]:
    """Words that a reader sees, also in fields."""
    main = window.page.locator("main")
    fields = main.locator("textarea:visible").all()
    return set(" ".join([main.inner_text(), *(field.input_value() for field in fields)]).split())


def test_the_skip_link_leads_past_the_navigation(window: Open) -> None:
    page = window().open("/").page
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_the_page_that_one_is_at_is_marked(window: Open) -> None:
    page = window().open("/").page
    assert page.locator("nav [aria-current=page]").all_inner_texts() == ["Overview"]


def test_scripts_speak_the_language_of_the_page_and_another_one_is_chosen_where_one_is(window: Open) -> None:
    page = window(locale="de-DE").open(FORM).page
    assert page.locator("html").get_attribute("lang") == "de"
    expect(page.locator("#add-package")).to_have_attribute("placeholder", "Paket hinzufügen")
    page.get_by_role("button", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("#add-package")).to_have_attribute("placeholder", "Add a package")
    # The form of the same device, though its address has a query.
    assert "profile=acme_widget-5" in page.url
