"""Builds from the terminal: here, beside a service, and on a server; everything through processes."""

import hashlib
import json
import os
import pty
import re
import shutil
import sys
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.canned_server import canned
from e2e.conftest import Make
from e2e.service import Service
from e2e.terminal import PLACE, WHERE, Ended, a_body, environment_of, images_in, place, run


def test_images_are_built_without_a_server_verified_and_not_built_or_fetched_again(make_local: Make) -> None:
    service = make_local()
    built = run(service, "build", *PLACE, "-p", "luci", "-p", "tmux vim", "--out", "images")
    assert built.code == 0, built.err
    images = images_in(service.directory / "images")
    assert built.out.splitlines() == [f"images/{name}" for name in images_sorted(built)]
    assert len(images) == 3
    (request_hash,) = service.published()
    for name, content in images.items():
        assert (service.store / request_hash / name).read_bytes() == content
    before = {path: path.stat().st_mtime_ns for path in (service.directory / "images").iterdir()}
    again = run(service, "build", *PLACE, "-p", "vim tmux luci", "--out", "images", "--quiet")
    assert (again.code, again.out, again.err) == (0, built.out, "")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert service.rows("SELECT state, caller LIKE 'cli:%' FROM build_jobs") == [("completed", 1)]


def images_sorted(ended: Ended) -> list[str]:
    """The names that were printed, as they were."""
    return [line.rpartition("/")[2] for line in ended.out.splitlines()]


def test_the_current_directory_is_where_images_go(make_local: Make) -> None:
    service = make_local()
    built = run(service, "build", *PLACE)
    assert built.code == 0, built.err
    assert all((service.directory / name).is_file() for name in images_sorted(built))


def test_everything_lies_below_the_current_directory_unless_told(make_local: Make) -> None:
    service = make_local(database_path="data/asu-builder.db", public_path="public")
    built = run(service, "build", *PLACE, "-o", "out")
    assert built.code == 0, built.err
    assert {path.name for path in service.directory.iterdir()} == {"data", "public", "out"}


@pytest.mark.parametrize("where", WHERE)
def test_programs_read_the_document_or_the_events(local_service: Service, where: str, tmp_path: Path) -> None:
    there = place(local_service, where)
    request = tmp_path / "request.yaml"
    request.write_text("version: 25.12.0\ntarget: pico/nine\nprofile: acme,widget-5\npackages: [vim]\n")
    out = tmp_path / where
    built = run(
        local_service,
        "build",
        "--request",
        str(request),
        "--json",
        "-o",
        str(out),
        "-p",
        where_package(where),
        *there,
    )
    assert built.code == 0, built.err
    document = json.loads(built.out)
    assert document["state"] == "completed"
    assert document["request"]["packages"] == ["vim", where_package(where)]
    assert [Path(file).name for file in document["files"]] == [image["name"] for image in document["images"]]
    for file, image in zip(document["files"], document["images"], strict=True):
        content = Path(file).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (image["size"], image["sha256"])
    events = run(
        local_service,
        "build",
        *PLACE,
        "-p",
        "vim tmux",
        "-p",
        where_package(where),
        "--json-events",
        "-o",
        str(out),
        *there,
    )
    seen = [json.loads(line) for line in events.out.splitlines()]
    assert seen[0]["type"] == "state" and seen[-1]["type"] == "final"
    printed = [line["text"] for event in seen if event["type"] == "lines" for line in event["lines"]]
    assert "Building images..." in printed
    assert seen[-1]["document"]["request_hash"] in events.err


def where_package(where: str) -> str:
    """A package of its own for each place, so that neither finds the other's result."""
    return "luci-ssl" if where == "server" else "luci"


def test_progress_is_lines_where_there_is_no_terminal(make_local: Make) -> None:
    built = run(make_local(), "build", *PLACE)
    assert "\x1b" not in built.err
    lines = built.err.splitlines()
    assert lines[0].startswith("request hash ")
    assert "  Building images..." in lines
    assert lines[-1] == "3 images, each with the SHA-256 that was announced."


