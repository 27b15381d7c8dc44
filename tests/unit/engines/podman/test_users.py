"""Users of images by number: read from the image once, and left by name where that says nothing."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from asu_builder.domain.errors import EngineUnavailable
from asu_builder.engines.podman.runtime import _KNOWN, PodmanRuntime, Users, _numbers
from asu_builder.engines.podman.service import PodmanOptions
from asu_builder.settings import Settings
from fake_engine import Answer, FakeEngine, refusing
from runtime_rig import a_spec

PASSWD = "root:x:0:0:root:/root:/bin/sh\nbuildbot:x:1000:1001:a builder:/builder:/bin/sh\n"
_READ = r"GET /containers/.*/archive"


def archived(text: str, *, kind: bytes = tarfile.REGTYPE) -> Answer:
    """As Podman hands out one file."""
    buffer = io.BytesIO()
    member = tarfile.TarInfo("passwd")
    member.type, member.size = kind, len(text.encode()) if kind == tarfile.REGTYPE else 0
    member.linkname = "" if kind == tarfile.REGTYPE else "/etc/shadow"
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(member, io.BytesIO(text.encode()))
    return Answer(body=buffer.getvalue())


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "s") as running:
        yield running


@pytest.fixture
def runtime(engine: FakeEngine) -> PodmanRuntime:
    return PodmanRuntime(
        PodmanOptions(
            Settings(
                container_socket_path=str(engine.socket),
                imagebuilder_registry="localhost/sample",
                build_network="none",
            )
        )
    )


def has_user(engine: FakeEngine, user: object, *, image: str = "sha256:1") -> None:
    engine.faults[r"GET /images/.*/json"] = Answer(
        body={"Id": image, "Config": {"WorkingDir": "/builder", "User": user}}
    )


def created_with(runtime: PodmanRuntime, engine: FakeEngine) -> object:
    """The user that the next container is created with."""
    with runtime.open(a_spec(), stop=Event()):
        pass
    return engine.bodies["POST /containers/create"][-1].get("user")


def test_the_second_container_is_created_with_the_numbers(runtime: PodmanRuntime, engine: FakeEngine) -> None:
    has_user(engine, "buildbot")
    engine.faults[_READ] = archived(PASSWD)
    assert [created_with(runtime, engine) for _ in range(3)] == [None, "1000:1001", "1000:1001"]
    assert engine.asked(_READ) == 1
    has_user(engine, "buildbot", image="sha256:2")
    engine.faults[_READ] = archived(PASSWD.replace("1000", "1500"))
    assert [created_with(runtime, engine) for _ in range(2)] == [None, "1500:1001"]


@pytest.mark.parametrize("user", ["", None, "1000:1000", "buildbot:buildbot"])
def test_nothing_is_read_where_podman_need_not_look_or_a_group_is_named(
    runtime: PodmanRuntime, engine: FakeEngine, user: object
) -> None:
    has_user(engine, user)
    assert [created_with(runtime, engine) for _ in range(2)] == [None, None]
    assert engine.asked(_READ) == 0


@pytest.mark.parametrize(
    "answer",
    [
        refusing("no such file", 404),
        archived("", kind=tarfile.SYMTYPE),
        archived("x" * (2 << 20)),
        archived("nobody:x:1:1::/:/bin/sh\n"),
        archived("buildbot"),
    ],
)
def test_a_user_who_is_not_found_stays_a_name_and_is_looked_for_once(
    runtime: PodmanRuntime, engine: FakeEngine, answer: Answer
) -> None:
    has_user(engine, "buildbot")
    engine.faults[_READ] = answer
    assert [created_with(runtime, engine) for _ in range(2)] == [None, None]
    assert engine.asked(_READ) == 1


def test_an_archive_that_breaks_off_is_the_engine_s_fault_and_read_again(
    runtime: PodmanRuntime, engine: FakeEngine
) -> None:
    has_user(engine, "buildbot")
    engine.faults[_READ] = Answer(body=b"x" * 600)
    with pytest.raises(EngineUnavailable), runtime.open(a_spec(), stop=Event()):
        pass
    assert engine.asked(_READ) == 1


@pytest.mark.parametrize(
    ("passwd", "user", "numbers"),
    [
        (PASSWD, "buildbot", "1000:1001"),
        (PASSWD, "1000", "1000:1001"),
        (PASSWD, "root", "0:0"),
        (PASSWD, "build", ""),
        (PASSWD, "x", ""),
        ("", "buildbot", ""),
        ("buildbot:x:1000\n", "buildbot", ""),
        ("buildbot:x:-1:0::\n", "buildbot", ""),
        ("buildbot:x:٣:0::\n", "buildbot", ""),
        ("buildbot:x:1 0:0::\n", "buildbot", ""),
        ("buildbot:x:99999999999:0::\n", "buildbot", ""),
        ("\x00\n:::\n" + PASSWD, "buildbot", "1000:1001"),
        (":" * (1 << 20), "buildbot", ""),
    ],
)
def test_what_a_passwd_file_says(passwd: str, user: str, numbers: str) -> None:
    assert _numbers(passwd, user) == numbers


def test_images_are_remembered_within_a_bound(runtime: PodmanRuntime, engine: FakeEngine) -> None:
    engine.faults[_READ] = archived(PASSWD)
    for number in range(3):
        has_user(engine, "buildbot", image=f"sha256:{number}")
        created_with(runtime, engine)
    assert len(runtime._users._numbers) == 3 < _KNOWN
    runtime._users = full = Users()
    full._numbers |= {f"old-{number}": "" for number in range(_KNOWN)}
    created_with(runtime, engine)
    assert len(full._numbers) == _KNOWN and "old-0" not in full._numbers
