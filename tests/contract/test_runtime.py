"""What every runtime does, whatever it is made of."""

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Event, Timer
from time import monotonic

import pytest
from msgspec.structs import replace

from asu_builder.domain.errors import BuildFailed, BuildInterrupted, FailureReason, Unavailable
from asu_builder.domain.make import CommandResult
from asu_builder.engines.guard import Limits
from asu_builder.ports import Container, Runtime
from factories import eventually, sooner_than
from podman_service import APK_VERSION, OPKG_VERSION
from runtime_rig import Rig, a_spec

_MIB = 1 << 20
_CHATTER = "import sys; print('123456789\\n' * 2_000_000); print('end', file=sys.stderr)"


@pytest.fixture
def container(runtime: Runtime) -> Iterator[Container]:
    with runtime.open(a_spec(), stop=Event()) as opened:
        yield opened


def shell(container: Container, script: str, output: Path) -> CommandResult:
    return container.run(["sh", "-c", script], output=output)


def reason_of(failure: pytest.ExceptionInfo[BuildFailed]) -> FailureReason:
    return failure.value.reason


def test_a_version_that_is_not_there_is_a_missing_imagebuilder(runtime: Runtime) -> None:
    with pytest.raises(BuildFailed, match="Error: Image not found: ") as failure:
        with runtime.open(a_spec("23.05.1"), stop=Event()):
            pass
    assert reason_of(failure) == FailureReason.IMAGEBUILDER_MISSING


# --- commands ------------------------------------------------------------------------------------


def test_a_command_leaves_its_exit_code_and_both_outputs(container: Container, tmp_path: Path) -> None:
    result = shell(container, "echo out; echo err >&2; exit 3", tmp_path)
    assert (result.exit_code, result.stdout.read_text(), result.stderr.read_text()) == (3, "out\n", "err\n")


def test_a_silent_command_leaves_two_empty_files(container: Container, tmp_path: Path) -> None:
    result = container.run(["true"], output=tmp_path)
    assert (result.exit_code, result.stdout.read_bytes(), result.stderr.read_bytes()) == (0, b"", b"")


def test_commands_do_not_overwrite_each_other_s_output(container: Container, tmp_path: Path) -> None:
    first = shell(container, "echo first", tmp_path)
    second = shell(container, "echo second", tmp_path)
    assert (first.stdout.read_text(), second.stdout.read_text()) == ("first\n", "second\n")


def test_whoever_listens_hears_both_streams_in_order_while_the_command_runs(
    container: Container, tmp_path: Path
) -> None:
    on_output: list[tuple[int, bytes, float]] = []
    script = "echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three"
    result = container.run(
        ["sh", "-c", script],
        output=tmp_path,
        on_output=lambda stream, chunk: on_output.append((stream, chunk, monotonic())),
    )
    assert [(stream, chunk) for stream, chunk, _ in on_output] == [
        (1, b"one\n"),
        (2, b"two\n"),
        (1, b"three\n"),
    ]
    assert on_output[2][2] - on_output[0][2] > 0.4
    assert (result.stdout.read_text(), result.stderr.read_text()) == ("one\nthree\n", "two\n")


def test_a_goal_of_make_is_heard_as_it_is_kept(container: Container, tmp_path: Path) -> None:
    on_output: list[tuple[int, bytes]] = []
    result = container.run(
        ["make", "info"], output=tmp_path, on_output=lambda stream, chunk: on_output.append((stream, chunk))
    )
    for stream, kept in ((1, result.stdout), (2, result.stderr)):
        assert b"".join(chunk for number, chunk in on_output if number == stream) == kept.read_bytes()
    assert result.stdout.read_bytes()


def test_a_command_runs_in_the_imagebuilder_s_directory(container: Container, tmp_path: Path) -> None:
    assert container.run(["pwd"], output=tmp_path).stdout.read_text().strip() == container.workdir
    assert not container.workdir.endswith("/")


def test_arguments_arrive_as_they_are_without_a_shell(container: Container, tmp_path: Path) -> None:
    odd = ["$(id)", "a b", "*", ";", "'", "A=b", "", "ü"]
    result = container.run(["printf", "%s\\n", *odd], output=tmp_path)
    assert result.stdout.read_text().splitlines() == odd