def test_progress_is_in_place_on_a_terminal(make_local: Make) -> None:
    service = make_local()
    service.directory.mkdir(parents=True)
    environment = {**environment_of(service), "TERM": "xterm"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(service.directory)
        os.execve(sys.executable, [sys.executable, "-m", "asu_builder", "build", *PLACE], environment)
    text = b""
    try:
        while chunk := os.read(terminal, 65536):
            text += chunk
    except OSError:  # the other side is closed
        pass
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, text
    shown = text.decode()
    assert "✓ start" in shown and "● " in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "3 images, each with the SHA-256" in shown


def test_a_mistyped_package_is_told_with_what_may_have_been_meant(local_service: Service, where: str) -> None:
    failed = run(local_service, "build", *PLACE, "-p", "sample-servise", *place(local_service, where))
    assert failed.code == 1
    assert failed.err.splitlines()[-1].startswith("sample-servise: did you mean sample-service")


def test_what_does_not_exist_is_left_out_on_request_and_told(local_service: Service, where: str) -> None:
    at = place(local_service, where)
    assert run(local_service, "build", *PLACE, "-p", "vim", *at).code == 0, "shows what can be installed"
    options = ("-p", "sample-servise", "--on-missing", "drop")
    built = run(local_service, "build", *PLACE, *options, *at)
    assert built.code == 0, built.err
    assert "Left out: sample-servise does not exist. Did you mean sample-service?" in built.err.splitlines()
    detached = run(local_service, "build", *PLACE, *options, "--detach", *at)
    assert "Left out: sample-servise" in detached.err
    as_json = run(local_service, "build", *PLACE, *options, "--json", *at)
    assert json.loads(as_json.out)["dropped"] == {"sample-servise": "sample-service"}


def test_it_is_told_where_nothing_has_changed(local_service: Service, where: str) -> None:
    at = place(local_service, where)
    built = run(local_service, "build", *PLACE, "-p", "tmux", "--json", *at)
    for as_of in ("today", json.loads(built.out)["indexes"]):
        again = run(local_service, "build", *PLACE, "-p", "tmux", "--as-of", as_of, *at)
        assert again.code == 0 and "Nothing has changed" in again.err
    outdated = run(local_service, "build", *PLACE, "-p", "luci", "--as-of", "0" * 64, *at)
    assert outdated.code == 3 and "as_of: the package indexes have changed" in outdated.err
    wrong = run(local_service, "build", *PLACE, "--as-of", "yesterday", *at)
    assert wrong.code == 3 and "as_of: expected today" in wrong.err


def test_a_selection_is_checked_without_a_build(local_service: Service, where: str) -> None:
    at = place(local_service, where)
    assert run(local_service, "build", *PLACE, "-p", "vim", *at).code == 0

    def check(*names: str, version: str = "25.12.0") -> Ended:
        options = ("--version", version, "--target", "pico/nine")
        return run(local_service, "packages", "check", *options, *at, "--", *names)

    fine = check("tmux", "-libc")
    assert fine.code == 0 and "tmux\t3.5-r2" in fine.out.splitlines()
    assert "libc stays: other packages need it." in fine.err.splitlines()
    assert "ppp stays" not in fine.err, "the device's own list takes it away"
    assert re.search(r"These can be installed: \d+ packages, \d+ kB, unpacked \d+ kB\.", fine.err)
    assert "Checked with the default packages of" in fine.err
    for names, sentence in {
        ("sample-servise",): "sample-servise does not exist. Did you mean sample-service",
        ("sample-conflict-a", "sample-conflict-b"): "conflicts (sample-conflict-a, sample-conflict-b)",
        ("sample-needs-broken",): "this-package-does-not-exist is needed by sample-broken-dep",
    }.items():
        impossible = check(*names)
        assert (impossible.code, impossible.out) == (1, "") and sentence in impossible.err
    untold = check("tmux", version="24.10.4")
    assert (untold.code, untold.out) == (4, "")
    assert untold.err.splitlines()[-1].startswith(
        "All of these exist. Whether they can be installed together"
    )
    wrong = check("sample-servise", version="24.10.4")
    assert wrong.code == 4 and "Did you mean sample-service" in wrong.err and "All of these" not in wrong.err


def test_a_build_that_fails_says_why_and_ends_with_one(local_service: Service, where: str) -> None:
    failed = run(local_service, "build", *PLACE, "-p", "no-such-package", *place(local_service, where))
    assert failed.code == 1
    assert failed.err.splitlines()[-1] == (
        "asu-builder: Error: Impossible package selection: missing (no-such-package)"
    )
    as_json = run(
        local_service, "build", *PLACE, "-p", "no-such-package", "--json", *place(local_service, where)
    )
    assert as_json.code == 1
    assert json.loads(as_json.out)["reason"] == "impossible_selection"


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        (("--profile", "acme_widget-6"), "Did you mean acme_widget-5"),
        (("--target", "pico/nime"), "Did you mean pico/nine"),
        (("--version", "25.12.1"), "Did you mean 25.12.0"),
        (("--version", "25.12"), "Did you mean 25.12.0?"),
        (("--version", "24.10"), "Did you mean 24.10.5?"),
    ],
)
def test_what_is_unknown_is_refused_with_what_may_have_been_meant(
    local_service: Service, where: str, options: tuple[str, ...], meant: str
) -> None:
    refused = run(local_service, "build", *PLACE, *options, *place(local_service, where))
    assert refused.code == 3
    assert refused.err.startswith("asu-builder: Unsupported ") and meant in refused.err


def test_a_wrong_command_or_setting_ends_with_two(make_local: Make) -> None:
    service = make_local()
    assert run(service, "build", "--version", "25.12.0").code == 2
    assert run(service, "build", *PLACE, "--server", "asu.example.org").code == 2
    service.change(worker_concurrent="many")
    wrong = run(service, "build", *PLACE)
    assert wrong.code == 2 and "worker_concurrent" in wrong.err


def test_defaults_that_are_not_allowed_are_refused_with_the_setting_to_change(make_local: Make) -> None:
    service = make_local(allow_defaults="false")
    service.directory.mkdir(parents=True)
    (service.directory / "script").write_text("true\n")
    refused = run(service, "build", *PLACE, "--defaults", "script")
    assert refused.code == 3 and "ASU_ALLOW_DEFAULTS=true" in refused.err


