"""The traps of the wire format that no faster test names; each has cost a client of the predecessor dearly.

The numbers are those of the facts on clients, §5. The others are in `tests/unit/web` and
`tests/integration`; `tests/project/test_traps.py` counts them.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.clients.device import Device
from e2e.clients.luci import Luci
from e2e.clients.luci_steps import STEPS
from e2e.clients.scene import SOON, a_body
from e2e.conftest import Make
from e2e.service import Answer, Client, Service
from e2e.warm import warmed
from factories import eventually
from podman_service import APK_VERSION

UNKNOWN = "0" * 64


@pytest.fixture(scope="module")
def server(local_service: Service) -> str:
    """The shared service's address."""
    return warmed(local_service)


@pytest.fixture(scope="module")
def client(local_service: Service, server: str) -> Iterator[Client]:
    """One connection for all of them."""
    with local_service.client() as client:
        yield client


@pytest.fixture(scope="module")
def course(client: Client) -> list[Answer]:
    """Every different answer about one build, from the first POST to the end."""
    answers = [client.post(a_body(packages=["sample-slow-1"]))]

    def look() -> bool:
        answer = client.look(answers[0].json["request_hash"])
        if answer.body != answers[-1].body:
            answers.append(answer)
        return answer.status != 202

    assert eventually(look)
    return answers


@pytest.fixture(scope="module")
def done(course: list[Answer]) -> Any:
    """The document of a finished build."""
    assert course[-1].status == 200
    return course[-1].json


@pytest.fixture(scope="module")
def failed(client: Client) -> Answer:
    """The answer about a failed build."""
    return client.build(a_body(packages=["no-such-package"]))


@pytest.fixture(scope="module")
def refusals(client: Client, failed: Answer) -> list[Answer]:
    """An answer of every status that says no."""
    return [
        failed,
        client.post(a_body(version="24.10.99")),
        client.post(a_body(profile="acme_nothing")),
        client.post(a_body(packages="vim")),
        client.post([]),
        client.look(UNKNOWN),
        client.get(f"/store/{UNKNOWN}/x.bin"),
        client.get("/nowhere"),
        client.ask("POST", f"/api/v1/build/{UNKNOWN}", b"{}", {"Content-Type": "application/json"}),
        client.ask("POST", "/api/v1/build", b" " * (1 << 20) + b"{}"),
    ]


def test_trap_01_the_status_in_every_build_answer_is_the_http_status_as_a_number(
    course: list[Answer], refusals: list[Answer]
) -> None:
    for answer in [*course, *refusals]:
        assert type(answer.json["status"]) is int
        assert answer.json["status"] == answer.status
    assert {answer.status for answer in refusals} == {400, 404, 405, 413, 422, 500}


def test_trap_02_queue_position_is_there_as_zero_while_queued_and_gone_once_started(
    course: list[Answer],
) -> None:
    queued = [answer.json for answer in course if answer.json["detail"] == "queued"]
    started = [answer.json for answer in course if answer.json["detail"] == "started"]
    assert queued and started
    assert all(document["queue_position"] == 0 for document in queued)
    assert not any("queue_position" in document for document in started)


def test_trap_03_the_position_is_a_number_in_the_body_and_its_twin_a_header(course: list[Answer]) -> None:
    assert type(course[0].json["queue_position"]) is int
    assert all(answer.headers["x-queue-position"].isdigit() for answer in course)
    assert course[0].headers["x-queue-position"] == str(course[0].json["queue_position"])


def test_trap_04_every_step_is_one_that_luci_knows(course: list[Answer], failed: Answer) -> None:
    for answer in [*course, failed]:
        document = answer.json
        if document["detail"] == "queued":
            assert "imagebuilder_status" not in document
            assert answer.headers["x-imagebuilder-status"] == "queued"
        else:
            assert document["imagebuilder_status"] in STEPS
            assert answer.headers["x-imagebuilder-status"] == document["imagebuilder_status"]


