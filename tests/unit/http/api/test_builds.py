"""What is cached, for how long, and what many callers at once cost."""

import asyncio
import random
import threading
from collections.abc import Collection, Mapping
from datetime import timedelta

import pytest
from msgspec.structs import replace

from asgi_client import AsgiClient
from asu_builder.core.submit import BuildView, Progress
from asu_builder.domain.errors import FailureReason, Unavailable
from asu_builder.domain.job import JobState, Stage
from asu_builder.http import answers
from asu_builder.http.answer_cache import AnswerCache, CachedResponse
from asu_builder.http.answers import POLLED_ROUNDS, PolledBuilds
from asu_builder.http.api.builds import FINAL_SECONDS, LIVE_SECONDS
from asu_builder.http.fast_path import FastPath
from factories import a_request
from fake_builds import CANCEL_TOKEN, FakeBuilds, a_body
from web_scene import Scene

BUILD = "/api/v1/build"


def look_again(client: AsgiClient, app: FastPath) -> None:
    """One round, as it comes once a second while somebody polls."""
    client.run(app._answers.polled.look_again())


def test_a_live_job_is_read_once_and_then_looked_at_in_rounds(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    name = builds.build()
    for _ in range(3):
        for _ in range(10):
            assert client.get(f"{BUILD}/{name}").status == 202
        look_again(client, app)
    assert builds.looks == 1
    assert builds.compared == [{name}] * 3


def test_a_live_answer_is_never_older_than_a_round(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    path = f"{BUILD}/{builds.hold(a_request())}"
    assert client.get(path).json["queue_position"] == 0
    builds.build(stage=Stage.INIT)
    look_again(client, app)
    assert client.get(path).json["imagebuilder_status"] == "init"
    builds.complete()
    look_again(client, app)
    assert client.get(path).status == 200


def test_an_answer_that_a_round_renders_again_is_as_one_that_is_read(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    path = f"{BUILD}/{builds.hold(a_request(packages=('vim', 'luci')))}"
    client.get(path)
    builds.build(a_request(packages=("vim", "luci")))
    look_again(client, app)
    from_memory = client.get(path)
    app._answers.polled.clear()
    read = client.get(path)
    assert from_memory.body == read.body
    headers = [dict(answer.headers) for answer in (from_memory, read)]
    for answer in headers:
        del answer["x-request-id"], answer["server-timing"]
    assert headers[0] == headers[1]


def test_a_final_job_is_read_once_while_it_is_polled_and_nothing_changes(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    name = builds.complete()
    for _ in range(30):
        client.get(f"{BUILD}/{name}")
        look_again(client, app)
    assert builds.looks == 1
    assert len(builds.compared) == 1, "the first round learns when it expires"


def test_a_forgotten_result_is_404_within_a_round(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    path = f"{BUILD}/{builds.complete()}"
    assert client.get(path).status == 200
    look_again(client, app)
    builds.jobs.clear()
    look_again(client, app)
    assert client.get(path).status == 404
    assert client.get(path).status == 404


def test_a_failed_build_that_was_submitted_again_elsewhere_waits_within_a_round(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    name = builds.fail(FailureReason.WORLD_UNAVAILABLE)
    assert client.get(f"{BUILD}/{name}").status == 500
    builds.hold(a_request(), id=2)
    look_again(client, app)
    assert client.get(f"{BUILD}/{name}").status == 202


def test_a_refusal_is_told_from_memory_and_not_longer_though_nothing_is_written_when_it_ends(
    client: AsgiClient, app: FastPath, builds: FakeBuilds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "changes", lambda: 7)
    results = [builds.complete(a_request(packages=(f"p{number}",))) for number in range(3)]
    refused = builds.fail()
    builds.jobs[refused] = BuildView(replace(builds.jobs[refused].job, id=-1))
    for _ in range(3):
        assert [client.get(f"{BUILD}/{name}").status for name in (*results, refused)] == [200, 200, 200, 500]
        look_again(client, app)
    assert builds.looks == 4
    assert builds.compared[1:] == [{refused}] * 2, "the others say when they expire"
    del builds.jobs[refused]
    look_again(client, app)
    assert client.get(f"{BUILD}/{refused}").status == 404
    assert client.get(f"{BUILD}/{results[0]}").status == 200
    assert builds.looks == 4


def test_what_expires_is_asked_for_though_nothing_changes(
    client: AsgiClient, app: FastPath, scene: Scene, builds: FakeBuilds
) -> None:
    name = builds.complete()
    builds.lasts = timedelta(seconds=60)
    for _ in range(2):
        client.get(f"{BUILD}/{name}")
        look_again(client, app)
    assert len(builds.compared) == 1
    scene.seconds += 60
    look_again(client, app)
    assert len(builds.compared) == 2


def test_files_that_are_gone_are_missed_within_ten_rounds(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    names = [builds.complete(a_request(packages=(f"p{number}",))) for number in range(25)]
    failed = builds.fail()
    builds.gone = {names[7]}
    for name in (*names, failed):
        client.get(f"{BUILD}/{name}")
    for _ in range(POLLED_ROUNDS):
        look_again(client, app)
    assert sorted(builds.stat) == sorted(names), "each once, and none of what has no files"
    assert not app._answers.polled.holds(names[7])
    assert app._answers.polled.holds(names[8])


def test_no_result_is_told_from_memory_while_the_store_is_missing(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    name, failed = builds.complete(), builds.hold(a_request(profile="other"), state=JobState.FAILED)
    for path in (name, failed):
        client.get(f"{BUILD}/{path}")
    builds.store_missing = True
    look_again(client, app)
    assert not app._answers.polled.holds(name)
    assert app._answers.polled.holds(failed)


def test_what_nobody_polls_is_not_looked_at_until_it_is_polled_after_a_change(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    polled, left, lives = (
        builds.complete(),
        builds.complete(a_request(profile="other")),
        builds.build(a_request(profile="another")),
    )
    for name in (left, lives):
        client.get(f"{BUILD}/{name}")
    for _ in range(POLLED_ROUNDS + 2):
        client.get(f"{BUILD}/{polled}")
        look_again(client, app)
    assert app._answers.polled.holds(left)
    builds.asked.clear()
    builds.hold(a_request(profile="third"))
    look_again(client, app)
    assert builds.compared[-1] == {polled}
    assert not app._answers.polled.holds(left)
    assert not app._answers.polled.holds(lives)
    looks = builds.looks
    assert [client.get(f"{BUILD}/{name}").status for name in (left, lives)] == [200, 202]
    assert builds.looks == looks + 1, "a final job that is still the same is not read again"
    look_again(client, app)
    assert left in builds.stat[-2:], "its files are looked for soon"
    assert builds.compared[-2:] == [{lives}, {polled, left}]


@pytest.mark.parametrize("change", ["purged", "again", "store", "database"])
def test_what_was_left_alone_is_not_told_after_it_has_changed(
    client: AsgiClient, app: FastPath, builds: FakeBuilds, change: str
) -> None:
    polled = app._answers.polled
    name = builds.complete()
    client.get(f"{BUILD}/{name}")
    polled._changed = polled._round + 1
    match change:
        case "purged":
            del builds.jobs[name]
        case "again":
            builds.hold(a_request(), id=7)
        case "store":
            builds.store_missing = True
        case "database":
            builds.error = Unavailable("It is gone.")
    builds.looks = 0
    expected = {"purged": 404, "again": 202, "store": 200, "database": 503}
    assert client.get(f"{BUILD}/{name}").status == expected[change]
    assert builds.looks == (0 if change == "purged" else 1)


def test_what_a_round_has_seen_in_vain_is_looked_for_by_the_next(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    name = builds.complete()
    client.get(f"{BUILD}/{name}")
    look_again(client, app)
    del builds.jobs[name]
    real = builds.progress

    def progress(names: Collection[str]) -> Mapping[str, Progress]:
        app._answers.forget("0" * 64)  # an operator acts on another build
        return real(names)

    builds.progress = progress  # type: ignore[method-assign]
    look_again(client, app)
    builds.progress = real  # type: ignore[method-assign]
    look_again(client, app)
    assert client.get(f"{BUILD}/{name}").status == 404


def test_nothing_is_told_from_memory_when_the_database_does_not_answer(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    path = f"{BUILD}/{builds.complete()}"
    assert client.get(path).status == 200
    builds.error = Unavailable("It is gone.")
    look_again(client, app)
    assert client.get(path).status == 503
    builds.error = None
    assert client.get(path).status == 200


def test_an_act_of_an_operator_during_a_round_is_not_undone_by_it(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    name = builds.build()
    client.get(f"{BUILD}/{name}")
    real_look = builds.look

    def look(request_hash: str) -> BuildView:
        view = real_look(request_hash)
        app._answers.forget(name)
        return view

    builds.complete()
    builds.look = look  # type: ignore[assignment]
    look_again(client, app)
    assert not app._answers.polled.holds(name)


def test_the_end_of_a_build_is_told_as_soon_as_this_process_knows_it(
    client: AsgiClient, app: FastPath, scene: Scene, builds: FakeBuilds
) -> None:
    name = builds.build()
    assert client.get(f"{BUILD}/{name}").status == 202
    builds.complete()
    worker = threading.Thread(target=scene.notifier.notify, args=(name,))
    worker.start()
    worker.join()

    async def told() -> int:
        while (answer := await client.ask("GET", f"{BUILD}/{name}")).status == 202:
            await asyncio.sleep(0)
        return answer.status

    assert client.run(told()) == 200
    assert builds.looks == 2, "read when it was told, and not when it was polled"


def test_news_of_what_nobody_polls_cost_nothing(client: AsgiClient, scene: Scene, builds: FakeBuilds) -> None:
    client.get(f"{BUILD}/{builds.complete()}")
    scene.notifier.notify(builds.build(a_request(profile="other")))
    client.run(asyncio.sleep(0.01))
    assert builds.compared == []


def test_a_build_that_ends_while_it_is_read_is_read_again(
    client: AsgiClient, app: FastPath, scene: Scene, builds: FakeBuilds
) -> None:
    name = builds.build()
    real_look = builds.look

    def look(request_hash: str) -> BuildView:
        view = real_look(request_hash)
        if builds.looks == 1:
            builds.complete()
            scene.notifier.notify(name)
        return view

    # The loop is known to those who tell of news once something is kept.
    client.get(f"{BUILD}/{builds.complete(a_request(profile='other'))}")
    builds.looks = 0
    builds.look = look  # type: ignore[assignment]
    assert client.get(f"{BUILD}/{name}").status == 202

    async def told() -> None:
        while app._answers.polled.lives(name):
            await asyncio.sleep(0.001)

    client.run(told())
    assert client.get(f"{BUILD}/{name}").status == 200


def test_rounds_come_only_while_somebody_polls(
    app: FastPath, builds: FakeBuilds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "ROUND_SECONDS", 0.0)
    name = builds.build()

    async def play() -> None:
        asked = AsgiClient(app)
        polled = app._answers.polled
        for _ in range(2):
            await asked.ask("GET", f"{BUILD}/{name}")
            assert polled._rounds is not None
            await polled._rounds
            assert not polled.holds(name)

    asyncio.run(play())
    assert builds.looks == 2
    assert len(builds.compared) == 2 * POLLED_ROUNDS


def test_a_hundred_thousand_finished_builds_stay_within_the_budget() -> None:
    cache = AnswerCache()
    text = b"".join(b"Installing package-%d\n" % number for number in range(100))
    for number in range(100_000):
        cache.put(f"{number:064x}", CachedResponse(200, b"head", b"%d" % number + text))
        assert cache.size <= 16 << 20
    kept = cache.items()
    assert sum(cached.size for _, cached in kept) == cache.size
    assert sum(len(cached.body) + len(cached.packed) for _, cached in kept) <= 16 << 20
    assert 5000 < len(kept) < 20_000


def test_two_thousand_results_of_usual_size_are_kept_at_once() -> None:
    numbers = random.Random(1)
    names = [f"package-{number}-{numbers.randbytes(4).hex()}" for number in range(150)]
    text = "".join(f'"{name}":"1.{numbers.randint(1, 1000)}-r1",' for name in names * 5).encode()
    assert len(text) > 20_000
    cache = AnswerCache()
    for number in range(2000):
        cache.put(f"{number:064x}", CachedResponse(200, b"head" * 100, b"%d" % number + text))
    assert len(cache.items()) == 2000


def _more_than_is_kept_plain(app: FastPath, builds: FakeBuilds) -> tuple[PolledBuilds, list[str]]:
    """Twenty completed builds, and a cache that has room for few of them as they are sent."""
    polled = app._answers.polled
    polled._cache = AnswerCache(budget=60_000, plain=20_000)
    return polled, [
        builds.complete(a_request(packages=(f"p{number}",)), stdout="Installing\n" * 900)
        for number in range(20)
    ]


def test_what_is_compressed_is_told_as_it_was_and_what_is_polled_goes_last(
    app: FastPath, builds: FakeBuilds, monkeypatch: pytest.MonkeyPatch
) -> None:
    polled, names = _more_than_is_kept_plain(app, builds)

    async def play() -> None:
        asked = AsgiClient(app)
        first = [(await asked.ask("GET", f"{BUILD}/{name}")).body for name in names]
        assert builds.looks == len(names)
        assert polled._cache.get(names[0]).packed  # type: ignore[union-attr]
        for _ in range(3):
            assert [(await asked.ask("GET", f"{BUILD}/{name}")).body for name in names] == first
            await polled.look_again()
        assert builds.looks == len(names)
        for number in range(20):
            await asked.ask("GET", f"{BUILD}/{names[0]}")
            other = builds.complete(a_request(packages=(f"q{number}",)), stdout="Installing\n" * 900)
            await asked.ask("GET", f"{BUILD}/{other}")
            polled._round += 1
        assert polled.holds(names[0])
        assert not polled.holds(names[1])

    asyncio.run(play())


def test_an_answer_that_is_compressed_again_at_once_is_told_whole(app: FastPath, builds: FakeBuilds) -> None:
    # Everything beside it was polled in this round too, so it is itself the first to make room.
    polled, names = _more_than_is_kept_plain(app, builds)

    async def play() -> None:
        asked = AsgiClient(app)
        first = {name: (await asked.ask("GET", f"{BUILD}/{name}")).body for name in names}
        polled._round += 1
        plain = [name for name in names if polled._cache.get(name).body]  # type: ignore[union-attr]
        packed = next(name for name in names if name not in plain)
        for name in (*plain, packed, packed, packed):
            assert (await asked.ask("GET", f"{BUILD}/{name}")).body == first[name]
        assert plain

    asyncio.run(play())
    assert builds.looks == len(names)


def test_unknown_hashes_leave_nothing_in_memory(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    for number in range(1000):
        answer = client.get(f"{BUILD}/{number:064x}")
        assert (answer.status, answer.json["detail"]) == (404, "could not find provided request hash")
    assert len(builds.asked) == 1000
    assert builds.looks == 0
    assert app._answers.polled._cache.size == 0
    assert app._answers.polled._rounds is None


def test_an_unknown_hash_is_told_as_the_router_would(client: AsgiClient, builds: FakeBuilds) -> None:
    at_once = client.get(f"{BUILD}/{'0' * 64}")
    builds.find_id = lambda name: 1  # type: ignore[method-assign]
    looked_up = client.get(f"{BUILD}/{'0' * 64}")
    assert builds.looks == 1
    assert at_once.body == looked_up.body
    headers = [dict(answer.headers) for answer in (at_once, looked_up)]
    del headers[1]["server-timing"]
    for answer in headers:
        del answer["x-request-id"]
    assert headers[0] == headers[1]


def test_a_look_that_would_have_to_wait_is_done_in_a_thread(client: AsgiClient, builds: FakeBuilds) -> None:
    def busy(name: str) -> int:
        raise Unavailable("Another thread looks.")

    builds.find_id = busy  # type: ignore[method-assign]
    assert client.get(f"{BUILD}/{'0' * 64}").status == 404
    assert builds.looks == 1


def test_the_queue_is_counted_once_in_a_round_and_only_while_somebody_asks(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    name = builds.hold(a_request())
    for _ in range(5):
        assert client.get("/api/v1/stats").json == {"queue_length": 1}
    assert builds.counted == 1
    client.get(f"{BUILD}/{name}")
    builds.hold(a_request(profile="other"))
    look_again(client, app)
    assert client.get("/api/v1/stats").json == {"queue_length": 2}
    assert builds.counted == 2
    for _ in range(POLLED_ROUNDS + 2):
        builds.hold(a_request())
        client.get(f"{BUILD}/{name}")
        look_again(client, app)
    assert builds.counted <= 3 + POLLED_ROUNDS
    builds.jobs.clear()
    assert client.get("/api/v1/stats").json == {"queue_length": 0}


def test_a_job_that_is_submitted_here_is_counted_at_once(client: AsgiClient, builds: FakeBuilds) -> None:
    assert client.get("/api/v1/stats").json == {"queue_length": 0}
    for times in range(3):
        client.post(BUILD, a_body(packages=["vim"] * times))
    assert client.get("/api/v1/stats").json == {"queue_length": builds.pending()}
    posted = client.post(BUILD, a_body(profile="mine")).json
    client.request(
        "DELETE", f"{BUILD}/{posted['request_hash']}", headers={"x-cancel-token": posted["cancel_token"]}
    )
    assert client.get("/api/v1/stats").json == {"queue_length": builds.pending()}


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
    given = client.together(*[("GET", path, b"")] * 1000)
    assert {answer.status for answer in given} == {202}
    assert builds.looks == 1


def test_a_thousand_polls_of_an_unknown_hash_at_once_are_no_look_in_a_thread(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    given = client.together(*[("GET", f"{BUILD}/{'0' * 64}", b"")] * 1000)
    assert {answer.status for answer in given} == {404}
    assert builds.looks == 0


def test_trap_24_equal_posts_at_once_are_one_submission(client: AsgiClient, builds: FakeBuilds) -> None:
    body = b'{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5"}'
    builds.gate.clear()
    threading.Timer(0.1, builds.gate.set).start()
    given = client.together(*[("POST", BUILD, body)] * 50)
    assert {answer.status for answer in given} == {202}
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
        assert (await first).status == 503  # cancelled, and told so where somebody still listens

    asyncio.run(play())
    assert builds.submits == 2  # the second who asked has begun again, the third asked nobody


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
    given = client.together(*posts, ("GET", f"{BUILD}/{request_hash}", b""))
    assert {answer.status for answer in given} == {202}


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


# Where a database server tells of each end.


@pytest.fixture
def told(scene: Scene) -> list[int | None]:
    """What the listener says, at its end; before `app` is made."""
    says: list[int | None] = [1]
    scene.generation = lambda: says[-1]
    return says


def test_final_answers_whose_end_is_told_outlast_a_database_that_does_not_answer(
    told: list[int | None], client: AsgiClient, app: FastPath, builds: FakeBuilds, scene: Scene
) -> None:
    done, lives = builds.complete(a_request(packages=("a",))), builds.build(a_request(packages=("b",)))
    assert [client.get(f"{BUILD}/{name}").status for name in (done, lives)] == [200, 202]
    look_again(client, app)
    looks = builds.looks
    builds.error = Unavailable("The database does not answer.")
    told.append(None)
    for _ in range(int(answers.TOLD_SECONDS) - 1):
        scene.seconds += 1
        look_again(client, app)
        assert client.get(f"{BUILD}/{done}").status == 200
    assert client.get(f"{BUILD}/{lives}").status == 503
    assert builds.looks == looks + 1, "only the live one was asked for"
    scene.seconds += 1
    assert client.get(f"{BUILD}/{done}").status == 503, "its life is over"
    builds.error = None
    assert client.get(f"{BUILD}/{done}").status == 200


def test_what_ended_while_nothing_was_told_is_found_by_the_round_after(
    told: list[int | None], client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    names = [builds.complete(a_request(packages=(name,))) for name in "ab"]
    for name in names:
        assert client.get(f"{BUILD}/{name}").status == 200
    for _ in range(POLLED_ROUNDS + 2):  # nobody polls them lately
        look_again(client, app)
    told.append(None)
    builds.error = Unavailable("The database does not answer.")
    look_again(client, app)
    del builds.jobs[names[0]]
    builds.error = None
    told.append(2)
    assert client.get(f"{BUILD}/{names[0]}").status == 200
    look_again(client, app)
    assert [client.get(f"{BUILD}/{name}").status for name in names] == [404, 200]


def test_a_told_end_is_seen_at_once_by_polls_posts_and_looks_under_way(
    told: list[int | None], client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    name = builds.complete()
    assert client.get(f"{BUILD}/{name}").status == 200
    assert client.post(BUILD, a_body()).status == 200
    scene.ended.notify(name)
    del builds.jobs[name]
    assert client.get(f"{BUILD}/{name}").status == 404
    assert client.post(BUILD, a_body()).status == 202
    name = builds.complete(a_request(packages=("another",)))
    real_look = builds.look

    def look(request_hash: str) -> object:
        view = real_look(request_hash)
        if request_hash in builds.jobs:  # it has read the database; now another process purges
            del builds.jobs[name]
            scene.ended.notify(name)
        return view

    builds.look = look  # type: ignore[assignment]
    assert client.get(f"{BUILD}/{name}").status == 200
    assert client.get(f"{BUILD}/{name}").status == 404


def test_final_answers_whose_end_is_told_are_compared_now_and_then_only(
    told: list[int | None], client: AsgiClient, app: FastPath, builds: FakeBuilds, scene: Scene
) -> None:
    name = builds.complete()
    builds.lasts = timedelta(seconds=300)
    for _ in range(4 * answers.TOLD_ROUNDS):
        assert client.get(f"{BUILD}/{name}").status == 200
        scene.seconds += 1
        look_again(client, app)
    compared = [names for names in builds.compared if names]
    assert 4 <= len(compared) <= 6
    told.append(None)
    builds.compared.clear()
    look_again(client, app)
    look_again(client, app)
    assert [names for names in builds.compared if names] == [{name}] * 2, "while nothing is told, each time"
    del builds.jobs[name]
    look_again(client, app)
    assert client.get(f"{BUILD}/{name}").status == 404


def test_a_result_that_expires_while_nobody_polls_is_not_answered_from_memory(
    told: list[int | None], client: AsgiClient, app: FastPath, builds: FakeBuilds, scene: Scene
) -> None:
    name = builds.complete()
    builds.lasts = timedelta(seconds=30)
    assert client.get(f"{BUILD}/{name}").status == 200
    look_again(client, app)
    app._answers.polled.stop()  # as the rounds do by themselves after a while
    client.run(asyncio.sleep(0))
    scene.seconds += 29
    assert client.get(f"{BUILD}/{name}").status == 200
    app._answers.polled.stop()
    client.run(asyncio.sleep(0))
    scene.seconds += 1
    del builds.jobs[name]
    assert client.get(f"{BUILD}/{name}").status == 404


def test_a_poll_does_not_wait_for_a_silent_database_for_ever(
    client: AsgiClient, builds: FakeBuilds, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asu_builder.http.api import builds as module

    monkeypatch.setattr(module, "_POLL_SECONDS", 0.05)
    name, goes_on = builds.build(), threading.Event()
    real_look = builds.look

    def look(request_hash: str) -> object:
        goes_on.wait(60)
        return real_look(request_hash)

    builds.look = look  # type: ignore[assignment]
    answer = client.get(f"{BUILD}/{name}")
    assert answer.status == 503 and answer.header("retry-after")
    goes_on.set()
    monkeypatch.undo()
    assert client.get(f"{BUILD}/{name}").status == 202
