"""The queue: counts for everybody, live; jobs and acts for an operator."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from browser.conftest import A_REQUEST, Open, Past, Site
from browser.watched import Window

pytestmark = pytest.mark.long

PROFILE = "acme_safe"
SLOW = {**A_REQUEST, "profile": PROFILE, "packages": ["sample-slow-60"]}


@pytest.fixture
def slow_job(site: Site) -> Iterator[str]:
    """A job that is being built and will be for a minute, unless somebody stops it; its hash."""
    with site.service.client() as client:
        request_hash = client.started(SLOW)
    yield request_hash
    end_it(site, request_hash)


def end_it(site: Site, request_hash: str) -> None:
    """Stops a job, however far it is, and leaves no trace that would be answered next time."""
    authorization = {"Authorization": f"Bearer {site.token}"}
    with site.service.client() as client:
        client.ask("DELETE", f"/api/v1/build/{request_hash}", headers=authorization)
        client.wait(request_hash)
        client.ask("DELETE", f"/api/v1/results/{request_hash}", headers=authorization)


def test_the_queue_shows_a_new_job_and_its_end_without_a_reload(window: Open, site: Site, past: Past) -> None:
    seen = window().open("/queue")
    expect(seen.page.locator("#live")).to_contain_text("The queue is empty.")
    with site.service.client() as client:
        request_hash = client.started(SLOW)
    building = seen.page.locator(".figures > div", has_text=re.compile("^1\\s*Building|Building\\s*1"))
    building.wait_for()
    expect(seen.page.get_by_role("rowheader", name=A_REQUEST["target"])).to_be_visible()
    end_it(site, request_hash)
    expect(seen.page.locator("#live")).to_contain_text("The queue is empty.")


def test_whoever_has_no_token_finds_no_hash_and_no_device(
    window: Open, site: Site, past: Past, slow_job: str
) -> None:
    seen = window().open("/queue")
    text = seen.page.content()
    assert PROFILE not in text
    assert re.findall(r"[0-9a-f]{64}", text) == []


def test_an_operator_cancels_a_job_on_second_thought(
    window: Open, site: Site, past: Past, slow_job: str
) -> None:
    seen = window(signed_in=True).open("/queue?state=building")
    row = seen.page.get_by_role("row", name=PROFILE)
    row.get_by_text("Actions", exact=False).first.click()
    # Without the tick the browser itself says what is missing, and nothing is sent.
    row.get_by_role("button", name="Cancel").click()
    assert row.get_by_role("checkbox").evaluate("(box) => box.matches(':invalid:focus')")
    row.get_by_role("checkbox").check()
    row.get_by_role("button", name="Cancel").click()
    expect(seen.page.get_by_text("The job was cancelled.")).to_be_visible()
    with site.service.client() as client:
        answer = client.wait(slow_job)
    assert "cancel" in answer.json["detail"].lower()
    acts = seen.page.get_by_role("region", name="Audit log")
    expect(acts.get_by_role("row").nth(1)).to_contain_text("operator")


def test_an_operator_pauses_the_workers_and_lets_them_go_on(window: Open, site: Site, past: Past) -> None:
    seen = window(signed_in=True).open("/queue")
    try:
        act(seen, "Pause the workers", "Pause")
        expect(seen.page.locator(".notice.warning")).to_contain_text("has paused the workers")
        seen.require_accessible()
    finally:
        act(seen.open("/queue"), "Resume the workers", "Resume")
    expect(seen.page.get_by_text("The workers take jobs again.")).to_be_visible()


def act(window: Window, what: str, button: str) -> None:
    """Opens a part of the page, says so twice, as the page demands."""
    part = window.page.locator("details", has=window.page.get_by_text(what, exact=True))
    part.locator("summary").click()
    part.get_by_role("checkbox").check()
    part.get_by_role("button", name=button, exact=True).click()


def test_jobs_are_found_by_what_they_are(window: Open, past: Past) -> None:
    seen = window(signed_in=True, java_script_enabled=False).open("/queue")
    seen.page.get_by_text("Filter jobs").click()
    seen.page.get_by_label("State").select_option("failed")
    seen.page.get_by_label("Profile").fill("acme_widget-5")
    seen.page.get_by_role("button", name="Filter", exact=True).click()
    jobs = seen.page.get_by_role("table", name="Matching jobs")
    expect(jobs.locator("tbody tr").first).to_be_visible()
    for row in jobs.locator("tbody tr").all_inner_texts():
        assert "Failed" in row and "acme_widget-5" in row


def test_open_details_and_a_tick_survive_what_changes_meanwhile(
    window: Open, site: Site, past: Past, slow_job: str
) -> None:
    seen = window(signed_in=True).open("/queue")
    row = seen.page.get_by_role("row", name=PROFILE).first
    row.get_by_text("Actions", exact=False).first.click()
    row.get_by_role("checkbox").check()
    with seen.page.expect_response("**/queue?fragment=1"):
        pass
    with seen.page.expect_response("**/queue?fragment=1"):
        pass
    expect(row.get_by_role("checkbox")).to_be_checked()


def test_who_is_not_signed_in_is_asked_for_a_token(window: Open, site: Site) -> None:
    seen = window().open("/configuration", status=401)
    seen.page.locator("main").get_by_label("token").fill(site.token)
    seen.page.locator("main").get_by_role("button", name="Sign in").click()
    expect(seen.page.get_by_role("heading", level=1)).to_have_text("Configuration")
    assert site.token not in seen.page.content()
