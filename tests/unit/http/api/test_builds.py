"""What is cached, for how long, and what many callers at once cost."""

import asyncio
import threading

import pytest

from asgi_client import AsgiClient
from asu_builder.domain.errors import FailureReason
from asu_builder.http.api.builds import FINAL_SECONDS, LIVE_SECONDS
from asu_builder.http.fast_path import FastPath
from factories import a_request
from fake_builds import CANCEL_TOKEN, FakeBuilds, a_body
from web_scene import Scene

BUILD = "/api/v1/build"


def test_a_live_job_is_looked_at_once_a_second(client: AsgiClient, scene: Scene, builds: FakeBuilds) -> None:
    path = f"{BUILD}/{builds.build()}"
    for _ in range(10):
        client.get(path)
    assert builds.looks == 1
    scene.seconds += LIVE_SECONDS
    client.get(path)
    assert builds.looks == 2


def test_a_live_answer_is_never_older_than_about_a_second(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    path = f"{BUILD}/{builds.build()}"
    assert client.get(path).status == 202
    builds.complete()
    scene.seconds += LIVE_SECONDS
    assert client.get(path).status == 200


def test_a_final_job_is_looked_at_every_five_seconds(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    path = f"{BUILD}/{builds.complete()}"
    for _ in range(10):
        scene.seconds += FINAL_SECONDS / 10
        client.get(path)
    assert builds.looks == 1
    scene.seconds += FINAL_SECONDS
    client.get(path)
    assert builds.looks == 2


def test_a_forgotten_result_is_404_within_five_seconds(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    path = f"{BUILD}/{builds.complete()}"
    assert client.get(path).status == 200
    builds.jobs.clear()
    scene.seconds += FINAL_SECONDS
    assert client.get(path).status == 404
    assert client.get(path).status == 404


def test_an_unknown_hash_is_not_remembered_as_unknown(client: AsgiClient, builds: FakeBuilds) -> None:
    posted = builds.hold(a_request())
    view = builds.jobs.pop(posted)
    assert client.get(f"{BUILD}/{posted}").status == 404
    builds.jobs[posted] = view
    assert client.get(f"{BUILD}/{posted}").status == 202


def test_a_thousand_polls_at_once_are_one_look(client: AsgiClient, builds: FakeBuilds) -> None:
    path = f"{BUILD}/{builds.build()}"
    builds.gate.clear()
    threading.Timer(0.1, builds.gate.set).start()
    answers = client.together(*[("GET", path, b"")] * 1000)
    assert {answer.status for answer in answers} == {202}
    assert builds.looks == 1


def test_a_thousand_polls_of_an_unknown_hash_at_once_are_one_look(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    builds.gate.clear()
    threading.Timer(0.1, builds.gate.set).start()
    answers = client.together(*[("GET", f"{BUILD}/{'0' * 64}", b"")] * 1000)
    assert {answer.status for answer in answers} == {404}
    assert builds.looks == 1


def test_trap_24_equal_posts_at_once_are_one_submission(client: AsgiClient, builds: FakeBuilds) -> None:
    body = b'{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5"}'
    builds.gate.clear()
    threading.Timer(0.1, builds.gate.set).start()
    answers = client.together(*[("POST", BUILD, body)] * 50)
    assert {answer.status for answer in answers} == {202}
    assert builds.submits == 1


def test_what_was_submitted_is_remembered_though_the_first_who_asked_has_gone(
    app: FastPath, builds: FakeBuilds
) -> None:
    body = b'{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5"}'
    asked = AsgiClient(app)
    builds.gate.clear()

    async def play() -> None:
        first, second = (asyncio.create_task(asked.ask("POST", BUILD, body=body)) for _ in range(2))
        for _ in range(100):  # both wait for the same call, which is held at the gate
            await asyncio.sleep(0)
        first.cancel()
        builds.gate.set()
        assert (await second).status == 202
        assert (await asked.ask("POST", BUILD, body=body)).status == 202
        assert first.cancelled()

    asyncio.run(play())
    assert builds.submits == 1


def test_a_repeated_post_with_a_finished_result_is_answered_from_memory(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    builds.complete()
    for _ in range(10):
        assert client.post(BUILD, a_body()).status == 200
    assert builds.submits == 1


def test_a_repeated_post_is_submitted_anew_after_five_seconds(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    request_hash = builds.complete()
    client.post(BUILD, a_body())
    for _ in range(4):
        # Polls keep the answer fresh; what the body means is asked again all the same.
        scene.seconds += FINAL_SECONDS / 4
        client.get(f"{BUILD}/{request_hash}")
    client.post(BUILD, a_body())
    assert builds.submits == 2


def test_a_post_of_a_live_job_asks_once_a_second(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    for _ in range(5):
        assert client.post(BUILD, a_body()).status == 202
    assert builds.submits == 1
    scene.seconds += LIVE_SECONDS
    client.post(BUILD, a_body())
    assert builds.submits == 2


def test_every_repeated_post_is_counted_whatever_answers_it(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    builds.complete()
    client.post(BUILD, a_body())  # counted by the service, which this fake does not
    client.post(BUILD, a_body())
    client.post(BUILD, a_body(), {"User-Agent": "auc (0.3.2)"})
    assert scene.statistics.events == [("cache_hit", "unknown/0"), ("cache_hit", "auc/0.3.2")]


def test_the_client_named_in_a_repeated_body_is_counted(client: AsgiClient, scene: Scene) -> None:
    scene.builds.complete()
    for _ in range(2):
        client.post(BUILD, a_body(client="owut/2"))
    assert scene.statistics.events == [("cache_hit", "owut/2")]


def test_those_who_ask_together_are_counted_each(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    builds.complete()
    body = b'{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5","client":"luci/1"}'
    builds.gate.clear()
    threading.Timer(0.1, builds.gate.set).start()
    client.together(*[("POST", BUILD, body)] * 5)
    assert builds.submits == 1
    assert scene.statistics.events == [("cache_hit", "luci/1")] * 4


def test_polls_and_live_posts_are_no_cache_hits(client: AsgiClient, scene: Scene, builds: FakeBuilds) -> None:
    path = f"{BUILD}/{builds.build()}"
    for _ in range(3):
        client.get(path)
        client.post(BUILD, a_body())
    assert scene.statistics.events == []


def test_trap_31_a_failure_answers_a_repeated_post_from_memory_for_a_second_only(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    builds.fail(FailureReason.WORLD_UNAVAILABLE)
    assert client.post(BUILD, a_body()).status == 500
    assert client.post(BUILD, a_body()).status == 500
    assert builds.submits == 1
    builds.hold(a_request())
    scene.seconds += LIVE_SECONDS
    assert client.post(BUILD, a_body()).status == 202


def test_a_new_job_is_seen_by_polls_as_soon_as_it_was_posted(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    request_hash = builds.fail(FailureReason.WORLD_UNAVAILABLE)
    assert client.get(f"{BUILD}/{request_hash}").status == 500
    builds.hold(a_request())
    assert client.post(BUILD, a_body()).status == 202
    # A client that saw 500 now would stop asking.
    assert client.get(f"{BUILD}/{request_hash}").status == 202


def test_a_look_that_began_before_a_post_does_not_overwrite_it(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    request_hash = builds.fail(FailureReason.WORLD_UNAVAILABLE)
    real_look = builds.look
    seen, posted = threading.Event(), threading.Event()

    def slow_look(name: str) -> object:
        view = real_look(name)
        seen.set()
        posted.wait(60)
        return view

    real_submit = builds.submit

    def submit(*arguments: object, **named: object) -> object:
        seen.wait(60)
        builds.hold(a_request())
        return real_submit(*arguments, **named)  # type: ignore[arg-type]

    builds.look = slow_look  # type: ignore[assignment]
    builds.submit = submit  # type: ignore[assignment]
    threading.Timer(0.2, posted.set).start()
    body = b'{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5"}'
    poll, post = client.together(("GET", f"{BUILD}/{request_hash}", b""), ("POST", BUILD, body))
    assert (poll.status, post.status) == (500, 202)
    assert client.get(f"{BUILD}/{request_hash}").status == 202


def test_a_post_is_not_answered_with_another_job_than_it_was(client: AsgiClient, builds: FakeBuilds) -> None:
    builds.complete()
    assert client.post(BUILD, a_body()).status == 200
    builds.hold(a_request())
    assert client.post(BUILD, a_body(distro="openwrt")).status == 202
    assert client.post(BUILD, a_body()).status == 202
    assert builds.submits == 3


def test_a_large_answer_is_given_but_not_kept(client: AsgiClient, builds: FakeBuilds) -> None:
    path = f"{BUILD}/{builds.complete(stdout='x' * (1 << 20))}"
    assert client.get(path).status == 200
    assert client.get(path).status == 200
    assert builds.looks == 2


@pytest.mark.parametrize("status", [200, 202])
def test_polls_between_posts_of_other_spelling_share_one_answer(
    client: AsgiClient, builds: FakeBuilds, status: int
) -> None:
    request_hash = builds.complete() if status == 200 else builds.build()
    spelled_out = client.post(BUILD, a_body(distro="openwrt", packages=[]))
    assert spelled_out.status == status
    assert spelled_out.json["request_hash"] == request_hash
    assert client.get(f"{BUILD}/{request_hash}").body == spelled_out.body
    assert builds.looks == 0


def test_polls_do_not_wait_behind_submissions_that_wait_for_upstream(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    request_hash = builds.build()
    upstream = threading.Event()
    real_submit = builds.submit

    def submit(*arguments: object, **named: object) -> object:
        assert upstream.wait(60)
        return real_submit(*arguments, **named)  # type: ignore[arg-type]

    real_look = builds.look

    def look(name: str) -> object:
        upstream.set()
        return real_look(name)

    builds.submit = submit  # type: ignore[assignment]
    builds.look = look  # type: ignore[assignment]
    posts = [
        ("POST", BUILD, b'{"version":"24.10.5","target":"pico/nine","profile":"p%d"}' % number)
        for number in range(20)
    ]
    answers = client.together(*posts, ("GET", f"{BUILD}/{request_hash}", b""))
    assert {answer.status for answer in answers} == {202}


def test_the_secret_to_cancel_is_in_the_first_answer_alone(client: AsgiClient, scene: Scene) -> None:
    first = client.post(BUILD, a_body())
    assert first.json["cancel_token"] == CANCEL_TOKEN
    name = first.json["request_hash"]
    others = [client.post(BUILD, a_body()), client.get(f"{BUILD}/{name}")]
    scene.seconds += FINAL_SECONDS
    others += [client.post(BUILD, a_body()), client.get(f"{BUILD}/{name}")]
    for answer in others:
        assert answer.status == 202
        assert CANCEL_TOKEN.encode() not in answer.body


def test_a_cancelled_build_is_a_500_on_which_every_client_stops(client: AsgiClient) -> None:
    posted = client.post(BUILD, a_body()).json
    path = f"{BUILD}/{posted['request_hash']}"
    assert client.request("DELETE", path).status == 403
    cancelled = client.request("DELETE", path, headers={"x-cancel-token": posted["cancel_token"]})
    assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
    polled = client.get(path)
    assert (polled.status, polled.header("x-imagebuilder-status")) == (500, "failed")
    document = polled.json
    assert (document["status"], document["detail"], document["state"]) == (500, "cancelled", "cancelled")
    assert (document["stderr"], document["stdout"], document["reason"]) == ("", "", "cancelled")
    assert document["request"]["version"] == "24.10.5"
    again = client.request("DELETE", path, headers={"x-cancel-token": posted["cancel_token"]})
    assert again.status == 409
    assert client.request("DELETE", f"{BUILD}/{'f' * 64}").status == 404
    assert client.request("DELETE", f"{BUILD}/nonsense").status == 404


def test_another_caller_of_a_live_build_reaches_the_queue_and_the_same_one_does_not(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    for _ in range(3):
        client.post(BUILD, a_body())
    assert (builds.submits, builds.callers) == (1, ["127.0.0.1"])
    client.post(BUILD, a_body(), peer="192.0.2.2")
    assert (builds.submits, builds.callers[-1]) == (2, "192.0.2.2")


def test_who_joined_a_job_reaches_the_queue_for_the_next_one_of_the_same_hash(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    joins = a_body(distro="openwrt")
    client.post(BUILD, a_body())
    client.post(BUILD, joins, peer="192.0.2.2")
    builds.hold(a_request(), id=2)
    client.post(BUILD, a_body(distro="openwrt", version_code=""))
    client.post(BUILD, joins, peer="192.0.2.2")
    assert (builds.submits, builds.callers[-1]) == (4, "192.0.2.2")


def test_polls_from_memory_are_noted_as_interest(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.build()
    client.get(f"{BUILD}/{name}")
    assert builds.noted == []
    client.get(f"{BUILD}/{name}")
    assert builds.noted == [name]


def test_an_unknown_token_is_refused_and_not_ignored(client: AsgiClient, builds: FakeBuilds) -> None:
    client.post(BUILD, a_body())
    answer = client.post(BUILD, a_body(), headers={"authorization": "Bearer wrong"})
    assert answer.status == 401
    assert "not known" in answer.json["detail"]
    assert builds.submits == 1


@pytest.mark.parametrize("ask", ["poll", "post"])
def test_what_was_taken_back_elsewhere_is_not_answered_from_memory(
    client: AsgiClient, scene: Scene, builds: FakeBuilds, ask: str
) -> None:
    name = builds.complete()

    def answer() -> int:
        return (client.get(f"{BUILD}/{name}") if ask == "poll" else client.post(BUILD, a_body())).status

    assert [answer(), answer()] == [200, 200]
    del builds.jobs[name]
    assert answer() == 200, "it was not taken back yet"
    scene.revoked += 1
    assert answer() == (404 if ask == "poll" else 202)


def test_a_look_that_began_before_it_was_taken_back_is_not_joined_after_and_not_cached(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    name = builds.complete()
    real_look, looks = builds.look, []

    def look(request_hash: str) -> object:
        looks.append(request_hash)
        view = real_look(request_hash)
        if len(looks) == 1:  # it has read the database; now another process purges
            del builds.jobs[name]
            scene.revoked += 1
        return view

    builds.look = look  # type: ignore[assignment]
    assert client.get(f"{BUILD}/{name}").status == 200
    assert client.get(f"{BUILD}/{name}").status == 404
