"""The page of one build: in every state, for everybody who has its address."""

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from msgspec.structs import replace

from asgi_client import Answer, AsgiClient
from asu_builder.core.submit import BuildView
from asu_builder.domain.errors import BuildProblem, FailureReason, TooManyRequests
from asu_builder.domain.job import BuildFailure, Image, JobState, Retention, SbomFiles, Stage
from asu_builder.domain.packages import AppliedRule, PackageChangesRecord
from asu_builder.domain.request import request_hash
from asu_builder.http.pages.words import about, images_first, plain_address, stages, standing
from factories import NOON, a_request, a_result, a_submission
from fake_builds import CANCEL_TOKEN, FakeBuilds
from unit.http.pages.conftest import FORM, OPERATOR, READER, text_of
from web_scene import Scene

HOSTILE = '<script>alert(1)</script>"&'
COOKIE = {"cookie": f'asu_cancel="{CANCEL_TOKEN}"'}


def as_holder(token: str) -> dict[str, str]:
    """How a program says who it is; pages believe it too."""
    return {"authorization": f"Bearer {token}"}


def act(client: AsgiClient, address: str, headers: dict[str, str] | None = None, **fields: str) -> Answer:
    return client.post(address, urlencode(fields).encode(), {**FORM, **(headers or {})})


def fail(builds: FakeBuilds, failure: BuildFailure, **changes: object) -> str:
    request = a_request(**changes)
    return builds.hold(request, state=JobState.FAILED, finished_at=NOON, outcome=failure)


@pytest.mark.parametrize("name", ["0" * 64, "x", "A" * 64, "%3Cscript%3E"])
def test_an_unknown_build_says_what_to_do(client: AsgiClient, name: str) -> None:
    answer = client.get(f"/build/{name}")
    assert answer.status == 404
    assert "request the image again" in text_of(answer) and 'href="/build"' in text_of(answer)


def test_every_state_is_kept_by_nobody_and_found_by_nobody(client: AsgiClient, builds: FakeBuilds) -> None:
    for make in (builds.complete, builds.build, builds.fail):
        answer = client.get(f"/build/{make()}")
        assert answer.header("cache-control") == "no-store"
        assert '<meta name="robots" content="noindex, nofollow">' in text_of(answer)
        assert "<script>" not in text_of(answer) and "style=" not in text_of(answer)
        assert not re.search(r"\son[a-z]+=", text_of(answer))


