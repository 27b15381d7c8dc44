"""People choose a device and packages, without a script too."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import pytest
from msgspec.structs import replace

from asgi_client import Answer, AsgiClient
from asu_builder.domain.errors import (
    AsuError,
    BuildProblem,
    FailureReason,
    QueueFull,
    RequestMalformed,
    RequestRejected,
    TooManyRequests,
    Unavailable,
)
from asu_builder.domain.job import BuildFailure, JobState
from asu_builder.domain.preflight import Feasibility, Foretold, unknown
from asu_builder.domain.release import Release, VersionList
from asu_builder.domain.request import request_hash
from asu_builder.domain.search import Device, Title
from asu_builder.http.pages.build_form import order_versions
from asu_builder.http.pages.form_fields import Fields, carry_over, field_of, link_to, not_linked, read_fields
from factories import NOON, a_request
from fake_builds import CANCEL_TOKEN, FakeBuilds
from still_preflight import UNTOLD
from unit.http.pages.conftest import FORM, OPERATOR, text_of
from web_scene import DescribingUpstream, Scene

DEVICE = {"version": "24.10.5", "target": "pico/nine", "profile": "acme_widget-5"}


def send(client: AsgiClient, headers: dict[str, str] | None = None, **fields: str) -> Answer:
    body = urlencode({**DEVICE, **fields}).encode()
    return client.post("/build", body, {**FORM, **(headers or {})})


def sent_request(builds: FakeBuilds) -> object:
    (view,) = builds.jobs.values()
    return view.job.request


def test_versions_are_offered_with_the_newest_stable_one_first(client: AsgiClient) -> None:
    page = text_of(client.get("/build"))
    assert page.index('value="24.10.5" selected') < page.index('value="24.10.4"')


def test_candidates_and_snapshots_come_behind_stable_releases() -> None:
    branches = [
        ("SNAPSHOT", ["SNAPSHOT"]),
        ("25.12", ["25.12.0-rc1", "25.12-SNAPSHOT"]),
        ("24.10", ["24.10.5-rc1", "24.10.4"]),
        ("21.02", []),
    ]
    assert order_versions(branches, ["25.12.0-rc1", "24.10.4"]) == [
        ("24.10", ["24.10.4", "24.10.5-rc1"]),
        ("SNAPSHOT", ["SNAPSHOT"]),
        ("25.12", ["25.12.0-rc1", "25.12-SNAPSHOT"]),
    ]


def test_a_search_without_script_lists_links_to_devices(client: AsgiClient) -> None:
    page = text_of(client.get("/build?version=24.10.5&search=widget"))
    assert "/build?version=24.10.5&amp;target=pico%2Fnine&amp;profile=acme_widget-5" in page
    assert "&lt;Widget&gt; 10" in page and "<Widget>" not in page


def test_a_search_that_finds_nothing_says_so_and_shows_what_was_typed_as_text(client: AsgiClient) -> None:
    page = text_of(client.get("/build?version=24.10.5&search=%3Cscript%3Ezzzzqq"))
    assert "matches “&lt;script&gt;zzzzqq”" in page and "<script>zz" not in page


def test_an_unknown_version_or_device_leads_back_to_the_search(client: AsgiClient) -> None:
    for query in ({**DEVICE, "version": "1.2.3"}, {**DEVICE, "profile": "nosuch"}):
        answer = client.get(f"/build?{urlencode(query)}")
        assert answer.status == 404
        assert 'role="alert"' in text_of(answer) and 'id="search"' in text_of(answer)


def test_the_form_begins_with_what_the_device_has(client: AsgiClient) -> None:
    page = text_of(client.get(f"/build?{urlencode({**DEVICE, 'profile': 'acme,widget-5'})}"))
    # Of form_packages only what this version and target have.
    assert ">base-files dnsmasq kmod-usb2 luci</textarea>" in page and "no-web" not in page
    assert 'name="diff_packages" value="1" checked' in page
    assert "<h1>Acme Widget 5</h1>" in page and 'value="acme_widget-5"' in page


def test_what_the_operator_offers_is_in_the_form(scene: Scene) -> None:
    scene.settings = replace(
        scene.settings,
        allow_defaults=True,
        repository_allow_list=("https://feeds.example.org/{version}",),
        form_packages=("luci", "nosuch", "-dnsmasq"),
        form_suggestions={"Editors": ("vim", "nosuch"), "Games": ("nosuch",)},
        form_repositories={"own": "https://feeds.example.org/{version}/{target}/{subtarget}/{arch}"},
        form_defaults="echo <b>",
        form_links={"Forum": "https://forum.example.org/?q={title}&p={profile}"},
        form_for={"acme_widget-5": {"packages": ("-luci",)}, "pico/nine": {"packages": ("tmux",)}},
    )
    with AsgiClient(scene.app()) as client:
        page = text_of(client.get(f"/build?{urlencode(DEVICE)}"))
        other = text_of(client.get(f"/build?{urlencode({**DEVICE, 'packages': 'luci', 'defaults': ''})}"))
        added = text_of(
            client.post("/build", urlencode({**DEVICE, "packages": "luci", "add": "vim tmux"}).encode(), FORM)
        )
    assert ">base-files kmod-usb2 tmux</textarea>" in page and 'data-preview="no-web"' in page
    assert 'name="add" value="vim"' in page and "Games" not in page
    assert ">own https://feeds.example.org/24.10.5/pico/nine/pico_24kc</textarea>" in page
    assert ">echo &lt;b&gt;</textarea>" in page
    assert "https://forum.example.org/?q=Acme%20Widget%205&amp;p=acme_widget-5" in page
    assert ">luci</textarea>" in other and "no-web" not in other and "echo" not in other
    assert ">luci vim tmux</textarea>" in added, "without a script a group is added by the server"


def test_an_image_without_a_web_interface_is_told_of(scene: Scene, client: AsgiClient) -> None:
    names = ("luci-app-firewall", "luci-ssl")
    told = [
        'data-preview="no-web"' in text_of(send(client, packages=name, diff_packages="1", do="preview"))
        for name in names
    ]
    # What is surely installed counts, whoever brings it.
    scene.resolver.answer = Foretold(Feasibility.FINE, packages={"vendor-web": "1", "luci-light": "1"})
    fine = text_of(send(client, packages="vendor-web", diff_packages="1", do="preview"))
    assert told == [True, False] and 'data-preview="no-web"' not in fine


def test_what_cannot_be_told_is_not_said_to_be_impossible(scene: Scene, client: AsgiClient) -> None:
    lacking = BuildProblem(missing=("libc",), needed_by={"libc": ("luci",)}, conflicts=("luci", "vim"))
    scene.resolver.answer = unknown("The ImageBuilder has not been used yet.", lacking)
    page = text_of(send(client, packages="luci", do="preview"))
    assert 'data-preview="untold"' in page and "data-wrong" not in page and "impossible" not in page


def test_what_was_chosen_beside_default_packages_goes_along() -> None:
    chosen = Fields(packages="base luci kmod-old", diff_packages=True)
    theirs, ours = ("base", "ppp", "kmod-old"), ("base", "ppp", "kmod-new")
    assert carry_over(chosen, theirs, ours) == (["base", "kmod-new", "luci"], ["kmod-old"])
    alone = Fields(packages="luci -ppp")
    assert carry_over(alone, theirs, ours) == (["luci", "-ppp"], [])


def test_packages_of_another_version_are_kept_and_what_is_gone_is_named(client: AsgiClient) -> None:
    query = {**DEVICE, "packages": "base-files kmod-usb2 luci nosuch", "diff_packages": "1"}
    page = text_of(client.get(f"/build?{urlencode({**query, 'was': '24.10.4 pico/nine acme_widget-5'})}"))
    assert ">base-files kmod-usb2 luci nosuch</textarea>" in page
    kept = page.partition('id="kept"')[2].partition("</p>")[0]
    assert "24.10.4" in kept and "<code>nosuch</code>" in kept and "luci" not in kept
    for was in ("", "x", "1.2.3 pico/nine acme_widget-5", "24.10.4 no/such x"):
        unkept = client.get(f"/build?{urlencode({**query, 'was': was})}")
        assert unkept.status == 200 and 'id="kept"' not in text_of(unkept)


def test_another_device_or_version_is_chosen_without_a_script_with_the_same_packages(
    client: AsgiClient,
) -> None:
    page = text_of(client.get(f"/build?{urlencode({**DEVICE, 'packages': 'luci', 'filesystem': 'ext4'})}"))
    link = page.partition('id="other-device"')[0].rpartition('href="')[2].partition('"')[0]
    search = text_of(client.get(html.unescape(link) + "&search=widget"))
    there = html.unescape(search.partition('class="devices"')[2].partition('href="')[2].partition('"')[0])
    assert ">luci</textarea>" in text_of(client.get(there)) and "filesystem=ext4" in there
    for text in (page, search):
        assert 'name="was" value="24.10.5 pico/nine acme_widget-5"' in text


def test_a_version_without_a_target_is_not_offered(
    scene: Scene, client: AsgiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        scene.upstream,
        "targets",
        lambda release, wait=True: {"pico/nine": "a"} if release.version == "24.10.4" else {},
    )
    monkeypatch.setattr(scene.upstream, "versions", lambda: VersionList(("24.10.5", "24.10.4"), ("24.10.5",)))
    page = text_of(client.get("/build"))
    assert '"24.10.4"' in page and '"24.10.5"' not in page and '"SNAPSHOT"' not in page


def test_a_device_of_another_version_is_found_there(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene.upstream, "versions", lambda: VersionList(("24.10.5", "23.05.6"), ("24.10.5",)))
    known = Device(Title(vendor="Old", model="Router"), "pico/nine", "old_router")
    monkeypatch.setattr(
        scene.upstream, "devices", lambda release: (known,) if release.version == "23.05.6" else ()
    )
    monkeypatch.setattr(scene.upstream, "targets", lambda release, wait=True: {"pico/nine": "pico_24kc"})
    with AsgiClient(scene.app()) as client:
        for query in ("search=old+router", "target=pico/nine&profile=old_router"):
            page = text_of(client.get(f"/build?version=24.10.5&{query}"))
            there = page.partition('id="elsewhere"')[2]
            assert "version=23.05.6&amp;target=pico%2Fnine&amp;profile=old_router" in there
        assert 'id="elsewhere"' not in text_of(client.get("/build?version=24.10.5&search=zzzzq"))


def test_a_link_fills_the_form(client: AsgiClient) -> None:
    request = a_request(packages=("luci", "-ppp", "libstdc++"), rootfs_size_mb=64, filesystem="ext4")
    page = text_of(client.get(link_to(request)))
    assert ">luci -ppp libstdc++</textarea>" in page and 'value="64"' in page
    assert "<option selected>ext4</option>" in page and 'value="1" checked' not in page
    assert 'id="options" open' in page


def test_only_the_device_s_file_systems_are_offered(
    scene: Scene, client: AsgiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [{"filesystem": name} for name in ("ext4", "squashfs", "ext4", "ubifs2")] + [{}]
    monkeypatch.setattr(scene.upstream, "profile", json.dumps({"images": images}).encode())
    page = text_of(client.get(f"/build?{urlencode(DEVICE)}"))
    offered = page.partition('id="filesystem"')[2].partition("</select>")[0]
    assert re.findall(r"<option>(.*?)<", offered) == ["squashfs", "ext4", "ubifs2"]


def test_a_link_may_name_a_file_system_that_is_not_offered(client: AsgiClient) -> None:
    page = text_of(client.get(link_to(a_request(filesystem="f2fs"))))
    assert "<option selected>f2fs</option>" in page and page.count("<option selected>") == 1


def test_a_link_takes_nothing_private_along() -> None:
    request = a_request(
        defaults="passwd", repositories={"own": "https://u:p@x.example.org"}, repository_keys=("key",)
    )
    assert not {"passwd", "u:p", "key"} & set(link_to(request).replace("=", "&").split("&"))
    assert "example.org" not in link_to(request)
    assert len(not_linked(request)) == 3


def test_what_is_not_allowed_is_said_with_its_reason(client: AsgiClient) -> None:
    page = text_of(client.get(f"/build?{urlencode(DEVICE)}"))
    assert 'name="defaults"' not in page and "allow_defaults" in page
    assert 'name="repositories"' not in page and "repository_allow_list" in page
    assert "At most 1024 on this server" in page


def test_a_sent_form_leads_to_the_build_s_page(client: AsgiClient, builds: FakeBuilds) -> None:
    answer = send(
        client,
        packages="luci,\r\n tmux luci",
        diff_packages="1",
        rootfs_size_mb=" 64 ",
        filesystem="squashfs",
        repositories="own https://feeds.example.org/x\r\n",
        repository_keys="-----BEGIN PUBLIC KEY-----\r\nAA\r\n\r\nusign\r\n",
        defaults="echo 1\r\necho 2\r\n",
        do="build",
    )
    expected = a_request(
        packages=("luci", "tmux"),
        diff_packages=True,
        rootfs_size_mb=64,
        filesystem="squashfs",
        repositories={"own": "https://feeds.example.org/x"},
        repositories_mode="append",
        repository_keys=("-----BEGIN PUBLIC KEY-----\nAA", "usign"),
        defaults="echo 1\necho 2\n",
    )
    assert sent_request(builds) == expected
    assert (answer.status, answer.header("location")) == (303, f"/build/{request_hash(expected)}")
    assert builds.clients == ["web/1.2.3"]


def test_the_secret_to_cancel_is_kept_for_that_page_alone(client: AsgiClient) -> None:
    answer = send(client)
    cookie = answer.header("set-cookie") or ""
    assert f"Path={answer.header('location')}" in cookie
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert json.dumps(CANCEL_TOKEN)[1:-1] in cookie
    assert CANCEL_TOKEN not in (answer.header("location") or "")
    assert send(client).header("set-cookie") is None  # the second one joins


def test_a_signed_in_operator_asks_by_the_token_s_name(client: AsgiClient, builds: FakeBuilds) -> None:
    send(client, {"cookie": f"asu_token={OPERATOR.replace(' ', '%20')}"})
    send(client, {"authorization": f"Bearer {OPERATOR}"}, packages="luci")
    assert builds.callers[-1] == "ann" and builds.callers[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("fields", "wrong", "words"),
    [
        ({"packages": "luci $(reboot)"}, "packages", "$(reboot)&#34;, expected a package name"),
        ({"rootfs_size_mb": "many"}, "rootfs_size_mb", "Expected a whole number"),
        ({"rootfs_size_mb": "0"}, "rootfs_size_mb", "Expected a positive number"),
        ({"filesystem": "fa t"}, "filesystem", "Expected a name like"),
    ],
)
def test_an_error_stands_at_its_field_which_keeps_what_was_typed(
    client: AsgiClient, builds: FakeBuilds, fields: dict[str, str], wrong: str, words: str
) -> None:
    answer = send(client, None, **fields)
    page = text_of(answer)
    assert answer.status == 422 and builds.jobs == {}
    field = page[page.index(f'id="{wrong}"') :].partition(">")[0]
    assert 'aria-invalid="true"' in field and "autofocus" in field and 'aria-describedby="wrong ' in field
    assert page.count('aria-invalid="true"') == 1
    assert words in page[page.index('id="wrong"') :].partition("</p>")[0]
    if wrong != "filesystem":
        assert fields[wrong] in page
    assert wrong == "packages" or 'id="options" open' in page


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (RequestRejected("Repository not allowed: https://<evil>"), 400, None),
        (RequestRejected("Unsupported profile: x"), 400, None),
        (QueueFull(9, 30), 429, "30"),
        (TooManyRequests("Too many from here.", retry_after=7), 429, "7"),
        (Unavailable("The disk is full.", retry_after=300, plain=True), 503, "300"),
    ],
)
def test_a_refusal_comes_back_with_the_form_and_the_status_of_the_interface(
    client: AsgiClient, builds: FakeBuilds, error: Exception, status: int, retry_after: str | None
) -> None:
    builds.error = error
    answer = send(client, packages="luci tmux")
    assert (answer.status, answer.header("retry-after")) == (status, retry_after)
    page = text_of(answer)
    assert ">luci tmux</textarea>" in page and 'role="alert"' in page and "<evil>" not in page
    assert str(error).partition("<")[0] in page


def test_what_was_written_for_a_device_that_is_no_more_can_be_sent_again(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    builds.error = RequestRejected("Unsupported profile: nosuch")
    answer = send(client, profile="nosuch", packages="luci tmux", defaults="echo <b>", rootfs_size_mb="64")
    page = text_of(answer)
    assert answer.status == 400
    assert "Unsupported profile: nosuch" in page and 'id="search"' in page
    assert 'name="packages" rows="5" spellcheck="false">luci tmux</textarea>' in page
    assert ">echo &lt;b&gt;</textarea>" in page and 'name="repositories" ' not in page
    for name, value in (("profile", "nosuch"), ("version", "24.10.5"), ("rootfs_size_mb", "64")):
        assert f'<input type="hidden" name="{name}" value="{value}">' in page


def test_a_form_that_is_refused_keeps_every_field(scene: Scene, builds: FakeBuilds) -> None:
    scene.settings = replace(
        scene.settings, allow_defaults=True, repository_allow_list=("https://a.example.org",)
    )
    written = {name: "1" for name in Fields.__struct_fields__ if name not in DEVICE}
    with AsgiClient(scene.app()) as client:
        for device, place in ((DEVICE["profile"], 'id="build-form"'), ("nosuch", 'id="sent"')):
            builds.error = RequestRejected("Not here.")
            body = urlencode({**DEVICE, **written, "profile": device}).encode()
            page = text_of(client.post("/build", body, FORM))
            assert place in page
            lost = [name for name in Fields.__struct_fields__ if f'name="{name}"' not in page]
            assert lost == []


def test_what_was_written_while_the_download_server_is_away_can_be_sent_again(
    scene: Scene, builds: FakeBuilds
) -> None:
    away = Unavailable("The download server does not answer.", retry_after=11, plain=True)

    class Away(DescribingUpstream):
        def target_profiles(self, release: Release, target: str) -> None:
            raise away

    scene.upstream = Away()
    builds.error = away
    with AsgiClient(scene.app()) as client:
        answer = send(client, packages="luci tmux", diff_packages="1")
        assert (answer.status, answer.header("retry-after")) == (503, "11")
        page = text_of(answer)
        assert "The download server does not answer." in page and ">luci tmux</textarea>" in page
        assert '<input type="hidden" name="diff_packages" value="1">' in page


def test_a_form_of_another_site_does_nothing(client: AsgiClient, builds: FakeBuilds) -> None:
    answer = send(client, {"sec-fetch-site": "cross-site"})
    assert answer.status == 403 and builds.jobs == {}


def test_the_preview_without_script_tells_what_packages_mean(client: AsgiClient, builds: FakeBuilds) -> None:
    answer = send(client, packages="base-files kmod-usb2 tmux lucy", diff_packages="1", do="check")
    page = text_of(answer)
    assert answer.status == 200 and builds.jobs == {}
    assert 'name="replace" value="lucy=luci"' in page
    added = page[page.index('data-preview="added"') :].partition("</dd>")[0]
    removed = page[page.index('data-preview="removed"') :].partition("</dd>")[0]
    assert "tmux" in added and "kmod-usb2" not in added
    assert "dnsmasq" in removed and "swconfig" not in removed
    assert ">base-files kmod-usb2 tmux lucy</textarea>" in page


def test_a_suggestion_is_taken_without_script(client: AsgiClient) -> None:
    page = text_of(send(client, packages="tmux lucy", replace="lucy=luci"))
    assert ">tmux luci</textarea>" in page and "All packages exist" in page
    assert ">tmux</textarea>" in text_of(send(client, packages="tmux lucy", replace="lucy="))


def test_a_selection_that_can_be_installed_tells_everything_in_the_image(scene: Scene) -> None:
    scene.resolver.answer = Foretold(
        Feasibility.FINE,
        packages={"base-files": "1637~d9c5716d1d", "libc": "1.2.5-r4", "tmux": "3.5-r1"},
        kept=("dnsmasq", "libc"),
        download_size=2_000_000,
        installed_size=5_000_000,
    )
    with AsgiClient(scene.app()) as client:
        page = text_of(send(client, packages="tmux -dnsmasq", do="check"))
    assert "3 with their dependencies" in page and "2.0 MB" not in page and "1.9 MiB" in page
    assert "need them:\n<code>dnsmasq</code>" in page and "<code>libc</code> </p>" not in page
    assert "<code>tmux</code> 3.5-r1" in page
    assert 'data-preview="kept"' in page and "data-wrong" not in page
    (names,) = scene.resolver.asked
    assert {"tmux", "dnsmasq", "kmod-usb2", "libc"} <= set(names)


def test_what_cannot_be_installed_is_shown_at_the_name_that_causes_it(scene: Scene) -> None:
    scene.resolver.answer = Foretold(
        Feasibility.IMPOSSIBLE,
        problem=BuildProblem(
            missing=("lucy", "libgone", "crypto-any"),
            conflicts=("vim", "base-files"),
            needed_by={"libgone": ("tmux", "some-library")},
            providers={"crypto-any": ("crypto-a", "crypto-b")},
        ),
        nearest={"lucy": ("luci",), "libgone": ("libgo",)},
    )
    with AsgiClient(scene.app()) as client:
        page = text_of(send(client, packages="tmux lucy vim crypto-any", do="check"))
    wrong = set(re.findall(r'data-wrong="([^"]+)"', page))
    assert wrong == {"tmux", "lucy", "vim", "crypto-any"}
    taken = set(re.findall(r'name="replace" value="([^"]+)"', page))
    assert {"lucy=luci", "crypto-any=crypto-a", "crypto-any=crypto-b", "tmux=", "vim="} <= taken
    assert not {"libgone=libgo", "base-files=", "some-library="} & taken
    assert "<code>tmux</code> needs <code>libgone</code>" in page


def test_what_needs_something_missing_from_afar_is_found(scene: Scene) -> None:
    problem = BuildProblem(missing=("libgone",), needed_by={"libgone": ("some-library",)})
    broken: set[str] = set()

    def resolve(_: object, names: Sequence[str]) -> Foretold:
        return Foretold(Feasibility.IMPOSSIBLE, problem=problem) if broken & set(names) else UNTOLD

    scene.resolver.resolve = resolve  # type: ignore[method-assign, assignment]
    with AsgiClient(scene.app()) as client:
        for names, found in (("d", ["d"]), ("a", ["a"]), ("b e", ["b"]), ("dnsmasq", [])):
            broken.clear()
            broken.update(names.split())
            page = text_of(send(client, packages="a b dnsmasq c d e -ppp", do="check"))
            assert re.findall(r'data-wrong="([^"]+)"', page) == found
            assert re.findall(r'name="replace" value="([^"]+)"', page) == [f"{name}=" for name in found]
        broken.clear()
        broken.add("b")
        failure = BuildFailure(FailureReason.IMPOSSIBLE_SELECTION, "Error: no", problem=problem)
        request = a_request(packages=("a", "b"))
        name = scene.builds.hold(request, state=JobState.FAILED, finished_at=NOON, outcome=failure)
        assert "Build without b<" in text_of(client.get(f"/build/{name}"))


def test_what_does_not_exist_is_left_out_of_the_preview_as_of_the_build(scene: Scene) -> None:
    problem = BuildProblem(missing=("lucy", "dnsmasq"))
    told = [Foretold(Feasibility.IMPOSSIBLE, problem=problem, nearest={"lucy": ("luci",)}), UNTOLD]
    scene.resolver.resolve = lambda _, names: told.pop(0) if "lucy" in names else UNTOLD  # type: ignore[method-assign, assignment]
    with AsgiClient(scene.app()) as client:
        page = text_of(send(client, packages="tmux dnsmasq lucy", on_missing="drop", do="check"))
    left_out = page.partition('data-preview="left-out"')[2].partition("</ul>")[0]
    assert re.findall(r'data-wrong="([^"]+)"', left_out) == ["lucy"], "a default package is not left out"
    assert 'value="lucy=luci"' in left_out and 'id="options" open' in page
    added = page.partition('data-preview="added">')[2].partition("</dd>")[0]
    assert "tmux" in added and "lucy" not in added
    assert 'value="drop" checked' in page


def test_a_provider_is_added_beside_the_package_that_needs_it(scene: Scene) -> None:
    scene.resolver.answer = Foretold(
        Feasibility.IMPOSSIBLE,
        problem=BuildProblem(
            missing=("crypto",), needed_by={"crypto": ("tmux",)}, providers={"crypto": ("crypto-a",)}
        ),
    )
    with AsgiClient(scene.app()) as client:
        page = text_of(send(client, packages="tmux", do="check"))
        assert 'name="replace" value="tmux=tmux crypto-a"' in page
        assert ">vim tmux crypto-a</textarea>" in text_of(
            send(client, packages="vim tmux", replace="tmux=tmux crypto-a")
        )


def test_the_preview_for_a_script_is_a_piece_of_a_page(client: AsgiClient) -> None:
    answer = send(client, packages="<b>", do="preview")
    assert answer.status == 200 and b"<html" not in answer.body
    assert b"a package name of letters" in answer.body and b"<b>" not in answer.body


def test_previews_are_limited_as_those_of_the_interface(scene: Scene) -> None:
    scene.limit_previews = lambda _: TooManyRequests("Slower, please.", retry_after=9)
    with AsgiClient(scene.app()) as client:
        assert "Slower, please." in text_of(send(client, do="preview"))
        with_token = send(client, {"authorization": f"Bearer {OPERATOR}"}, do="preview")
        assert "Slower" not in text_of(with_token)


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (RequestMalformed("packages[3]: no", field="packages"), "packages"),
        (RequestMalformed("no", field="packages_versions"), "packages"),
        (RequestRejected("Unsupported version: 1", field="version"), "version"),
        (RequestRejected("Repository not allowed: https://x", field="repositories"), "repositories"),
        (RequestRejected("packages: a sentence is not read"), ""),
        (RequestRejected("no", field="client"), ""),
        (Unavailable("packages: no"), ""),
    ],
)
def test_an_error_names_its_field(error: AsuError, field: str) -> None:
    assert field_of(error) == field


def test_repositories_are_a_name_and_an_address_each(client: AsgiClient, builds: FakeBuilds) -> None:
    answer = send(client, repositories="only-a-name")
    assert answer.status == 422 and builds.jobs == {}
    assert "a name and an address on each line" in text_of(answer)


def test_a_form_reads_only_what_it_has() -> None:
    assert read_fields({"version": " 24.10.5 ", "unknown": "x", "diff_packages": "0"}).version == "24.10.5"


class SlowUpstream(DescribingUpstream):
    """Has not been asked for any device yet."""

    def devices(self, release: Release) -> Sequence[Device] | None:
        raise Unavailable("It is being fetched. Try again in a few seconds.", retry_after=3, plain=True)


def test_a_page_that_waits_for_upstream_looks_again_by_itself(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.upstream = SlowUpstream()
    with AsgiClient(scene.app()) as client:
        answer = client.get("/build?version=24.10.5&search=widget")
    assert (answer.status, answer.header("refresh"), answer.header("retry-after")) == (503, "3", "3")
    assert "Try again in a few seconds" in text_of(answer)
