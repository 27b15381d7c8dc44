"""Every way a build can fail: the sentence, whose fault it is, and the shape on the wire.

What is known before a build is refused without one (`test_refused.py`): this service has no preflight.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from asu_builder.domain.job import COOL_DOWN
from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.conftest import Make, local_settings, running
from e2e.service import Answer, Client, Service
from factories import eventually
from podman_service import APK_VERSION, OPKG_VERSION

APK, OPKG = APK_VERSION, OPKG_VERSION
WIDGET, SAFE, COMBINED, SMALL = "acme_widget-5", "acme_safe", "acme_combined-v1.5", "acme_small"
_SELECTION = "Error: Impossible package selection: "
_MAKE = "Error: Error while building firmware. See stdout/stderr"
_TOO_BIG = "Error: Selected packages exceed device storage"
_SCRIPT = (
    f"{_MAKE}. The install script of sample-postinst-fail failed with exit code 3; leave that package out"
)
_NEEDED = "this-package-does-not-exist is needed by sample-broken-dep"
_BROKEN = f"{_SELECTION}missing (this-package-does-not-exist). {_NEEDED}"


_SELECTIONS: list[tuple[str, list[str], str]] = [
    (APK, ["no-such-a"], f"{_SELECTION}missing (no-such-a)"),
    (OPKG, ["no-such-a"], f"{_SELECTION}missing (no-such-a)"),
    (APK, ["no-such-a", "vim", "nor-b"], f"{_SELECTION}missing (no-such-a, nor-b)"),
    (OPKG, ["no-such-a", "vim", "nor-b"], f"{_SELECTION}missing (no-such-a, nor-b)"),
    (APK, ["sample-broken-dep"], _BROKEN),
    (OPKG, ["sample-broken-dep"], _BROKEN),
    (APK, ["sample-needs-broken"], _BROKEN),
    (OPKG, ["sample-needs-broken"], _BROKEN),
    (APK, ["dnsmasq-full"], f"{_SELECTION}conflicts (dnsmasq, dnsmasq-full)"),
    (OPKG, ["dnsmasq-full"], f"{_SELECTION}conflicts (dnsmasq, dnsmasq-full)"),
    (APK, ["nftables-nojson"], f"{_SELECTION}conflicts (nftables-json, nftables-nojson)"),
    (OPKG, ["nftables-nojson"], f"{_SELECTION}conflicts (nftables-json, nftables-nojson)"),
]
_EXCLUSIVE = [[f"sample-{kind}-a", f"sample-{kind}-b"] for kind in ("conflict", "clash")]
_TOO_BIG_FOR = [
    (SMALL, "is too big: "),
    (WIDGET, "is too big: "),
    (SAFE, "file-system partition too big"),
    (COMBINED, "images are too big by "),
]


def a_body(**changes: object) -> dict[str, object]:
    """What a client posts."""
    return {"version": APK, "target": "pico/nine", "profile": WIDGET, **changes}


def a_huge_body(version: str) -> dict[str, object]:
    """What does not fit into the root partition."""
    return a_body(version=version, target="x86/64", profile="generic", packages=["sample-huge"])


@pytest.fixture(scope="module")
def local_service(
    sample_world: Distribution, upstream: DownloadServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service that learns what is impossible from the package manager alone."""
    settings = local_settings(sample_world, upstream.url) | {"preflight": "off"}
    yield from running(Service(tmp_path_factory.mktemp("failures"), settings))


@pytest.fixture(scope="module", autouse=True)
def asked_ahead(local_service: Service) -> None:
    """Everything that fails in this module is asked for at once, so that no test waits for long."""
    bodies = [a_body(version=version, packages=packages) for version, packages, _ in _SELECTIONS]
    for version in (APK, OPKG):
        bodies += [a_body(version=version, packages=packages) for packages in _EXCLUSIVE]
        bodies += [
            a_body(version=version, profile=profile, packages=["sample-big"]) for profile, _ in _TOO_BIG_FOR
        ]
        bodies += [a_body(version=version, packages=["sample-postinst-fail"]), a_huge_body(version)]
    with local_service.client() as client:
        assert {client.post_patiently(body).status for body in bodies} <= {202, 500}


