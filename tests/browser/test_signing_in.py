"""An operator comes, sees more, and goes."""

import pytest

from browser.conftest import Open, Site
from browser.pictures import Pictures
from browser.watched import PHONE


def test_an_operator_signs_in_and_out_at_the_foot_of_a_page(window: Open, site: Site) -> None:
    seen = window().open("/docs")
    seen.sign_in(site.token)
    assert seen.page.url == f"{site.url}/docs"
    assert "Signed in as operator" in seen.page.locator("footer").inner_text()
    (cookie,) = seen.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    seen.page.get_by_role("button", name="Sign out").click()
    seen.page.get_by_text("Operator", exact=True).wait_for()
    assert seen.context.cookies() == []


@pytest.mark.long
def test_a_wrong_token_is_explained_and_can_be_corrected(
    window: Open, site: Site, pictures: Pictures
) -> None:
    seen = window()
    seen.open("/")
    seen.expect_problem(f"status of 401 .*{site.url}/session")
    seen.page.get_by_text("Operator", exact=True).click()
    seen.page.get_by_label("Token").fill("not-the-token")
    seen.page.get_by_role("button", name="Sign in").click()
    seen.page.get_by_role("alert").wait_for()
    seen.require_accessible()
    pictures.take(seen, "error-desktop")
    assert seen.context.cookies() == []
    seen.page.locator("main").get_by_label("token").fill(site.token)
    seen.page.locator("main").get_by_role("button", name="Sign in").click()
    seen.page.get_by_role("button", name="Sign out").wait_for()
    assert seen.page.url == f"{site.url}/"


def test_signing_in_needs_no_script(window: Open, site: Site) -> None:
    seen = window(java_script_enabled=False, width=PHONE).open("/").sign_in(site.token)
    assert "Signed in as operator" in seen.page.locator("footer").inner_text()
    seen.require_no_problem()
