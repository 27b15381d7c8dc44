"""What is promised is on disk before it is said: seen in the order of the service's system calls."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import Make
from e2e.service import Service
from podman_service import APK_VERSION
from tools import require_tool

pytestmark = pytest.mark.long

_CALL = re.compile(r"^(?P<pid>\d+)\s+(?P<call>\w+)\((?P<arguments>.*)$")
_TO_SOCKET = r"\w+\(\d+<[^>]*(?:socket|TCP)[^>]*>.*"
_CALLS = "fsync,fdatasync,rename,renameat,renameat2,pwrite64,write,writev,sendto,sendmsg"


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the calls of a traced service are written."""
    require_tool("strace")
    yield tmp_path_factory.mktemp("traced")


@pytest.fixture
def service(make_local: Make, traced: Path) -> Service:
    """A service whose system calls are written down from its start on."""
    # Enough of each buffer to see a whole database page; file names beside descriptors.
    below = ("strace", "-f", "--seccomp-bpf", "-y", "-s", "4200", "-e", f"trace={_CALLS}")
    service = make_local(below=(*below, "-o", str(traced / "calls")), worker_concurrent=1)
    return service.start()


def calls_of(file: Path) -> list[str]:
    """The calls in their order, as `name(arguments`; those cut in two count where they begin.

    A sync that has only begun proves nothing, so those count where they end.
    """
    begun: dict[tuple[str, str], str] = {}
    calls = []
    for line in file.read_text(errors="replace").splitlines():
        if resumed := re.match(r"^(\d+)\s+<\.\.\. (\w+) resumed>", line):
            call = begun.pop((resumed[1], resumed[2]), None)
            if call is not None:
                calls.append(call)
        elif match := _CALL.match(line):
            text = f"{match['call']}({match['arguments']}"
            if line.endswith("<unfinished ...>") and "sync" in match["call"]:
                begun[match["pid"], match["call"]] = text
            else:
                calls.append(text)
    return calls


def index_of(calls: list[str], pattern: str, *, after: int = -1) -> int:
    """Where the first call that matches is, behind another."""
    for number, call in enumerate(calls):
        if number > after and re.match(pattern, call):
            return number
    raise AssertionError(f"no {pattern} after {calls[after][:200] if after >= 0 else 'the start'}")


def test_an_accepted_request_is_on_disk_before_the_answer_leaves_and_an_image_before_it_is_done(
    service: Service, traced: Path
) -> None:
    body = {"version": APK_VERSION, "target": "pico/nine", "profile": "acme_widget-5", "packages": ["vim"]}
    with service.client() as client:
        accepted = client.post_patiently(body)
        assert accepted.status == 202
        request_hash = accepted.json["request_hash"]
        done = client.wait(request_hash)
        assert done.status == 200
    service.stop()
    calls = calls_of(traced / "calls")

    answered = _require_submit_order(calls, request_hash)
    _require_publish_order(calls, service, request_hash, after=answered)


def _require_submit_order(calls: list[str], request_hash: str) -> int:
    """Row, sync of the log, answer; where the answer is."""
    written = index_of(calls, rf"pwrite64\(\d+<[^>]*-wal>.*{request_hash}")
    synced = index_of(calls, r"f(data)?sync\(\d+<[^>]*-wal>", after=written)
    answered = index_of(calls, rf"{_TO_SOCKET}HTTP/1\.1 202")
    assert written < synced < answered
    return answered


def _require_publish_order(calls: list[str], service: Service, request_hash: str, *, after: int) -> None:
    """Files, their directory, the rename, the store, and only then the row that says completed."""
    store = re.escape(str(service.store))
    rename = index_of(calls, rf'rename(at2?)?\("[^"]*", "{store}/{request_hash}"', after=after)
    source = re.findall(r'"([^"]+)"', calls[rename])[0]
    published = {path.name for path in (service.store / request_hash).iterdir()}
    syncs = [
        index_of(calls, rf"fsync\(\d+<{re.escape(source)}/{re.escape(name)}>", after=after)
        for name in published
    ]
    directory = index_of(calls, rf"fsync\(\d+<{re.escape(source)}>", after=max(syncs))
    assert directory < rename
    whole = index_of(calls, rf"fsync\(\d+<{store}>", after=rename)
    # The result's own words: the table's definition says "completed" too, and pages hold both.
    completed = index_of(calls, r"pwrite64\(\d+<[^>]*-wal>.*build_cmd", after=after)
    assert whole < completed
    durable = index_of(calls, r"f(data)?sync\(\d+<[^>]*-wal>", after=completed)
    told = index_of(calls, rf"{_TO_SOCKET}HTTP/1\.1 200.*imagebuilder-status: done", after=after)
    assert completed < durable < told