def require_failure(answer: Answer, *, fault: str, reason: str) -> Any:
    """The document of a failed build, after checking what every one has."""
    assert answer.status == 500, answer.json
    failed = answer.json
    assert (failed["status"], failed["title"], failed["state"]) == (500, "Build failed", "failed")
    assert failed["imagebuilder_status"] == "failed"
    assert (failed["fault"], failed["reason"]) == (fault, reason)
    assert isinstance(failed["stdout"], str) and isinstance(failed["stderr"], str)
    assert isinstance(failed["request"], dict) and len(failed["request_hash"]) == 64
    assert "images" not in failed and "queue_position" not in failed
    assert "Traceback" not in answer.body.decode()
    assert answer.headers["x-imagebuilder-status"] == "failed"
    assert answer.headers["access-control-allow-origin"] == "*"
    return failed


def require_problem(answer: Answer, status: int) -> str:
    """The detail of an error that is not a failed build, after checking what every one has."""
    assert answer.status == status, answer.body
    problem = answer.json
    assert (
        {"status", "title", "detail"}
        <= problem.keys()
        <= {"status", "title", "detail", "code", "side", "field"}
    )
    assert problem["status"] == status and problem["title"]
    assert "Traceback" not in problem["detail"] and ".py" not in problem["detail"]
    assert answer.headers["access-control-allow-origin"] == "*"
    detail = problem["detail"]
    assert isinstance(detail, str)
    return detail


@pytest.mark.parametrize(("version", "packages", "detail"), _SELECTIONS)
def test_an_impossible_selection_names_the_packages(
    local: Client, version: str, packages: list[str], detail: str
) -> None:
    failed = require_failure(
        local.build(a_body(version=version, packages=packages)), fault="user", reason="impossible_selection"
    )
    assert failed["detail"] == detail
    assert failed["build_cmd"][:2] == ["make", "manifest"]


@pytest.mark.parametrize("version", [APK, OPKG])
@pytest.mark.parametrize("kind", ["conflict", "clash"])
def test_two_packages_that_exclude_each_other_are_both_named(local: Client, version: str, kind: str) -> None:
    names = [f"sample-{kind}-a", f"sample-{kind}-b"]
    answer = local.build(a_body(version=version, packages=names))
    detail = require_failure(answer, fault="user", reason="impossible_selection")["detail"]

    assert detail.startswith(f"{_SELECTION}conflicts (")
    assert sorted(detail.partition("(")[2].rstrip(")").split(", ")) == names


@pytest.mark.parametrize("version", [APK, OPKG])
def test_a_missing_package_is_named_beside_a_broken_one(local: Client, version: str) -> None:
    answer = local.build(a_body(version=version, packages=["sample-needs-broken", "no-such-a"]))
    detail = require_failure(answer, fault="user", reason="impossible_selection")["detail"]

    assert "this-package-does-not-exist" in detail.partition("missing (")[2].partition(")")[0]
    assert "no-such-a" in detail


@pytest.mark.parametrize("version", [APK, OPKG])
def test_a_failing_install_script_is_named(local: Client, version: str) -> None:
    answer = local.build(a_body(version=version, packages=["sample-postinst-fail"]))
    failed = require_failure(answer, fault="user", reason="make_failed")

    assert failed["detail"] == _SCRIPT
    assert failed["build_cmd"][:2] == ["make", "image"]
    assert "sample: failing on purpose" in failed["stderr"]


@pytest.mark.parametrize("version", [APK, OPKG])
@pytest.mark.parametrize(("profile", "wording"), _TOO_BIG_FOR)
def test_an_image_that_does_not_fit_is_a_failure_though_make_succeeds(
    local: Client, version: str, profile: str, wording: str
) -> None:
    answer = local.build(a_body(version=version, profile=profile, packages=["sample-big"]))
    failed = require_failure(answer, fault="user", reason="too_big")

    assert failed["detail"].startswith(_TOO_BIG)
    assert wording in failed["stderr"]
    if profile in (SMALL, WIDGET):
        assert " bytes do not fit into 262144, " in failed["detail"]