def test_without_an_engine_the_line_to_type_is_told_and_no_job_stays_behind(make_local: Make) -> None:
    service = make_local(container_runtime="podman", container_socket_path="/nowhere/podman.sock")
    refused = run(service, "build", *PLACE)
    assert refused.code == 4
    assert "/nowhere/podman.sock" in refused.err and "container_socket_path" in refused.err
    assert service.rows("SELECT state FROM build_jobs") == [("cancelled",)]


def test_a_server_that_is_not_there_or_overloaded_ends_with_four(make_local: Make) -> None:
    service = make_local(max_pending_jobs=1, worker_concurrent=0)
    nobody = run(service, "build", *PLACE, "--patience", "0", *place(service, "server"))
    assert nobody.code == 4 and "does not answer" in nobody.err
    service.start()
    with service.client() as client:
        assert client.post_patiently(a_body()).status == 202
    full = run(service, "build", *PLACE, "-p", "vim", "--patience", "1", *place(service, "server"))
    assert full.code == 4 and "too many build requests" in full.err


def test_a_server_that_makes_no_sense_ends_with_five(make_local: Make) -> None:
    with canned() as server:
        server.text = b"<html>"
        mistaken = run(make_local(), "build", *PLACE, "--server", server.url)
    assert mistaken.code == 5 and "no ASU server" in mistaken.err


def test_an_image_that_was_changed_is_refused(make_local: Make) -> None:
    service = make_local().start()
    built = run(service, "build", *PLACE, "--quiet", "-o", "first")
    (request_hash,) = service.published()
    name = images_sorted(built)[0]
    with (service.store / request_hash / name).open("r+b") as file:
        file.write(b"another")
    for where in WHERE:
        refused = run(service, "build", *PLACE, "-o", where, *place(service, where))
        assert refused.code == 5 and "has not the SHA-256" in refused.err
        assert list((service.directory / where).iterdir()) == []


def test_a_download_that_broke_off_is_resumed(make_local: Make) -> None:
    service = make_local().start()
    built = run(service, "build", *PLACE, "--quiet", "-o", "first")
    whole = images_in(service.directory / "first")
    name = max(whole, key=lambda each: len(whole[each]))
    for where in WHERE:
        second = service.directory / where
        second.mkdir()
        (second / f"{name}.part").write_bytes(whole[name][:5000])
        again = run(service, "build", *PLACE, "-o", where, *place(service, where))
        assert (built.code, again.code) == (0, 0), again.err
        assert images_in(second) == whole


def test_what_can_be_built_is_found_alike_here_and_on_a_server(local_service: Service) -> None:
    for command, expected in {
        ("versions",): "25.12.0\t25.12\t2\tlatest",
        ("devices", "widget"): "pico/nine\tacme_widget-5\tAcme Widget 5 v1",
        ("devices", "acme", "--version", "24.10.5"): "pico/nine\tacme_small\tAcme Small",
        ("packages", "tmu", "--target", "pico/nine"): "tmux\t3.5-r2",
    }.items():
        here, there = (run(local_service, *command, *place(local_service, where)) for where in WHERE)
        assert (here.code, there.code) == (0, 0), here.err + there.err
        assert here.out == there.out
        assert expected in here.out.splitlines()
    as_json = [
        json.loads(run(local_service, "devices", "--json", *place(local_service, where)).out)
        for where in WHERE
    ]
    assert as_json[0] == as_json[1]


def test_a_mirror_without_snapshots_tells_what_it_has(
    sample_world: Distribution, make_local: Make, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(sample_world.downloads, mirror, ignore=shutil.ignore_patterns("*[sS][nN][aA][pP]*"))
    with DownloadServer(mirror) as server:
        service = make_local(upstream_url=server.url)
        versions = run(service, "versions")
        devices = run(service, "devices", "widget")
    assert (versions.code, devices.code) == (0, 0), versions.err + devices.err
    assert "25.12.0\t25.12\t2\tlatest" in versions.out.splitlines()
    assert "SNAPSHOT" not in versions.out
    assert "does not tell" not in versions.err
    assert "acme_widget-5" in devices.out


def test_nothing_found_ends_with_three_and_a_mistyped_name_is_guessed(
    local_service: Service, where: str
) -> None:
    nothing = run(local_service, "devices", "zzzzzz", *place(local_service, where))
    assert (nothing.code, nothing.out) == (3, "")
    guessed = run(local_service, "devices", "widgett", *place(local_service, where))
    assert guessed.code == 0 and "acme_widget-5" in guessed.out and "most alike" in guessed.err


def test_an_image_is_built_in_a_container_without_a_server(make_podman: Make) -> None:
    service = make_podman()
    built = run(service, "build", *PLACE, "-p", "luci", "--out", "images", seconds=120)
    assert built.code == 0, built.err
    assert len(images_in(service.directory / "images")) == 3
    assert "  Building images..." in built.err.splitlines()
