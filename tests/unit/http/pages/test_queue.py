"""The queue's page: what anybody sees, what a token shows, what an operator does."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from asgi_client import Answer, AsgiClient
from asu_builder.database.preflight import SqlPreflightRecords
from asu_builder.domain.errors import FailureReason
from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import Job, JobState, Priority, Retention
from asu_builder.http.pages import queue as queue_page
from database_clock import at_time
from factories import NOON, a_failure, a_result, a_submission
from visitors import BUILDER, OPERATOR, READER, TOKENS
from web_scene import Scene

HOUR = timedelta(hours=1)
FORM = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, tokens=TOKENS)


def submit(scene: Scene, name: str = "vim", **changes: Any) -> Job:
    return at_time(scene.queue, NOON - HOUR / 4).submit(a_submission(packages=(name,), **changes)).job


def build(scene: Scene) -> Job:
    claimed = at_time(scene.queue, NOON - HOUR / 6).claim("w/1", lease_for=HOUR)
    assert claimed is not None
    return claimed[0]


def finish(scene: Scene, *, well: bool = True) -> Job:
    claimed = at_time(scene.queue, NOON - HOUR / 6).claim("w/1", lease_for=HOUR)
    assert claimed is not None
    job, lease = claimed
    outcome = a_result() if well else a_failure(FailureReason.TOO_BIG)
    at_time(scene.queue, NOON - HOUR / 7).finish(lease, outcome, Retention(HOUR))
    return job


def text(answer: Answer) -> str:
    """What a reader reads: no tags, single spaces."""
    assert answer.status == 200, answer.body
    body = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", answer.body.decode(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def figures(answer: Answer) -> dict[str, str]:
    pairs = re.findall(r"<dt>(?:<a[^>]*>)?([^<]+)(?:</a>)?</dt><dd>([^<]+)</dd>", answer.body.decode())
    return dict(pairs)


def act(client: AsgiClient, headers: dict[str, str] | None = None, **fields: str) -> Answer:
    given = {"sure": "yes", **fields}
    return client.post("/queue/acts", urlencode(given).encode(), {**FORM, **(headers or OPERATOR)})


def test_anybody_sees_how_many_wait_for_what_and_how_long(client: AsgiClient, scene: Scene) -> None:
    for name in ("a", "b", "c"):
        submit(scene, name)
    submit(scene, "d", version="25.12.0", target="pico/ten", priority=Priority.INTERACTIVE)
    finish(scene)
    build(scene)
    answer = client.get("/queue")
    shown = figures(answer)
    assert (shown["Waiting"], shown["Building"], shown["Longest wait now"]) == ("2", "1", "15 min")
    assert shown["Typical wait"] == "5 min" and shown["Typical build"] == "1 min 26 s"
    for word in ("24.10.5", "pico/nine", "normal"):
        assert word in text(answer)


@pytest.mark.parametrize("headers", [{}, BUILDER])
@pytest.mark.parametrize("address", ["/queue", "/queue?fragment=1", "/queue?state=pending&caller=192.0.2.1"])
def test_nobody_without_the_right_sees_a_job_a_hash_or_an_caller(
    client: AsgiClient, scene: Scene, headers: dict[str, str], address: str
) -> None:
    secrets = "correct-horse"
    jobs = [submit(scene, "a", defaults=secrets), submit(scene, secrets, caller="someone-known")]
    scene.operator().pause(operator="olga")
    scene.seconds += 1.1
    page = client.get(address, headers).body.decode()
    assert ">2<" in page
    for hidden in (*(job.request_hash for job in jobs), secrets, "someone-known", "192.0.2.1", "acme_widget"):
        assert hidden not in page
    assert 'action="/queue/acts"' not in page and "olga" not in page


def test_an_empty_queue_says_so(client: AsgiClient) -> None:
    assert "The queue is empty." in text(client.get("/queue"))


def test_why_nothing_is_built_stands_in_a_sentence(client: AsgiClient, scene: Scene) -> None:
    scene.health.part_failed("engine", "Podman does not answer.")
    assert "Builds wait for the engine. Podman does not answer." in text(client.get("/queue", READER))
    assert "Builds wait for the engine. The container engine does not work now" in text(client.get("/queue"))
    scene.health._note("engine", CheckResult("ok", "Fine."))
    scene.operator().pause(operator="olga")
    scene.seconds += 1.1
    assert "The operator has paused the workers." in text(client.get("/queue"))


def test_the_fragment_is_the_live_part_alone_and_is_counted_once_a_second(
    client: AsgiClient, scene: Scene
) -> None:
    fragment = client.get("/queue?fragment=1")
    assert fragment.body.startswith(b'<section id="live"') and b"<html" not in fragment.body
    assert fragment.header("cache-control") == "no-cache"
    submit(scene)
    assert figures(client.get("/queue?fragment=1"))["Waiting"] == "0"
    scene.seconds += 1.1
    assert figures(client.get("/queue?fragment=1"))["Waiting"] == "1"


def test_a_reader_sees_the_jobs_and_may_do_nothing(client: AsgiClient, scene: Scene) -> None:
    job = submit(scene, caller="someone-known")
    for address in ("/queue", "/queue?fragment=1"):
        page = client.get(address, READER).body.decode()
        assert f'href="/build/{job.request_hash}"' in page and "someone-known" in page
        assert 'action="/queue/acts"' not in page
    assert b'name="robots" content="noindex"' in client.get("/queue", READER).body
    assert b"noindex" not in client.get("/queue").body


def test_a_token_in_the_header_serves_as_well(client: AsgiClient, scene: Scene) -> None:
    job = submit(scene)
    assert job.request_hash in client.get("/queue", {"authorization": "Bearer may-read"}).body.decode()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "abcd"),
        ("state=failed", "a"),
        ("state=pending", "bcd"),
        ("version=24.10.4", "b"),
        ("target=pico/ten", "c"),
        ("profile=acme_widget-6", "d"),
        ("caller=bob", "bc"),
        ("caller=bob&target=pico/ten", "c"),
        ("version=nosuch", ""),
    ],
)
def test_jobs_are_filtered_by_a_form(client: AsgiClient, scene: Scene, query: str, expected: str) -> None:
    jobs = {
        "a": submit(scene, "a"),
        "b": submit(scene, "b", caller="bob", version="24.10.4"),
        "c": submit(scene, "c", caller="bob", target="pico/ten"),
        "d": submit(scene, "d", profile="acme_widget-6"),
    }
    finish(scene, well=False)
    for address in (f"/queue?{query}", f"/queue?{query}&fragment=1"):
        page = client.get(address, READER).body.decode()
        assert "".join(name for name, job in jobs.items() if job.request_hash in page) == expected


def test_a_filter_that_makes_no_sense_is_refused_in_words(client: AsgiClient) -> None:
    answer = client.get("/queue?state=lost", READER)
    assert answer.status == 400 and b"expected one of pending" in answer.body


def test_older_jobs_are_one_link_away_and_the_filter_goes_along(
    client: AsgiClient, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_page, "JOBS", 2)
    jobs = [submit(scene, f"p{number}", caller="bob") for number in range(5)]
    seen: list[str] = []
    address = "/queue?caller=bob"
    for _ in range(3):
        page = client.get(address, READER).body.decode()
        seen += re.findall(r'href="/build/([0-9a-f]{64})"', page)
        older = re.search(r'id="older" href="([^"]+)"', page)
        address = older[1].replace("&amp;", "&") if older else ""
    assert seen == [job.request_hash for job in reversed(jobs)] and address == ""


def test_a_search_looks_a_bounded_way_back_and_offers_to_go_on(
    client: AsgiClient, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_page, "LOOKED_AT", 2)
    wanted = submit(scene, "wanted", caller="bob")
    for number in range(3):
        submit(scene, f"p{number}")
    page = client.get("/queue?caller=bob", READER).body.decode()
    assert wanted.request_hash not in page and "None among the jobs from number 3 on" in page
    older = re.search(r'id="older" href="([^"]+)"', page)
    assert older is not None
    assert wanted.request_hash in client.get(older[1].replace("&amp;", "&"), READER).body.decode()


def test_what_askers_send_is_text(client: AsgiClient, scene: Scene) -> None:
    scene.queue.submit(a_submission(caller="<b>bob</b>"))
    page = client.get("/queue?caller=%22%3E%3Cscript%3Ealert(1)%3C/script%3E", READER).body.decode()
    assert "<script>alert" not in page and "&lt;script&gt;" in page
    assert "<b>bob" not in client.get("/queue", READER).body.decode()


def test_an_operator_cancels_a_job_and_is_told_so_where_it_was(client: AsgiClient, scene: Scene) -> None:
    job = submit(scene)
    answer = act(client, act="cancel", request_hash=job.request_hash, view="state=pending&before=9&evil=1")
    assert answer.status == 303
    location = answer.header("location")
    assert location == "/queue?state=pending&before=9&done=cancel"
    found = scene.queue.find(job.request_hash)
    assert found is not None and found.state is JobState.CANCELLED
    page = text(client.get(location, OPERATOR))
    assert "The job was cancelled." in page
    assert re.search(rf"olga cancel {job.request_hash[:12]}", page)


def test_an_operator_builds_again_what_has_ended(client: AsgiClient, scene: Scene) -> None:
    submit(scene)
    job = finish(scene, well=False)
    assert act(client, act="requeue", request_hash=job.request_hash).status == 303
    found = scene.queue.find(job.request_hash)
    assert found is not None and found.state is JobState.PENDING


def test_an_operator_has_a_result_forgotten_and_polls_see_it_at_once(
    client: AsgiClient, scene: Scene
) -> None:
    submit(scene)
    job = finish(scene)
    scene.builds.complete(job.request)
    assert client.get(f"/api/v1/build/{job.request_hash}").status == 200
    scene.builds.jobs.clear()
    assert act(client, act="purge", request_hash=job.request_hash).status == 303
    assert scene.queue.find(job.request_hash) is None
    assert client.get(f"/api/v1/build/{job.request_hash}").status == 404


def test_an_operator_pauses_and_resumes_the_workers(client: AsgiClient, scene: Scene) -> None:
    submit(scene)
    assert b'value="pause"' in client.get("/queue", OPERATOR).body
    act(client, act="pause")
    assert scene.queue.claim("w/1", lease_for=HOUR) is None
    page = client.get("/queue?done=pause", OPERATOR)
    assert b'value="resume"' in page.body and "The workers are paused: running builds" in text(page)
    act(client, act="resume")
    assert scene.queue.claim("w/1", lease_for=HOUR) is not None


def test_each_state_offers_the_acts_that_fit_it(client: AsgiClient, scene: Scene) -> None:
    submit(scene)

    def offered() -> list[str]:
        page = client.get("/queue?fragment=1", OPERATOR).body.decode()
        return re.findall(r'name="act" value="(cancel|requeue|purge)"', page)

    assert offered() == ["cancel"]
    job = build(scene)
    assert offered() == ["cancel", "requeue"]
    scene.queue.cancel(job.id, failure_ttl=HOUR)
    assert offered() == ["requeue", "purge"]


def test_an_act_needs_to_be_meant(client: AsgiClient, scene: Scene) -> None:
    job = submit(scene)
    answer = act(client, act="cancel", request_hash=job.request_hash, sure="")
    assert (
        answer.status == 400
        and b"tick &#34;I am sure&#34;" in answer.body
        and b'href="/queue"' in answer.body
    )
    found = scene.queue.find(job.request_hash)
    assert found is not None and found.state is JobState.PENDING


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x": "y"}, 401),
        (READER, 403),
        ({**OPERATOR, "sec-fetch-site": "cross-site"}, 403),
        ({**OPERATOR, "sec-fetch-site": "same-site"}, 403),
    ],
)
def test_nobody_else_acts(client: AsgiClient, scene: Scene, headers: dict[str, str], status: int) -> None:
    job = submit(scene)
    answer = act(client, headers, act="cancel", request_hash=job.request_hash)
    assert answer.status == status
    found = scene.queue.find(job.request_hash)
    assert found is not None and found.state is JobState.PENDING
    assert scene.operator().acts(9) == []


def test_who_signs_in_after_a_refused_act_comes_back_to_the_queue(client: AsgiClient) -> None:
    answer = act(client, {"x": "y"}, act="pause")
    assert answer.body.count(b'name="next" value="/queue"') >= 1


HEADINGS = {400: b"<h1>Request rejected</h1>", 404: b"<h1>Not found</h1>"}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"act": "explode"}, 400),
        ({"act": "cancel", "request_hash": "../../etc"}, 404),
        ({"act": "cancel", "request_hash": "0" * 64}, 404),
        ({"act": "requeue", "request_hash": "0" * 64}, 404),
        ({"act": "purge", "request_hash": "0" * 64}, 404),
    ],
)
def test_what_cannot_be_done_is_told_on_a_page(
    client: AsgiClient, fields: dict[str, str], status: int
) -> None:
    answer = act(client, None, **fields)
    assert answer.status == status and HEADINGS[status] in answer.body


def test_what_has_ended_cannot_be_cancelled(client: AsgiClient, scene: Scene) -> None:
    submit(scene)
    job = finish(scene)
    assert act(client, act="cancel", request_hash=job.request_hash).status == 409


def test_a_notice_says_only_sentences_of_ours(client: AsgiClient) -> None:
    assert b"notice ok" not in client.get("/queue?done=%3Cb%3Eowned").body


def test_the_page_answers_head_without_a_body_of_its_own(client: AsgiClient) -> None:
    assert client.request("HEAD", "/queue").status == 200


def test_times_are_never_below_zero_when_the_clock_is_behind(client: AsgiClient, scene: Scene) -> None:
    at_time(scene.queue, NOON + timedelta(minutes=1)).submit(a_submission())
    assert figures(client.get("/queue"))["Longest wait now"] == "0.0 s"
    assert "waiting for 0.0 s" in text(client.get("/queue", READER))


def test_an_act_on_a_target_is_no_link_to_a_build(client: AsgiClient, scene: Scene) -> None:
    operator = scene.operator()
    records = SqlPreflightRecords(scene.database)
    records.note_sample("releases/24.10.5", "pico/nine", disagreement="wrong")
    operator.enforce("24.10.5", "pico/nine", operator="olga")
    page = client.get("/queue", OPERATOR).body.decode()
    assert "<td>24.10.5 pico/nine</td>" in page