@pytest.mark.parametrize("version", [APK, OPKG])
def test_a_full_root_partition_says_what_helps(local: Client, version: str) -> None:
    failed = require_failure(local.build(a_huge_body(version)), fault="user", reason="too_big")

    assert failed["detail"] == (
        f"{_TOO_BIG}: the root file system is full; a larger rootfs_size_mb or fewer packages help"
    )
    assert "out of space?" in failed["stderr"]


def test_what_nothing_explains_is_never_the_users_and_tried_again(
    local_service: Service, local: Client
) -> None:
    name = local.post_patiently(a_body(profile="acme_tiny")).json["request_hash"]
    query = f"SELECT history FROM build_jobs WHERE request_hash = '{name}' AND retries > 0"
    local.wait_until(name, lambda _: bool(local_service.rows(query)))
    assert _MAKE in local_service.rows(query)[0][0]


def test_the_failure_of_a_user_is_remembered(local_service: Service, local: Client) -> None:
    # Of two files no index says whose they are, so only a build can tell.
    body = a_body(packages=["sample-clash-a", "sample-clash-b"])
    first = local.build(body)
    again = local.post(body)

    assert again.json == first.json
    query = f"SELECT count(*) FROM build_jobs WHERE request_hash = '{first.json['request_hash']}'"
    assert local_service.rows(query) == [(1,)]


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"version": "99.99.99"}, "Unsupported branch: 99.99.99"),
        ({"version": "bogus"}, "Unsupported branch: bogus"),
        ({"version": "99.99-SNAPSHOT"}, "Unsupported branch: 99.99-SNAPSHOT"),
        ({"target": "pico/ten"}, "Unsupported target: pico/ten. The requested target was either dropped"),
        ({"target": "nano/tiny"}, "Unsupported target: nano/tiny. "),
        ({"profile": "acme_x"}, "Unsupported profile: acme_x. The requested profile was either dropped"),
        ({"distro": "debian"}, "Unsupported distro: debian"),
        ({"repositories": {"x": "http://127.0.0.1/x"}}, "Repository not allowed: http://127.0.0.1/x"),
        ({"rootfs_size_mb": 1025}, "rootfs_size_mb: at most 1024 MiB are allowed here"),
        ({"defaults": "x" * 20481}, "defaults: at most 20480 characters are allowed here"),
    ],
)
def test_what_this_server_does_not_offer_is_refused_at_once(
    local: Client, changes: dict[str, object], detail: str
) -> None:
    assert require_problem(local.post(a_body(**changes)), 400).startswith(detail)


def test_defaults_are_refused_where_they_are_not_allowed(make_local: Make) -> None:
    service = make_local(allow_defaults="false").start()
    with service.client() as client:
        detail = require_problem(client.post(a_body(defaults="#!/bin/sh")), 400)
        assert client.post(a_body(defaults="")).status == 202
    assert detail == "Handling `defaults` not enabled on server"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b'"text"', "body"),
        (b"\xff\xfe", "body"),
        (b"{}", "version"),
        (b'{"version": "25.12.0"}', "target"),
        (b'{"version": 25, "target": "pico/nine", "profile": "x"}', "version"),
        (b"[" * 100_000, "body"),
        (b'{"version": ' + b"[" * 5000 + b"]" * 5000 + b"}", "version"),
    ],
)
def test_a_body_that_is_no_request_is_told_what_is_wrong(local: Client, body: bytes, field: str) -> None:
    answer = local.ask("POST", "/api/v1/build", body, {"Content-Type": "application/json"})
    assert require_problem(answer, 422).startswith(f"{field}: ")


