"""The doctor in front of broken set-ups, each of which is really broken."""

import contextlib
import http.client
import http.server
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import schemas
from asu_builder import __version__
from asu_builder.database.schema import known_schema
from asu_builder.doctor.scene import get_json
from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from chaos.clock import Clock, FaketimeMissing
from chaos.disk import SmallDisk
from e2e.conftest import Make, local_settings
from e2e.doctor import BUSY_MACHINE, Patient, Report, as_other_user
from factories import eventually
from ports import free_port
from registry import Registry, push_image
from tools import require_tool, tool_missing

PROXY = "127.0.0.2"
"""Where the proxy of these tests comes from."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def patient(sample_world: Distribution, upstream: DownloadServer, tmp_path: Path) -> Patient:
    """A healthy installation with the local runtime."""
    settings = local_settings(sample_world, upstream.url) | {"server_port": free_port()}
    return Patient(tmp_path, settings)


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path: a socket's name may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="asu-") as folder:
        yield Path(folder)


def with_podman(patient: Patient, path: Path) -> Patient:
    """The same with an engine at a socket."""
    patient.settings |= {
        "container_runtime": "podman",
        "container_socket_path": path,
        "build_network": "asu-build",
        # No registry is asked.
        "imagebuilder_registry": "localhost/sample",
    }
    return patient


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket that takes calls and never answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        yield listener


@contextlib.contextmanager
def deaf_engine(path: Path) -> Iterator[None]:
    """Podman's socket after its service has died: it exists, but no process listens."""
    with listening(path):
        pass
    yield