def test_a_waiting_build_tells_its_place_and_looks_again_without_script(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    name = builds.hold(a_request())
    builds.jobs[name] = BuildView(builds.jobs[name].job, 3, timedelta(seconds=130))
    page = text_of(client.get(f"/build/{name}"))
    assert "3 builds ahead, about 2 min." in page
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    assert re.search(r'<li class="current" data-step="pending" aria-current="step">', page)
    assert 'aria-label="Progress of the build"' in page and 'value="0"' in page


def test_a_running_build_shows_done_current_and_ahead_in_words(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    page = text_of(client.get(f"/build/{builds.build(stage=Stage.VALIDATE_MANIFEST)}"))
    found = re.findall(r'<li class="(\w+)" data-step="(\w+)"', page)
    assert [state for state, _ in found] == ["done"] * 4 + ["current", "ahead"]
    assert "Resolving the packages." in page
    assert re.findall(r'hidden-label">(done|current|ahead)<', page) == [state for state, _ in found]


def test_the_log_so_far_stands_on_the_page_as_text(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    name = builds.build()
    job_id = builds.jobs[name].job.id
    scene.log.print(job_id, "begin", stage=Stage.CONTAINER_SETUP)
    scene.log.print(job_id, HOSTILE, "end")
    page = text_of(client.get(f"/build/{name}"))
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert re.findall(r'class="stage" data-stage="(\w+)"', page) == ["container_setup", "building_image"]
    assert re.findall(r'data-seq="(\d+)"', page) == ["1", "2", "3"]
    assert re.search(r'<pre id="log" role="log" aria-live="off"[^>]*tabindex="0"', page)


def test_of_a_long_log_the_end_is_shown_and_the_rest_linked(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    name = builds.build()
    scene.log.print(builds.jobs[name].job.id, *(f"line {n}" for n in range(1, 1501)))
    page = text_of(client.get(f"/build/{name}"))
    assert "line 1500\n" in page and "line 500\n" not in page and "line 501\n" in page
    assert "The first 500 lines" in page and f"/api/v1/build/{name}/log" in page


def test_only_the_first_caller_and_operators_are_offered_to_cancel(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    address = f"/build/{builds.build()}"
    offered = [
        'id="cancel"' in text_of(client.get(address, headers))
        for headers in ({}, as_holder(READER), as_holder(OPERATOR), COOKIE)
    ]
    assert offered == [False, False, True, True]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 403), (as_holder(READER), 403), (COOKIE, 303), (as_holder(OPERATOR), 303)],
    ids=["anybody", "reader", "first caller", "operator"],
)
def test_a_build_is_cancelled_by_its_first_caller_or_an_operator(
    client: AsgiClient, builds: FakeBuilds, headers: dict[str, str], status: int
) -> None:
    name = builds.build()
    answer = act(client, f"/build/{name}/cancel", headers)
    assert answer.status == status
    assert (builds.jobs[name].job.state is JobState.CANCELLED) == (status == 303)
    page = text_of(client.get(f"/build/{name}"))
    assert ("Build it again" in page) == (status == 303)


def test_no_other_site_cancels_or_asks_again(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.build()
    elsewhere = {**COOKIE, "sec-fetch-site": "cross-site"}
    for act_name in ("cancel", "again"):
        assert act(client, f"/build/{name}/{act_name}", elsewhere).status == 403
    assert builds.jobs[name].job.state is JobState.BUILDING


def test_a_cancelled_build_can_be_asked_for_again(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.hold(a_request(defaults="secret"), state=JobState.CANCELLED, finished_at=NOON)
    page = text_of(client.get(f"/build/{name}"))
    assert "The build was cancelled" in page and "secret" not in page
    answer = act(client, f"/build/{name}/again", correction="again")
    assert (answer.status, answer.header("location")) == (303, f"/build/{name}")


def test_images_are_shown_with_all_that_one_must_know(client: AsgiClient, builds: FakeBuilds) -> None:
    images = (
        Image("openwrt-factory.bin", "factory", "c" * 64, "c" * 64, 3 << 20, "squashfs"),
        Image("openwrt-sysupgrade.bin", "sysupgrade", "a" * 64, "b" * 64, 5 << 20, "squashfs"),
    )
    name = builds.complete(images=images, warnings=("Mind <this>.",))
    page = text_of(client.get(f"/build/{name}"))
    assert page.index("openwrt-sysupgrade.bin") < page.index("openwrt-factory.bin")
    assert f'href="/store/{name}/openwrt-sysupgrade.bin"' in page
    assert "a" * 64 in page and "5.0 MiB" in page and "squashfs" in page
    assert "runs OpenWrt" in page and "vendor&#39;s firmware" in page
    assert "Mind &lt;this&gt;." in page
    assert "http-equiv" not in page


def test_a_finished_build_shows_where_its_time_went(client: AsgiClient, builds: FakeBuilds) -> None:
    page = text_of(client.get(f"/build/{builds.complete(seconds={'pull': 0.0, 'image': 11.26})}"))
    times = re.search(r'<dl class="facts" id="times">(.*?)</dl>', page, re.DOTALL)
    assert times is not None
    shown = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", times[1])
    assert shown == [("Getting the container image", "0.0 s"), ("Making the images", "11 s")]
    assert 'id="times"' not in text_of(client.get(f"/build/{builds.complete(packages=('vim',))}"))


def test_the_manifest_is_searched_without_script(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.complete(manifest={"vim": "9.1-r1", "luci": "1", "luci-app-x": HOSTILE})
    page = text_of(client.get(f"/build/{name}?manifest=LUCI%22%3E"))
    assert "0 of 3 packages" in page and 'value="LUCI&#34;&gt;"' in page
    page = text_of(client.get(f"/build/{name}?manifest=luci"))
    assert "2 of 3 packages" in page and '<th scope="row">vim' not in page
    assert "<script>alert" not in page


def test_what_rules_did_is_told_with_its_reason(client: AsgiClient, builds: FakeBuilds) -> None:
    rule = AppliedRule("r", "Because: https://example.org/why", ("owut",), ("auc",), {"wpad-old": "wpad"})
    record = PackageChangesRecord((rule,), ("Some <warning>.",), ("kmod-switch",))
    page = text_of(client.get(f"/build/{builds.complete(package_changes=record)}"))
    assert "<code>wpad-old</code> to <code>wpad</code>" in page
    assert '<a href="https://example.org/why" rel="noreferrer">' in page
    assert "owut" in page and "auc" in page and "kmod-switch" in page and "Some &lt;warning&gt;." in page


def test_the_command_to_repeat_it_names_the_configured_image(client: AsgiClient, builds: FakeBuilds) -> None:
    page = text_of(client.get(f"/build/{builds.complete()}"))
    assert "ghcr.io/openwrt/imagebuilder:pico-nine-v24.10.5" in page and "podman run" in page


def test_a_script_for_the_first_boot_is_mentioned_and_never_shown(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    request = a_request(
        defaults="passwd-hunter2", repositories={"own": "https://user:pass@feeds.example.org/x"}
    )
    for name in (builds.complete(request), builds.build(request), builds.hold(request)):
        page = text_of(client.get(f"/build/{name}"))
        assert "hunter2" not in page and "user:pass" not in page
        assert "A script; not shown" in page and "https://feeds.example.org/x" in page


def test_a_failure_is_explained_with_whose_side_it_is_on(client: AsgiClient, builds: FakeBuilds) -> None:
    failure = BuildFailure(FailureReason.MAKE_FAILED, f"Error: {HOSTILE}", HOSTILE, HOSTILE)
    page = text_of(client.get(f"/build/{fail(builds, failure)}"))
    assert "<script>alert" not in page and page.count("&lt;script&gt;alert") == 3
    assert 'data-reason="make_failed"' in page and "<b>the request</b>" in page
    assert "Change the request" in page


def test_a_corrected_request_is_one_click_away_and_keeps_what_is_private(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    failure = BuildFailure(
        FailureReason.IMPOSSIBLE_SELECTION,
        "Error: Impossible package selection: missing (lucy)",
        problem=BuildProblem(missing=("lucy",)),
    )
    name = fail(builds, failure, packages=("tmux", "lucy"), defaults="secret", rootfs_size_mb=64)
    page = text_of(client.get(f"/build/{name}"))
    assert re.findall(r'data-correction="([^"]+)"', page) == ["nearest", "without lucy"]
    assert "Build with luci instead of lucy" in page and "secret" not in page
    for key, packages in (("nearest", ("tmux", "luci")), ("without lucy", ("tmux",))):
        answer = act(client, f"/build/{name}/again", correction=key)
        expected = a_request(packages=packages, defaults="secret", rootfs_size_mb=64)
        assert answer.header("location") == f"/build/{request_hash(expected)}"
        assert builds.jobs[request_hash(expected)].job.request == expected
        assert f"Path=/build/{request_hash(expected)}" in (answer.header("set-cookie") or "")


@pytest.mark.parametrize("key", ["again", "", "nearest", HOSTILE])
def test_what_is_not_offered_is_not_built(client: AsgiClient, builds: FakeBuilds, key: str) -> None:
    name = fail(builds, BuildFailure(FailureReason.MAKE_FAILED, "Error: no"))
    assert act(client, f"/build/{name}/again", correction=key).status == 409
    assert builds.submits == 0


def test_what_the_world_did_is_tried_again(client: AsgiClient, builds: FakeBuilds) -> None:
    failure = BuildFailure(FailureReason.WORLD_UNAVAILABLE, "Error: No registry.")
    name = fail(builds, failure)
    page = text_of(client.get(f"/build/{name}"))
    assert "Try again" in page and 'id="retry-at"' not in page
    assert act(client, f"/build/{name}/again").header("location") == f"/build/{name}"
    job = replace(builds.jobs[name].job, finished_at=datetime.now(UTC))
    builds.jobs[name] = BuildView(job)
    assert 'id="retry-at"' in text_of(client.get(f"/build/{name}"))


def test_what_was_refused_before_a_build_says_so_and_is_corrected(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    problem = BuildProblem(missing=("lucy",))
    failure = BuildFailure(FailureReason.IMPOSSIBLE_SELECTION, "Error: no. Nothing.", problem=problem)
    request = a_request(packages=("lucy", "vim"))
    name = builds.hold(request, id=-1, state=JobState.FAILED, finished_at=NOON, outcome=failure)
    page = text_of(client.get(f"/build/{name}"))
    assert "Not built" in page and 'id="refused"' in page and "no build was started" in page
    assert "Build with luci instead of lucy" in page and "Build without lucy" in page
    builds.jobs[name] = BuildView(replace(builds.jobs[name].job, id=1))
    assert 'id="refused"' not in text_of(client.get(f"/build/{name}"))


def test_what_was_left_out_is_named_and_asked_for_again(client: AsgiClient, builds: FakeBuilds) -> None:
    request = a_request(packages=("vim",), as_of="a" * 64, dropped={"lucy": "luci", "<b>": ""})
    name = builds.complete(request, indexes="a" * 64)
    page = text_of(client.get(f"/build/{name}"))
    left_out = page.partition('id="dropped">')[2].partition("</p>")[0]
    assert "<code>lucy</code> (did you mean <code>luci</code>?)" in left_out and "&lt;b&gt;" in left_out
    assert "on_missing=drop" in page and "packages=vim+lucy+" in page
    assert "<code>aaaaaaaaaaaa</code>" in page


def test_a_result_is_asked_for_again_with_todays_packages(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.complete(a_request(packages=("vim",), as_of="a" * 64, dropped={"lucy": "luci"}))
    assert 'value="today"' in text_of(client.get(f"/build/{name}"))
    assert act(client, f"/build/{name}/again", correction="again").status == 409
    assert act(client, f"/build/{name}/again", correction="today").status == 303
    sent = [view.job.request for view in builds.jobs.values() if view.job.state is JobState.PENDING]
    assert sent == [a_request(packages=("vim", "lucy"), as_of="today", on_missing="drop")]
    # One that did not end in a result is not.
    failed = fail(builds, BuildFailure(FailureReason.INTERNAL, "Error: Ours."))
    assert act(client, f"/build/{failed}/again", correction="today").status == 409


def test_that_nothing_has_changed_is_told_with_the_time(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.complete()
    builds.jobs[name] = replace(builds.jobs[name], unchanged=True)
    builds.submit = lambda _: builds.jobs[name]  # type: ignore[method-assign, assignment]
    location = act(client, f"/build/{name}/again", correction="today").header("location") or ""
    assert re.fullmatch(rf"/build/{name}\?unchanged=\d+", location)
    assert "Nothing has changed: at <time" in text_of(client.get(location))
    for other in ("", "0", "x", "²", "9" * 12, "9" * 99, "-5"):
        assert "Nothing has changed" not in text_of(client.get(f"/build/{name}?unchanged={other}"))


def test_limits_hold_for_those_who_ask_again(client: AsgiClient, builds: FakeBuilds) -> None:
    name = fail(builds, BuildFailure(FailureReason.INTERNAL, "Error: Ours."))

    def refuse(_: object) -> BuildView:
        raise TooManyRequests("Enough for now.", retry_after=5)

    builds.submit = refuse  # type: ignore[method-assign, assignment]
    answer = act(client, f"/build/{name}/again")
    assert (answer.status, answer.header("retry-after")) == (429, "5")
    assert "Enough for now." in text_of(answer)


def test_the_order_of_images_and_their_words() -> None:
    kinds = ("rootfs", "weird<b>", "sdcard", "factory", "combined-efi", "sysupgrade")
    shown = images_first(Image(f"{kind}.bin", kind, "", "", 1) for kind in kinds)
    titles = [entry.title for entry in shown]
    assert titles == ["Sysupgrade", "Whole disk", "SD card", "Factory", "Root file system", "weird<b>"]
    assert [entry.first for entry in shown].count(True) == 1


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "10 s"), (14, "10 s"), (59, "60 s"), (60, "1 min"), (150, "2 min")]
)
def test_a_forecast_is_no_more_exact_than_it_is(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_one_build_ahead_is_one(builds: FakeBuilds) -> None:
    job = builds.jobs[builds.hold(a_request())].job
    assert standing(BuildView(job, 1)) == "1 build ahead."
    assert standing(BuildView(job, 0)) == "Next in the queue."
    assert {step.state for step in stages(replace(job, state=JobState.COMPLETED))} == {"done"}


def test_an_address_is_told_without_its_password() -> None:
    assert plain_address("https://u:p@h.example.org:8/x") == "https://h.example.org:8/x"


def test_what_is_in_the_images_is_linked_where_it_is_known(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.complete(sbom=SbomFiles("x+y.cdx.json", "x+y.spdx.json"))
    page = text_of(client.get(f"/build/{name}"))
    for file in ("x%2By.cdx.json", "x%2By.spdx.json"):
        assert f'href="/store/{name}/{file}" download' in page
    older = builds.complete(a_request(packages=("tmux",)))
    assert 'id="sbom"' not in text_of(client.get(f"/build/{older}"))


def test_a_build_that_takes_longer_than_usual_says_so(builds: FakeBuilds) -> None:
    job = builds.jobs[builds.build(stage=Stage.BUILDING_IMAGE)].job
    late = BuildView(job, remaining=timedelta(seconds=43), late=True)
    assert standing(late) == "Building the images, longer than usual, about 40 s left."
    assert standing(replace(late, late=False)) == "Building the images, about 40 s left."


def test_the_title_of_the_window_shows_how_far_it_is(client: AsgiClient, builds: FakeBuilds) -> None:
    def title(name: str) -> str:
        return text_of(client.get(f"/build/{name}")).partition("<title>")[2].partition(":")[0]

    name = builds.hold(a_request())
    builds.jobs[name] = BuildView(builds.jobs[name].job, 3)
    assert title(name) == "Waiting (3)"
    assert title(builds.build(stage=Stage.VALIDATE_MANIFEST)) == "Building 4/6"
    assert title(builds.complete()) == "Completed"


def test_a_finished_build_leads_to_an_upgraded_router(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.complete()
    image = builds.jobs[name].job.outcome.images[0]  # type: ignore[union-attr] # it is completed
    page = text_of(
        client.get(f"/build/{name}", {"host": "builds.example:8443", "x-forwarded-proto": "https"})
    )
    server = "https://builds.example:8443"
    assert f"uci set attendedsysupgrade.server.url={server} &amp;&amp;" in page
    assert "owut upgrade --version-to " in page
    assert (f"wget {server}/store/{name}/{image.name}" in page) == (image.type == "sysupgrade")
    assert f'href="/build/{name}/sha256sums"' in page and f'href="/build/{name}/manifest"' in page
    assert "Change packages" in page
    hostile = text_of(client.get(f"/build/{name}", {"host": "x;reboot"}))
    assert "reboot" not in hostile and "owut upgrade" not in hostile


def test_digests_and_packages_are_files_too(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.complete()
    result = builds.jobs[name].job.outcome
    sums = client.get(f"/build/{name}/sha256sums")
    assert (sums.header("content-type") or "").startswith("text/plain")
    assert f"{result.images[0].sha256} *{result.images[0].name}\n" in sums.body.decode()  # type: ignore[union-attr]
    manifest = client.get(f"/build/{name}/manifest").body.decode()
    for package, version in result.manifest.items():  # type: ignore[union-attr] # it is completed
        assert f"{package} - {version}\n" in manifest
    for unfinished in (builds.build(), builds.fail(), "0" * 64):
        assert client.get(f"/build/{unfinished}/sha256sums").status == 404


def test_an_operator_keeps_a_result_longer(client: AsgiClient, scene: Scene, builds: FakeBuilds) -> None:
    job = scene.queue.submit(a_submission()).job
    claimed = scene.queue.claim("w/1", lease_for=timedelta(minutes=1))
    assert claimed is not None
    scene.queue.finish(claimed[1], a_result(), Retention(timedelta(hours=1)))
    name = job.request_hash
    builds.jobs[name] = BuildView(replace(job, state=JobState.COMPLETED, outcome=a_result()))
    before = scene.operator().kept_until(name)
    shown = text_of(client.get(f"/build/{name}"))
    assert "Kept until" in shown and 'id="keep"' not in shown
    assert act(client, f"/build/{name}/keep").status in (401, 403)
    assert act(client, f"/build/{name}/keep", as_holder(READER)).status == 403
    assert 'id="keep"' in text_of(client.get(f"/build/{name}", as_holder(OPERATOR)))
    assert act(client, f"/build/{name}/keep", as_holder(OPERATOR)).status == 303
    after = scene.operator().kept_until(name)
    assert before is not None and after is not None
    kept = after - before
    assert kept > timedelta(days=6)
    assert act(client, f"/build/{'0' * 64}/keep", as_holder(OPERATOR)).status == 404