_NOT_MEANT: dict[str, list[object]] = {
    "packages": ["vim", {"vim": "1"}, [1], [None], 7, ["a b"]],
    "packages_versions": [["vim"], {"vim": 1}, {"vim": "1 2"}, {"a b": "1"}],
    "rootfs_size_mb": [0, -1, 1.5, "big", [], 1e300, 2**70, "1" * 19],
    "filesystem": ["nt fs", "$(id)", 1, ["ext4"]],
    "diff_packages": ["maybe", 2, []],
    "repositories_mode": ["prepend", 1],
    "repositories": [["x"], {"x": "ftp://x/y"}, {"": "http://x/"}, {"x": None}],
    "repository_keys": ["key", ["\u2028"], [1]],
    "target": ["", "pico", "pico/nine/x", "/", None],
    "profile": ["", None, "x" * 300],
    "defaults": [1, ["x"], "nul \0"],
    "version_code": [1, "r1 2"],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in _NOT_MEANT.items() for value in values]
)
def test_a_field_that_cannot_be_meant_is_named(local: Client, field: str, value: object) -> None:
    assert require_problem(local.post(a_body(**{field: value})), 422).startswith(field)


def test_a_body_beyond_all_reason_is_refused(local: Client) -> None:
    answer = local.ask("POST", "/api/v1/build", b"x" * (1 << 20) + b"x")
    assert "at most 1048576 bytes" in require_problem(answer, 413)


@pytest.mark.parametrize("request_hash", ["0" * 64, "0" * 63, "x", "A" * 64, "0" * 5000, "..", "%00"])
def test_an_unknown_hash_is_not_found(local: Client, request_hash: str) -> None:
    require_problem(local.look(request_hash), 404)
    assert local.head(f"/api/v1/build/{request_hash}").body == b""


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_a_method_nobody_offers_is_refused(local: Client, method: str) -> None:
    require_problem(local.ask(method, "/api/v1/build"), 405)


def test_a_full_queue_refuses_new_requests_and_still_answers_known_ones(make_local: Make) -> None:
    service = make_local(max_pending_jobs=2, worker_concurrent=0).start()
    with service.client() as client:
        first, second = client.post(a_body(packages=["vim"])), client.post(a_body(packages=["tmux"]))
        refused = client.post(a_body(packages=["nano"]))
        known = client.post(a_body(packages=["vim"]))

    assert (first.json["queue_position"], second.json["queue_position"]) == (0, 1)
    detail = "server overload, queue contains too many build requests: 2"
    assert require_problem(refused, 429) == detail
    assert int(refused.headers["retry-after"]) > 0
    assert known.json["request_hash"] == first.json["request_hash"]


@pytest.mark.parametrize("kind", ["local", "podman"])
def test_a_build_that_says_nothing_is_ended_at_its_deadline(
    request: pytest.FixtureRequest, kind: str
) -> None:
    service: Service = request.getfixturevalue(f"make_{kind}")(job_timeout="2s").start()
    with service.client() as client:
        answer = client.build(a_body(packages=["sample-silent-hang"]))
        failed = require_failure(answer, fault="world", reason="deadline")
        after = client.post(a_body(packages=["sample-silent-hang"]))
        assert after.status == 500, "not tried again within the cool-down"
        service.pass_time(COOL_DOWN)
        again = a_body(packages=["sample-silent-hang"])
        assert eventually(lambda: client.post(again).status == 202), "a deadline is infrastructure's"
        assert client.build(again).json["reason"] == "deadline"

    assert failed["detail"].startswith("Error: The build did not end within ")
    assert "Try again in a minute" in failed["detail"]
    assert eventually(lambda: service.leftovers() == [])


def test_no_imagebuilder_for_a_known_version_is_the_worlds_fault(make_local: Make) -> None:
    service = make_local()
    template = str(service.settings()["imagebuilder_path"])
    service.change(imagebuilder_path=template.replace("{version}", f"{{version}}{'-gone'}"))
    with service.start().client() as client:
        failed = require_failure(client.build(a_body()), fault="world", reason="imagebuilder_missing")
    assert failed["detail"].startswith("Error: Image not found: ")
    assert failed["stdout"] == failed["stderr"] == ""


def test_many_failures_at_once_do_not_disturb_each_other(local_service: Service) -> None:
    def fail(number: int) -> str:
        with local_service.client() as client:
            answer = client.build(a_body(packages=[f"missing-{number}"]))
            return str(json.loads(answer.body)["detail"])

    with ThreadPoolExecutor(8) as threads:
        details = list(threads.map(fail, range(8)))
    assert details == [f"{_SELECTION}missing (missing-{number})" for number in range(8)]