@contextlib.contextmanager
def another_program() -> Iterator[int]:
    """Some HTTP server of this process; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()


def test_a_healthy_installation_is_well_in_everything_and_builds_the_sample(patient: Patient) -> None:
    report = patient.examine(build=True)
    assert report.errors | report.warnings == set(), report.checks
    assert report.status == 0
    assert "verified" in report["sample_build"]["sentence"]


def test_a_missing_socket_is_named_with_the_line_that_starts_podman(patient: Patient, short: Path) -> None:
    report = with_podman(patient, short / "podman.sock").examine()
    assert report.status == 1 and "engine" in report.errors
    assert f"{short}/podman.sock is not there" in report["engine"]["sentence"]
    assert "podman.socket" in report["engine"]["remedy"] or "system service" in report["engine"]["remedy"]


@pytest.mark.long
def test_every_place_where_a_socket_was_looked_for_is_named(patient: Patient) -> None:
    patient.settings["container_runtime"] = "podman"
    sentence = patient.examine()["engine"]["sentence"]
    assert f"{patient.directory}/podman/podman.sock" in sentence
    assert "/run/podman/podman.sock" in sentence


@pytest.mark.long
def test_a_dead_socket_is_told_from_a_missing_one(patient: Patient, short: Path) -> None:
    with deaf_engine(short / "podman.sock"):
        report = with_podman(patient, short / "podman.sock").examine()
    assert "no process listens" in report["engine"]["sentence"]
    assert "podman.socket" in report["engine"]["remedy"] or "system service" in report["engine"]["remedy"]


@pytest.mark.long
def test_a_socket_that_this_user_may_not_use_is_named_with_both_ways_out(
    patient: Patient, short: Path
) -> None:
    require_tool("bwrap")
    path = short / "podman.sock"
    patient.below = as_other_user()
    with listening(path):
        path.chmod(0)
        report = with_podman(patient, path).examine()
    assert "may not be used by this user" in report["engine"]["sentence"]
    assert f"chmod 660 {path}" in report["engine"]["remedy"]


@pytest.mark.long
def test_an_engine_that_hangs_is_found_within_seconds(patient: Patient, short: Path) -> None:
    with listening(short / "podman.sock"):
        report = with_podman(patient, short / "podman.sock").examine()
    assert "gives no answer" in report["engine"]["sentence"]
    assert "restart podman.service" in report["engine"]["remedy"]
    assert report.seconds < BUSY_MACHINE


@pytest.mark.long
def test_a_user_without_subordinate_ids_gets_the_line_that_adds_them(patient: Patient, short: Path) -> None:
    require_tool("bwrap")
    ids = patient.directory / "ids"
    ids.write_text("somebody:100000:65536\n")
    patient.below = as_other_user("--ro-bind", str(ids), "/etc/subuid", "--ro-bind", str(ids), "/etc/subgid")
    report = with_podman(patient, short / "podman.sock").examine()
    assert "/etc/subuid and /etc/subgid" in report["subordinate_ids"]["sentence"]
    assert "usermod --add-subuids 100000-165535" in report["subordinate_ids"]["remedy"]


@pytest.mark.long
def test_a_user_with_subordinate_ids_needs_nothing_more(patient: Patient, short: Path) -> None:
    require_tool("bwrap")
    ids = patient.directory / "ids"
    ids.write_text("1234:100000:65536\n")
    patient.below = as_other_user("--ro-bind", str(ids), "/etc/subuid", "--ro-bind", str(ids), "/etc/subgid")
    report = with_podman(patient, short / "podman.sock").examine()
    assert report["subordinate_ids"]["status"] == "ok"


@pytest.mark.long
def test_who_is_to_use_the_systems_podman_is_not_told_to_set_up_one_of_its_own(patient: Patient) -> None:
    require_tool("bwrap")
    patient.below = as_other_user("--tmpfs", "/run", "--dir", "/run/systemd/system")
    report = with_podman(patient, Path("/run/podman/podman.sock")).examine()
    assert "systemctl enable --now podman.socket" in report["engine"]["remedy"]
    assert not report.errors & {"subordinate_ids", "lingering", "control_groups"}
    assert not report.warnings & {"subordinate_ids", "lingering", "control_groups"}


@pytest.mark.long
def test_a_full_disk_is_found_with_what_makes_room(patient: Patient, short: Path) -> None:
    require_tool("mount", "mount", "umount")
    if os.geteuid() != 0:
        tool_missing("mount", "only root may mount a small disk")
    with SmallDisk(short / "disk", mebibytes=8) as disk:
        patient.settings["public_path"] = disk.place
        (disk.place / "store").mkdir()
        disk.fill()
        report = patient.examine()
    assert "disk" in report.errors
    assert f"{disk.place}" in report["disk"]["sentence"] and "0 MiB free" in report["disk"]["sentence"]
    assert "asu-builder gc" in report["disk"]["remedy"]
    assert "store" in report.errors, "not even a probe could be written"


@pytest.mark.long
def test_a_store_that_is_mounted_read_only_is_found_with_the_line_that_changes_it(patient: Patient) -> None:
    require_tool("bwrap")
    public = patient.directory / "public"
    (public / "store").mkdir(parents=True)
    patient.settings["public_path"] = public
    patient.below = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(public), str(public)]
    report = patient.examine()
    assert report.errors == {"store"}
    assert "read-only" in report["store"]["sentence"]
    assert f"mount -o remount,rw {public}" in report["store"]["remedy"]


@pytest.mark.long
def test_a_store_of_another_user_is_found_with_the_line_that_changes_it(patient: Patient) -> None:
    require_tool("bwrap")
    public = patient.directory / "public"
    (public / "store").mkdir(parents=True)
    (public / "store").chmod(0o555)
    patient.settings["public_path"] = public
    patient.below = as_other_user()
    report = patient.examine()
    assert "may not be written" in report["store"]["sentence"]
    assert f"chown -R 1234 {public / 'store'}" in report["store"]["remedy"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("days", "sentence"), [(-9, "behind the download server's"), (400, "ahead of"), (-365 * 30, "cannot be")]
)
def test_a_clock_that_is_wrong_is_found_with_the_line_that_sets_it(
    patient: Patient, short: Path, days: int, sentence: str
) -> None:
    try:
        clock = Clock(short)
    except FaketimeMissing as missing:
        tool_missing("faketime", str(missing))
    clock.set(days * 86400.0)
    patient.below = clock.below()
    report = patient.examine()
    assert "clock" in report.errors
    assert sentence in report["clock"]["sentence"]
    assert "timedatectl set-ntp true" in report["clock"]["remedy"]


@pytest.mark.long
def test_a_download_server_that_is_down_is_named_with_what_to_try(patient: Patient) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    patient.settings["upstream_url"] = url
    report = patient.examine()
    assert report.errors == {"upstream", "release"}
    assert f"{url} does not answer: Connection refused" in report["upstream"]["sentence"]
    assert f"curl -I {url}/.versions.json" in report["upstream"]["remedy"]


@pytest.mark.long
def test_a_download_server_that_never_answers_does_not_hold_up_the_rest(patient: Patient) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        patient.settings["upstream_url"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        report = patient.examine()
    assert report.errors == {"upstream", "release"}
    assert "no answer within" in report["upstream"]["sentence"]
    assert report.seconds < BUSY_MACHINE


@pytest.mark.long
def test_a_page_that_is_no_list_of_versions_is_found(patient: Patient, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".versions.json").write_text("<html>please log in</html>")
    with DownloadServer(tmp_path / "other") as server:
        patient.settings["upstream_url"] = server.url
        report = patient.examine()
    assert "is no list of versions" in report["upstream"]["sentence"]


@pytest.mark.long
def test_a_registry_that_is_down_is_named_with_what_to_try(patient: Patient, short: Path) -> None:
    host = f"127.0.0.1:{free_port()}"
    with_podman(patient, short / "podman.sock")
    patient.settings["imagebuilder_registry"] = f"{host}/openwrt/imagebuilder"
    report = patient.examine()
    assert {"registry", "image"} <= report.errors
    assert f"The registry {host} does not answer: Connection refused" in report["registry"]["sentence"]
    assert f"curl -I https://{host}/v2/" in report["registry"]["remedy"]
    assert f"podman pull {host}/openwrt/imagebuilder:" in report["image"]["remedy"]


@pytest.mark.long
def test_an_image_is_looked_for_in_its_registry_and_nothing_is_pulled(
    patient: Patient, short: Path, podman_socket: Path
) -> None:
    require_tool("registry", "docker-registry")
    with_podman(patient, short / "podman.sock")
    with Registry(short) as registry:
        patient.settings["imagebuilder_registry"] = f"{registry.address}/openwrt/imagebuilder"
        absent = patient.examine()
        reference = absent["image"]["sentence"].split()[0]
        push_image(podman_socket, reference, marker="here")
        present = patient.examine()
    assert reference.startswith(f"{registry.address}/openwrt/imagebuilder:") and "image" in absent.errors
    assert "is answered 404 by its registry" in absent["image"]["sentence"]
    assert present["image"]["sentence"] == f"{reference} can be pulled."
    assert "insecure = true" in present["registry"]["remedy"], "it has no certificate"


@pytest.mark.long
def test_a_port_that_another_program_has_is_named_with_that_program(patient: Patient) -> None:
    with another_program() as port:
        patient.settings["server_port"] = port
        report = patient.examine()
    assert report.errors == {"port"}
    assert f"Port {port} is taken by process {os.getpid()} (" in report["port"]["sentence"]
    assert f"server_port: {port + 1}" in report["port"]["remedy"]


def test_each_wrong_setting_is_named_with_where_it_was_chosen(patient: Patient) -> None:
    patient.settings |= {"worker_concurent": 3, "job_timeout": "soon", "disk_floor": "much"}
    (patient.directory / "config.yaml").write_text("server_port: 99999\ncolour: blue\n")
    del patient.settings["server_port"]
    report = patient.examine()
    assert report.status == 1 and "settings" in report.errors
    sentence = report["settings"]["sentence"]
    assert sentence.startswith("5 wrong: ")
    for word in ("did you mean worker_concurrent", "job_timeout", "disk_floor", "server_port", "colour"):
        assert word in sentence
    assert "config.yaml" in sentence and "variable ASU_JOB_TIMEOUT" in sentence
    assert "docs/settings.md" in report["settings"]["remedy"]


@pytest.mark.long
def test_a_file_that_is_no_yaml_is_named(patient: Patient) -> None:
    (patient.directory / "config.yaml").write_text("server_port: [\n")
    sentence = patient.examine()["settings"]["sentence"]
    assert "config.yaml is not valid YAML" in sentence


@pytest.mark.long
def test_an_old_schema_is_told_with_the_backup_that_comes_first(patient: Patient) -> None:
    patient.settings["database_path"] = schemas.restore(1, patient.directory / "old.db")
    report = patient.examine()
    assert (report.status, report.warnings) == (0, {"database"})
    assert (
        f"has schema 1; the next start of this version brings it to {known_schema()}"
        in (report["database"]["sentence"])
    )
    assert "asu-builder backup" in report["database"]["remedy"]


@pytest.mark.long
def test_a_newer_schema_is_wrong_and_says_which_version_to_install(patient: Patient) -> None:
    path = schemas.restore(max(schemas.RELEASED), patient.directory / "new.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {known_schema() + 4}")
    patient.settings["database_path"] = path
    report = patient.examine()
    assert report.errors == {"database"}
    assert "newer version" in report["database"]["sentence"]
    assert "Install that version again" in report["database"]["remedy"]


@pytest.mark.long
def test_a_database_that_is_cut_off_or_none_at_all_asks_for_a_backup(patient: Patient) -> None:
    path = schemas.restore(max(schemas.RELEASED), patient.directory / "cut.db")
    patient.settings["database_path"] = path
    os.truncate(path, path.stat().st_size // 2)
    assert "is cut off" in patient.examine()["database"]["sentence"]
    path.write_text("dear diary")
    report = patient.examine()
    assert "is no database" in report["database"]["sentence"]
    assert "backup" in report["database"]["remedy"]


@pytest.mark.long
def test_a_database_that_another_process_keeps_to_itself_is_named_with_that_process(
    patient: Patient,
) -> None:
    path = schemas.restore(max(schemas.RELEASED), patient.directory / "held.db")
    patient.settings["database_path"] = path
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        report = patient.examine()
    assert report.errors == {"database"}
    assert f"held by process {os.getpid()} (" in report["database"]["sentence"]
    assert f"kill {os.getpid()}" in report["database"]["remedy"]


@pytest.mark.long
@pytest.mark.parametrize("memory_stays", [True, False])
def test_a_database_that_a_crash_left_with_its_log_is_read_and_not_recovered(
    patient: Patient, memory_stays: bool
) -> None:
    path = schemas.restore(max(schemas.RELEASED), patient.directory / "crashed.db")
    crash = (
        "import os, sqlite3, sys; database = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "database.execute('PRAGMA journal_mode = WAL'); "
        f"database.execute('PRAGMA user_version = {known_schema() + 1}'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", crash, path], check=True)
    log, memory = (path.with_name(f"crashed.db-{ending}") for ending in ("wal", "shm"))
    assert log.stat().st_size > 0
    if not memory_stays:
        memory.unlink()
    patient.settings["database_path"] = path
    report = patient.examine()
    assert report.errors == {"database"}, report["database"]
    assert f"schema {known_schema() + 1}" in report["database"]["sentence"]


@pytest.mark.long
def test_a_running_service_is_asked_how_it_is_and_whether_browsers_may_ask(make_local: Make) -> None:
    service = make_local().start()
    report = Patient(service.directory, dict(service.settings())).examine_beside()
    assert report.errors == set(), report.checks
    assert "The service answers at port" in report["port"]["sentence"]
    assert f"Pages elsewhere may ask http://127.0.0.1:{service.port}" in report["cors"]["sentence"]
    assert report["database"]["status"] == "ok"


@pytest.mark.long
def test_a_service_without_cors_fails_browsers_unless_a_proxy_helps(make_local: Make) -> None:
    service = make_local(cors="false").start()
    report = Patient(service.directory, dict(service.settings())).examine_beside()
    assert report.errors == {"cors"}
    assert "cors: true" in report["cors"]["remedy"]


@pytest.mark.long
def test_a_proxy_that_is_not_trusted_is_found_at_the_public_address(make_local: Make) -> None:
    service = make_local().start()
    with proxy_to(service.port) as url:
        report = Patient(service.directory, dict(service.settings())).examine_beside("--url", url)
    assert report.errors == {"proxy"}
    assert f"trusted_proxies: [{PROXY}]" in report["proxy"]["remedy"]
    assert "Pages elsewhere may ask" in report["cors"]["sentence"]


@pytest.mark.long
def test_a_trusted_proxy_has_to_tell_who_comes(make_local: Make) -> None:
    service = make_local(trusted_proxies=PROXY).start()
    patient = Patient(service.directory, dict(service.settings()))
    with proxy_to(service.port) as url:
        silent = patient.examine_beside("--url", url)
    with proxy_to(service.port, tells=True) as url:
        telling = patient.examine_beside("--url", url)
    assert silent.errors == {"proxy"}
    assert "X-Forwarded-For" in silent["proxy"]["remedy"]
    assert telling.errors == set()
    assert "this machine counts as 127.0.0.1" in telling["proxy"]["sentence"]


@pytest.mark.long
def test_an_address_that_leads_to_another_program_is_found(patient: Patient) -> None:
    with another_program() as port:
        report = patient.examine("--url", f"http://127.0.0.1:{port}")
    assert report.errors == {"cors", "proxy"}
    assert "answered by another program" in report["proxy"]["sentence"]
    assert "Let the proxy pass OPTIONS on" in report["cors"]["remedy"]


@contextlib.contextmanager
def proxy_to(port: int, *, tells: bool = False) -> Iterator[str]:
    """A reverse proxy: it passes on, signs its answers with `Server`, and may tell who came."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120, source_address=(PROXY, 0))
            headers = dict(self.headers.items())
            if tells:
                headers["X-Forwarded-For"] = self.client_address[0]
            connection.request(self.command, self.path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            connection.close()

        def do_GET(self) -> None:
            self._pass_on()

        def do_OPTIONS(self) -> None:
            self._pass_on()

        def log_message(self, format: str, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.long
def test_a_service_that_is_well_says_so_in_one_line_after_its_start(make_local: Make) -> None:
    service = make_local().start()
    assert eventually(lambda: "all is well" in service.stderr(), seconds=BUSY_MACHINE), service.stderr()
    (line,) = [line for line in service.stderr().splitlines() if "all is well" in line]
    for word in (
        __version__,
        f"127.0.0.1:{service.port}",
        "local runtime",
        str(service.store),
        "upstream http",
    ):
        assert word in line
    assert "Remedy" not in service.stderr()


@pytest.mark.long
def test_a_service_that_is_not_well_says_each_problem_with_its_remedy(make_local: Make, short: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    service = make_local(
        container_runtime="podman", container_socket_path=short / "podman.sock", upstream_url=url
    ).start()
    assert eventually(lambda: "2 problems, see above" in service.stderr(), seconds=BUSY_MACHINE), (
        service.stderr()
    )
    lines = [line for line in service.stderr().splitlines() if "Remedy: " in line]
    assert len(lines) == 2
    assert "engine: Podman's socket was not found" in lines[0]
    assert f"curl -I {url}/.versions.json" in lines[1]


@pytest.mark.long
def test_what_a_person_reads_is_plain_text_with_signs_and_remedies(patient: Patient) -> None:
    patient.settings["upstream_url"] = f"http://127.0.0.1:{free_port()}"
    done = patient.run("--no-build")
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert "  ✗ upstream" in done.stdout and "  ✓ python" in done.stdout
    assert "-> See what stands between: curl -I" in done.stdout
    patient.environment["PYTHONIOENCODING"] = "ascii"
    assert "  NO upstream" in patient.run("--no-build").stdout


@pytest.mark.long
def test_a_real_engine_is_named_with_its_version_and_builds_the_sample(
    patient: Patient, podman_socket: Path, sample_images: str
) -> None:
    with_podman(patient, podman_socket)
    patient.settings["imagebuilder_image"] = "{registry}:pico-nine-{tag}"
    patient.settings["build_network"] = "none"
    reports: list[Report] = []

    def is_well() -> bool:
        # An engine that is busy with the other tests is not always as quick as the doctor asks for.
        reports.append(patient.examine(build=True))
        return reports[-1].errors == set()

    assert eventually(is_well, seconds=200), {name: reports[-1][name] for name in reports[-1].errors}
    report = reports[-1]
    assert "answers as Podman" in report["engine"]["sentence"]
    assert "built in a container" in report["sample_build"]["sentence"]
    status, images = get_json(podman_socket, "/v4.0.0/libpod/images/json")
    assert status == 200 and images, "the others are still there"
    assert "asu-builder-doctor" not in str(images)