def test_a_program_that_does_not_exist_fails_as_a_shell_would_say_it(
    container: Container, tmp_path: Path
) -> None:
    assert container.run(["no-such-program"], output=tmp_path).exit_code in (1, 126, 127)


def test_a_command_sees_nothing_of_the_server_s_environment(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROFILE", "make would believe this")
    with runtime.open(a_spec(), stop=Event()) as container:
        result = container.run(["env"], output=tmp_path)
    names = {line.partition("=")[0] for line in result.stdout.read_text().splitlines()}
    assert {"PATH", "HOME"} <= names
    assert names <= {"PATH", "HOME", "LANG", "TMPDIR", "PWD", "TARGET", "VERSION_PATH", "DOWNLOAD_FILE"}


def test_a_command_gets_the_build_s_variables_and_its_own(runtime: Runtime, tmp_path: Path) -> None:
    spec = replace(a_spec(), environment={"OF_THE_BUILD": "1", "BOTH": "build"})
    with runtime.open(spec, stop=Event()) as container:
        own = {"BOTH": "command", "SPACED": "a b"}
        result = container.run(["env"], output=tmp_path, environment=own)
        later = container.run(["env"], output=tmp_path)
    assert {"OF_THE_BUILD=1", "BOTH=command", "SPACED=a b"} <= set(result.stdout.read_text().splitlines())
    assert {"BOTH=build"} <= set(later.stdout.read_text().splitlines())


def test_a_command_ignores_none_of_the_signals_that_this_server_ignores(
    container: Container, tmp_path: Path
) -> None:
    status = container.run(["cat", "/proc/self/status"], output=tmp_path).stdout.read_text()
    ignored = int(re.search(r"^SigIgn:\t(\w+)$", status, re.MULTILINE)[1], 16)  # type: ignore[index]
    # Python's own; whoever started us may ignore others, and then that is so by wish.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored & 1 << (number - 1)


def test_a_command_does_not_wait_for_what_it_left_in_the_background(
    container: Container, tmp_path: Path
) -> None:
    with sooner_than(45):
        result = shell(container, "sleep 50 & echo done", tmp_path)
    assert (result.exit_code, result.stdout.read_text()) == (0, "done\n")


def test_a_command_has_no_more_rights_than_it_needs(container: Container, tmp_path: Path, rig: Rig) -> None:
    if rig.kind == "plain":
        pytest.skip("without a sandbox a command has the rights of the server")
    status = container.run(["cat", "/proc/self/status"], output=tmp_path).stdout.read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def test_a_command_without_network_has_only_its_own_loopback(
    container: Container, tmp_path: Path, rig: Rig
) -> None:
    if rig.kind == "plain":
        pytest.skip("without a sandbox a command has the server's network")
    devices = container.run(["cat", "/proc/net/dev"], output=tmp_path).stdout.read_text().splitlines()[2:]
    assert [device.split(":")[0].strip() for device in devices] == ["lo"]


def test_a_command_sees_no_directory_of_the_host(container: Container, tmp_path: Path, rig: Rig) -> None:
    if rig.kind == "plain":
        pytest.skip("without a sandbox a command sees what the server sees")
    assert shell(container, f"ls {tmp_path}", tmp_path).exit_code != 0
    assert shell(container, "ls /home /root /var/lib", tmp_path).stdout.read_text().strip() in ("", "/root:")


# --- files ---------------------------------------------------------------------------------------


def test_written_files_can_be_read_and_belong_to_the_container_s_user(
    container: Container, tmp_path: Path
) -> None:
    container.write_files({"asu-files/etc/uci-defaults/99": "échо hi\n", "top": "1"})
    assert container.read_bytes("asu-files/etc/uci-defaults/99") == "échо hi\n".encode()
    assert container.exists("top")
    extended = shell(container, "echo more >> top && touch asu-files/etc/other && cat top", tmp_path)
    assert extended.stdout.read_text() == "1more\n"


def test_an_old_directory_stays_writable_when_a_file_is_put_into_it(
    container: Container, tmp_path: Path
) -> None:
    before = shell(container, "stat -c '%A %u %g' keys", tmp_path).stdout.read_text()
    container.write_files({"keys/extra.pem": "key"})
    assert shell(container, "touch keys/local && cat keys/extra.pem", tmp_path).stdout.read_text() == "key"
    assert shell(container, "stat -c '%A %u %g' keys", tmp_path).stdout.read_text() == before


def test_a_written_file_replaces_the_old_one(container: Container) -> None:
    container.write_files({"note": "a longer text"})
    container.write_files({"note": "short"})
    assert container.read_bytes("note") == b"short"


def test_only_plain_files_exist(container: Container, tmp_path: Path) -> None:
    assert container.exists("Makefile")
    assert not container.exists("keys")
    assert not container.exists("no-such-file")
    assert not container.exists("no-such-directory/file")


def test_at_most_four_mebibytes_are_read_of_a_file(container: Container, tmp_path: Path) -> None:
    shell(container, "head -c 4194304 /dev/zero > most && head -c 4194305 /dev/zero > big", tmp_path)
    assert container.read_bytes("most") == bytes(4 << 20)
    with pytest.raises(BuildFailed) as failure:
        container.read_bytes("big")
    assert reason_of(failure) == FailureReason.UNTRUSTED_OUTPUT


def test_reading_a_file_that_is_not_there_is_an_error_of_ours(container: Container) -> None:
    with pytest.raises(Unavailable):
        container.read_bytes("no-such-file")


def test_two_containers_share_no_file(runtime: Runtime, tmp_path: Path) -> None:
    with runtime.open(a_spec(), stop=Event()) as one, runtime.open(a_spec(), stop=Event()) as other:
        one.write_files({"mine": "1"})
        shell(one, "echo changed >> Makefile", tmp_path)
        assert not other.exists("mine")
        assert b"changed" not in other.read_bytes("Makefile")
        assert one.identity == other.identity
        # One of them may have waited for the container image.
        assert replace(one.origin, pull_seconds=0.0) == replace(other.origin, pull_seconds=0.0)
        assert (one.origin.isolation == "container") is bool(one.origin.image)


def test_another_version_is_another_imagebuilder(
    runtime: Runtime, request: pytest.FixtureRequest, rig: Rig
) -> None:
    if rig.kind == "podman":
        request.getfixturevalue("sample_images")
    with runtime.open(a_spec(APK_VERSION), stop=Event()) as apk:
        with runtime.open(a_spec(OPKG_VERSION), stop=Event()) as opkg:
            assert apk.exists("repositories") and not opkg.exists("repositories")
            assert apk.identity != opkg.identity


# --- collecting ----------------------------------------------------------------------------------


def test_collected_files_keep_their_names_and_contents(container: Container, tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    shell(container, "mkdir out; echo one > out/a.bin; head -c 3000000 /dev/zero > out/b_1+x.img", tmp_path)
    names = container.collect(f"{container.workdir}/out", into)
    assert sorted(names) == ["a.bin", "b_1+x.img"]
    assert (into / "a.bin").read_text() == "one\n"
    assert (into / "b_1+x.img").read_bytes() == bytes(3_000_000)


def test_no_directory_yields_no_names(container: Container, tmp_path: Path) -> None:
    assert list(container.collect(f"{container.workdir}/out", tmp_path)) == []


def test_an_empty_directory_yields_no_names(container: Container, tmp_path: Path) -> None:
    shell(container, "mkdir out", tmp_path)
    assert list(container.collect(f"{container.workdir}/out", tmp_path)) == []


@pytest.mark.parametrize(
    "script",
    [
        "ln -s /etc/passwd out/image.bin",
        "mkdir out/inner",
        "echo x > out/image.bin; ln out/image.bin out/other.bin",
        "python3 -c \"import os; os.mkfifo('out/image.bin')\"",
        "touch out/.hidden",
        "touch 'out/two words'",
        "touch out/-rf",
        "for n in 1 2 3 4 5 6 7 8 9; do touch out/$n; done",
        "head -c 2000 /dev/zero > out/image.bin",
    ],
)
def test_anything_but_few_plain_files_is_refused(rig: Rig, tmp_path: Path, script: str) -> None:
    into = tmp_path / "into"
    into.mkdir()
    runtime = rig.make(Limits(collected_files=8, collected_size=1000))
    with runtime.open(a_spec(), stop=Event()) as container:
        assert shell(container, f"mkdir out; {script}", tmp_path).exit_code == 0
        with pytest.raises(BuildFailed) as failure:
            container.collect(f"{container.workdir}/out", into)
    assert reason_of(failure) == FailureReason.UNTRUSTED_OUTPUT


# --- the end -------------------------------------------------------------------------------------


# Longer and longer deadlines, for where not even the start of a container fits into the first.
DEADLINES = [timedelta(seconds=seconds) for seconds in (1, 5, 25, 125)]


def test_the_deadline_ends_a_silent_command(runtime: Runtime, tmp_path: Path) -> None:
    ended_while_it_ran = False
    for deadline in DEADLINES:
        with pytest.raises(BuildFailed) as failure:
            with runtime.open(a_spec(deadline=deadline), stop=Event()) as container:
                with sooner_than(deadline.total_seconds() + 45), pytest.raises(BuildFailed) as failure:
                    container.run(["sleep", "200"], output=tmp_path)
                ended_while_it_ran = True
                container.exists("Makefile")
        assert reason_of(failure) == FailureReason.DEADLINE
        if ended_while_it_ran:
            break
    assert ended_while_it_ran


def test_the_deadline_ends_an_endlessly_chatty_command(rig: Rig, tmp_path: Path) -> None:
    runtime = rig.make(Limits(log=1000))
    printed = tmp_path / "1.stdout"
    for deadline in DEADLINES:
        with pytest.raises(BuildFailed) as failure:
            with runtime.open(a_spec(deadline=deadline), stop=Event()) as container:
                shell(container, "while :; do echo chatter; done", tmp_path)
        assert reason_of(failure) == FailureReason.DEADLINE
        if printed.exists() and printed.stat().st_size:
            break
    assert 0 < printed.stat().st_size < 2000


def test_the_stop_event_ends_a_silent_command(runtime: Runtime, tmp_path: Path) -> None:
    stop = Event()
    with runtime.open(a_spec(), stop=stop) as container:
        timer = Timer(0.5, stop.set)
        timer.start()
        with sooner_than(45), pytest.raises(BuildInterrupted):
            container.run(["sleep", "50"], output=tmp_path)
        timer.join()


def test_nothing_runs_after_the_stop_event(runtime: Runtime, tmp_path: Path) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(BuildInterrupted):
        with runtime.open(a_spec(), stop=stop) as container:
            container.run(["sleep", "50"], output=tmp_path)


def test_output_beyond_the_cap_is_cut_and_says_so(rig: Rig, tmp_path: Path) -> None:
    with rig.make(Limits(log=100_000)).open(a_spec(), stop=Event()) as container:
        result = container.run(["python3", "-c", _CHATTER], output=tmp_path)
    text = result.stdout.read_text()
    assert len(text) < 100_100
    assert text.startswith("123456789\n") and "cut after 100000 bytes" in text[-50:]
    assert result.stderr.read_text() == "end\n"


def test_more_memory_than_allowed_is_the_build_s_failure(rig: Rig, tmp_path: Path) -> None:
    script = "make -f hungry.mk"
    with rig.make(Limits(memory=100 * _MIB)).open(a_spec(), stop=Event()) as container:
        hog = "import time; hog = b'x' * (300 << 20); time.sleep(20)"
        container.write_files({"hog.py": hog, "hungry.mk": "all:\n\tpython3 hog.py\n"})
        with pytest.raises(BuildFailed) as failure:
            shell(container, script, tmp_path)
    assert reason_of(failure) == FailureReason.OUT_OF_MEMORY


def test_more_disk_than_allowed_is_the_build_s_failure(rig: Rig, tmp_path: Path) -> None:
    with rig.make(Limits(disk=30 * _MIB)).open(a_spec(), stop=Event()) as container:
        with sooner_than(45), pytest.raises(BuildFailed) as failure:
            shell(container, "head -c 60000000 /dev/zero > big; sleep 50", tmp_path)
    assert reason_of(failure) == FailureReason.DISK_LIMIT


def test_no_file_grows_beyond_its_limit(rig: Rig, tmp_path: Path) -> None:
    with rig.make(Limits(file_size=_MIB)).open(a_spec(), stop=Event()) as container:
        result = shell(container, "head -c 3000000 /dev/zero > big", tmp_path)
        size = shell(container, "wc -c < big", tmp_path).stdout.read_text()
    assert result.exit_code != 0
    assert int(size) == _MIB


def test_a_swarm_of_processes_is_stopped(rig: Rig, tmp_path: Path) -> None:
    swarm = "n=0; while [ $n -lt 300 ]; do sleep 30 & n=$((n+1)); done; wait"
    with rig.make(Limits(processes=100)).open(a_spec(), stop=Event()) as container:
        with sooner_than(45):
            try:
                ended = shell(container, swarm, tmp_path).exit_code
            except BuildFailed:
                ended = 1
    assert ended != 0


def test_nothing_is_left_of_a_closed_container(runtime: Runtime, tmp_path: Path) -> None:
    nap = f"1234{os.getpid()}"
    with runtime.open(a_spec(), stop=Event()) as container:
        script = f"(sleep {nap} &) ; mkdir locked; touch locked/x; chmod 000 locked"
        assert shell(container, script, tmp_path).exit_code == 0
    assert not _runs(nap)
    assert eventually(runtime.close)
    assert runtime.sweep(keep=lambda labels: False) == 0


def test_nothing_is_left_when_the_build_raises(runtime: Runtime) -> None:
    with pytest.raises(ZeroDivisionError):
        with runtime.open(a_spec(), stop=Event()):
            raise ZeroDivisionError
    assert eventually(runtime.close)
    assert runtime.sweep(keep=lambda labels: False) == 0


def test_sweeping_leaves_what_is_to_be_kept(runtime: Runtime) -> None:
    seen = []

    def keep(labels: dict[str, str]) -> bool:
        seen.append(labels.get("asu.job"))
        return True

    with runtime.open(a_spec(labels={"asu.job": "7"}), stop=Event()) as container:
        assert runtime.sweep(keep=keep) == 0  # type: ignore[arg-type]
        assert container.exists("Makefile")
    assert seen == ["7"]


# --- altogether ----------------------------------------------------------------------------------


def test_a_healthy_runtime_says_so(runtime: Runtime) -> None:
    assert runtime.check().status == "ok"


def test_four_builds_at_once_do_not_disturb_each_other(runtime: Runtime, tmp_path: Path) -> None:
    def build(number: int) -> str:
        output = tmp_path / str(number)
        output.mkdir()
        with runtime.open(a_spec(), stop=Event()) as container:
            container.write_files({"number": str(number)})
            return shell(container, "cat number", output).stdout.read_text()

    with ThreadPoolExecutor(4) as workers:
        assert list(workers.map(build, range(4))) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
def test_an_imagebuilder_builds(
    runtime: Runtime, tmp_path: Path, request: pytest.FixtureRequest, rig: Rig, version: str
) -> None:
    if rig.kind == "podman":
        request.getfixturevalue("sample_images")
    with runtime.open(a_spec(version), stop=Event()) as container:
        container.write_files({"keys/0123456789abcdef": "untrusted comment: x\n", "files/etc/motd": "hello"})
        make = ["make", "image", "PROFILE=acme_widget-5", "PACKAGES=vim"]
        places = [f"BIN_DIR={container.workdir}/out", f"FILES={container.workdir}/files"]
        result = container.run([*make, *places], output=tmp_path)
        assert result.exit_code == 0, result.stderr.read_text()
        into = tmp_path / "into"
        into.mkdir()
        names = container.collect(f"{container.workdir}/out", into)
    assert "profiles.json" in names
    assert any(name.endswith("-sysupgrade.bin") for name in names)


def _runs(argument: str) -> bool:
    """Whether any process on this host has this argument."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if argument.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    return True
            except OSError:
                continue
    return False