def test_trap_05_every_build_answer_names_the_request(course: list[Answer], failed: Answer) -> None:
    assert len({answer.json["request_hash"] for answer in course}) == 1
    assert all(len(answer.json["request_hash"]) == 64 for answer in [*course, failed])


def test_trap_06_a_post_of_something_built_is_answered_with_the_whole_document(
    client: Client, course: list[Answer]
) -> None:
    again = client.post(a_body(packages=["sample-slow-1"]))
    poll = client.look(again.json["request_hash"])
    assert (again.status, again.body) == (200, course[-1].body)
    assert (poll.status, poll.body) == (200, again.body)


def test_trap_07_the_request_is_echoed_with_every_field_and_its_default(done: Any) -> None:
    assert done["request"] == {
        "distro": "openwrt",
        "version": APK_VERSION,
        "version_code": "",
        "target": "pico/nine",
        "profile": "acme_small",
        "packages": ["sample-slow-1"],
        "packages_versions": {},
        "diff_packages": False,
        "defaults": None,
        "rootfs_size_mb": None,
        "filesystem": None,
        "repositories": {},
        "repositories_mode": "replace",
        "repository_keys": [],
        "client": "unknown/0",
    }


def test_trap_08_detail_is_a_sentence_in_every_refusal(refusals: list[Answer]) -> None:
    for answer in refusals:
        assert isinstance(answer.json["detail"], str) and answer.json["detail"]
        assert "error" not in answer.json, "old pages would show it instead"


def test_trap_09_what_luci_polls_for_is_there_after_a_crash(make_local: Make) -> None:
    service = make_local(worker_concurrent=2).start()
    with service.client() as client:
        hashes = [
            client.post(a_body(packages=[name])).json["request_hash"] for name in ("vim", "no-such-package")
        ]
        assert [client.wait(name).status for name in hashes] == [200, 500]
    service.kill()
    service.change(worker_concurrent=0)
    with service.start().client() as client:
        hashes.append(client.post(a_body(packages=["tmux"])).json["request_hash"])
    service.kill()
    with service.start().client() as client:
        assert [client.look(name).status for name in hashes] == [200, 500, 202]


def test_trap_10_a_page_of_23_05_that_never_forgets_a_hash_still_gets_an_answer(server: str) -> None:
    page = Luci(server, Device("23.05.3"), SOON, old=True)
    first = page.build(APK_VERSION, ["vim"])
    # The second search polls for the first: its result is kept for hours, so that it never hangs.
    again = page.build(APK_VERSION, ["tmux"])
    assert again["request_hash"] == first["request_hash"]
    assert page.statuses[-1] == 200


def test_trap_22_with_diff_packages_removals_come_first_and_the_asked_order_stays(client: Client) -> None:
    asked = ["vim", "base-files", "-luci", "dropbear", "libc"]
    answer = client.build(a_body(packages=asked, diff_packages=True))
    selection = answer.json["build_cmd_packages"]
    removals = selection[: -len(asked)]
    assert selection[-len(asked) :] == asked
    assert "-dnsmasq" in removals and all(name.startswith("-") for name in removals)


def test_trap_26_a_revision_that_has_moved_is_told_in_the_words_that_users_search_for(
    client: Client, done: Any
) -> None:
    answer = client.build(a_body(version_code="r1-0000000000"))
    assert answer.status == 500
    found = done["version_code"]
    assert answer.json["detail"] == f"Error: Received incorrect version {found} (requested r1-0000000000)"


def test_trap_32_digests_are_of_the_bytes_served_in_lower_case(client: Client, done: Any) -> None:
    for image in done["images"]:
        served = client.get(f"/store/{done['bin_dir']}/{image['name']}").body
        assert image["sha256"] == hashlib.sha256(served).hexdigest()


def test_trap_35_the_file_system_asked_for_is_named_by_an_image(client: Client) -> None:
    answer = client.build(a_body(target="x86/64", profile="generic", filesystem="ext4"))
    assert "ROOTFS_FILESYSTEM=ext4" in answer.json["build_cmd"]
    assert "ext4" in {image.get("filesystem") for image in answer.json["images"]}
