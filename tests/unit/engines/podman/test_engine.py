"""Finding Podman's socket, and saying what is wrong with it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import urllib3
from podman.errors import APIError, PodmanError

from asu_builder.domain.errors import BuildFailed, EngineUnavailable, FailureReason
from asu_builder.engines.podman.service import (
    find_socket,
    one_line,
    podman_errors,
    socket_candidates,
    what_helps,
)


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "podman" / "podman.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        yield path


def test_the_usual_places_are_tried_in_order() -> None:
    environment = {"CONTAINER_HOST": "unix:///a.sock", "XDG_RUNTIME_DIR": "/b"}
    assert socket_candidates(environment=environment) == [
        Path("/a.sock"),
        Path("/b/podman/podman.sock"),
        Path(f"/run/user/{os.getuid()}/podman/podman.sock"),
        Path("/run/podman/podman.sock"),
    ]


def test_a_setting_is_the_only_candidate() -> None:
    environment = {"CONTAINER_HOST": "unix:///a.sock"}
    assert socket_candidates("/own.sock", environment=environment) == [Path("/own.sock")]
    assert socket_candidates("unix:///own.sock", environment=environment) == [Path("/own.sock")]


def test_an_engine_on_another_host_is_not_used() -> None:
    candidates = socket_candidates(environment={"CONTAINER_HOST": "ssh://host/run/podman.sock"})
    assert all("host" not in str(path) for path in candidates)


def test_the_first_socket_that_exists_is_found(listening: Path, tmp_path: Path) -> None:
    environment = {
        "CONTAINER_HOST": f"unix://{tmp_path}/none.sock",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    assert find_socket(environment=environment) == listening


def test_what_is_no_socket_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert find_socket(str(tmp_path / "file")) is None
    assert find_socket(str(tmp_path / "none")) is None


def test_the_remedy_for_a_wrong_path_names_the_socket_that_is_there(listening: Path, tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    for wrong in (tmp_path / "podmn.sock", tmp_path, tmp_path / "file"):
        assert f"There is a socket at {listening}" in what_helps(wrong, environment=environment)


def test_without_any_socket_the_remedy_fits_the_path_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asu_builder.engines.podman.service.find_socket", lambda **_: None)
    told = what_helps(tmp_path / "own.sock")
    assert f"podman system service --time=0 unix://{tmp_path}/own.sock" in told and "systemctl" not in told
    assert f"{tmp_path} is no socket" in what_helps(tmp_path)
    assert "enable --now podman.socket" in what_helps(Path("/run/podman/podman.sock"))


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (_caused(APIError("x"), PermissionError(13, "denied")), "may not be used by this user"),
        (_caused(APIError("x"), FileNotFoundError(2, "gone")), "is gone"),
        (_caused(APIError("x"), ConnectionRefusedError(111, "refused")), "No service listens"),
        (_caused(APIError("x"), TimeoutError()), "did not answer in time"),
        (requests.exceptions.ReadTimeout("slow"), "Podman failed: slow"),
        (ConnectionResetError(104, "reset"), "went away"),
        (APIError("x", explanation="cannot\n  do  that"), "Podman failed: cannot do that"),
        (PodmanError("odd"), "Podman failed: odd"),
        (urllib3.exceptions.ProtocolError("broken"), "Podman failed: broken"),
        (KeyError("Id"), "could not be understood"),
    ],
)
def test_every_foreign_error_becomes_a_sentence(error: Exception, sentence: str) -> None:
    with pytest.raises(EngineUnavailable, match=sentence), podman_errors():
        raise error


def test_errors_of_our_own_pass() -> None:
    with pytest.raises(BuildFailed), podman_errors():
        raise BuildFailed(FailureReason.DEADLINE, "late")


def test_foreign_text_becomes_one_short_line() -> None:
    assert one_line("a\n\tb  c") == "a b c"
    assert len(one_line("x" * 5000)) == 300
