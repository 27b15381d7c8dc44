"""Where a service listens, and what is said where it cannot; what stops with the demo."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import Make
from e2e.terminal import run, start
from factories import eventually
from ports import free_port


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which this process listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", free_port()))
        holder.listen()
        yield holder.getsockname()[1]


def answers(port: int) -> bool:
    """Whether a service answers there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/stats", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_port_that_is_taken_is_told_with_who_has_it_and_what_to_type(make_local: Make, taken: int) -> None:
    service = make_local(server_port=taken)
    refused = run(service, "serve")
    assert refused.code == 4
    said = re.fullmatch(
        rf"asu-builder: Port {taken} is taken by process {os.getpid()} \(.+\)\. "
        rf"Stop it \(kill {os.getpid()}\), or serve elsewhere: asu-builder serve --port (\d+)\n",
        refused.err,
    )
    assert said, refused.err
    assert not service.database.exists()
    assert "Traceback" not in refused.err
    process = start(service, "serve", "--port", said[1])
    try:
        assert eventually(lambda: answers(int(said[1])))
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("192.0.2.1", "192.0.2.1 is no address of this machine"),
        ("no such host", "is no address of this machine"),
    ],
)
def test_an_address_that_is_not_here_is_a_wrong_setting(make_local: Make, host: str, said: str) -> None:
    refused = run(make_local(server_host=host), "serve")
    assert refused.code == 2
    assert refused.err.startswith("asu-builder: server_host: ") and said in refused.err


def test_a_port_and_a_file_may_be_named_at_the_command_line(make_local: Make, tmp_path: Path) -> None:
    service = make_local()
    file = tmp_path / "elsewhere.yaml"
    file.write_text("contact: from the file\nserver_port: 1\n")
    service.directory.mkdir(parents=True)
    (service.directory / "config.yaml").write_text("this is not even: read: {\n")
    port = free_port()
    process = start(service, "serve", "--port", str(port), "--config", str(file))
    try:
        assert eventually(lambda: answers(port))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/queue", timeout=10) as answer:
            assert b"from the file" in answer.read()
    finally:
        process.terminate()
        process.communicate()
    missing = run(service, "serve", "--config", str(tmp_path / "none.yaml"))
    assert missing.code == 2 and "none.yaml" in missing.err


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """For a demo that finds no engine and no settings of this user."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("ASU_")}
    outer.pop("CONTAINER_HOST", None)
    return {**outer, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}


def demo(environment: dict[str, str], folder: Path, *options: str) -> "subprocess.Popen[str]":
    """A running demo."""
    return subprocess.Popen(
        [sys.executable, "-m", "asu_builder", "demo", *options],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_what_stops_the_demo_stops_its_service(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    port = free_port()
    process = demo(environment, tmp_path, "--keep", "--port", str(port))
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("The service answers at"):
                break
        assert answers(port), "".join(said)
        process.send_signal(number)
        assert eventually(lambda: not answers(port), seconds=40)
        assert process.wait(60) == (-number if number == signal.SIGKILL else 0)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_demo_that_is_kept_keeps_the_variables_of_its_user(
    environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    variables = {
        "ASU_SERVER_PORT": str(port),
        "ASU_CONTACT": "of the variable",
        "ASU_DATABASE_PATH": str(tmp_path / "own.db"),
    }
    process = demo(environment | variables, tmp_path, "--keep")
    try:
        assert eventually(lambda: answers(port), seconds=60)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/queue", timeout=10) as answer:
            assert b"of the variable" in answer.read()
        assert (tmp_path / "own.db").exists()
    finally:
        process.terminate()
        process.communicate(timeout=40)


def test_a_demo_says_who_has_the_port_that_was_asked_for(
    environment: dict[str, str], tmp_path: Path, taken: int
) -> None:
    process = demo(environment, tmp_path, "--port", str(taken))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 4
    assert f"Port {taken} is taken by process {os.getpid()}" in said


@pytest.mark.parametrize(
    "entry",
    [
        "*",
        "https://*.example.org/",
        "https://a.example.org/;b",
        "http://[x]/y",
        "https://a.example.org:0/",
        "x",
    ],
)
def test_an_entry_of_the_allow_list_that_cannot_be_meant_stops_the_start(
    make_local: Make, entry: str
) -> None:
    service = make_local(repository_allow_list=f"https://fine.example.org/ {entry}")
    refused = run(service, "serve")
    assert refused.code == 2
    assert "repository_allow_list[1]" in refused.err and entry in refused.err
    assert not answers(service.port) and not service.database.exists()
