"""The process that holds a key while it signs, and that the service has nothing of it."""

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asu_builder.database.connection import Database
from asu_builder.database.queue import SqlJobQueue
from asu_builder.domain.errors import SigningUnavailable
from asu_builder.domain.job import Image
from asu_builder.signing import pem, usign
from asu_builder.signing.holders import IMAGES, PROVENANCE, BoundedReads, FileKey, KeyKind
from asu_builder.signing.signer import Signing
from factories import a_submission, eventually
from secret_search import found_in, found_in_files, memory_of, secret_forms

pytestmark = pytest.mark.process


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Its file, which this process has read."""
    path = tmp_path / "signing.key"
    path.write_text(usign.make_key().text())
    path.chmod(0o600)
    return path


def anonymous_kilobytes(pid: int) -> int:
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


@contextmanager
def running(code: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """A process that signs; it goes on with each line that it gets, and says when it waits for one."""
    prelude = (
        "import sys; from pathlib import Path; from datetime import datetime, UTC\n"
        "from asu_builder.domain.job import Image; from asu_builder.signing import usign\n"
        "from asu_builder.signing.holders import FileKey\n"
        "from asu_builder.signing.signer import Signing\n"
        "def wait(): print('waits', flush=True); input()\n"
        "key, file = map(Path, sys.argv[1:])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", prelude + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin and process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "waits\n"


def waits(process: "subprocess.Popen[str]") -> None:
    assert process.stdout and process.stdout.readline() == "waits\n"


_SIGNS = """
signing = Signing(FileKey(key), certificate=None, offered=file.parent / "keys")
signing.key_id
print(*{'cryptography'} & {*sys.modules})
wait()
signing.sign_file(key.with_name("small"))
wait()
signing.sign_image(Image(file.name, "combined", "", "", file.stat().st_size), file)
wait()
"""


def test_200_mb_take_no_memory_and_nothing_of_the_key_stays_in_the_service(key: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(200 << 20)
    (tmp_path / "small").write_bytes(b"x")
    forms = secret_forms(key.read_bytes())
    with running(_SIGNS, key, large) as process:
        assert process.stdout and process.stdout.readline() == "\n", "the public half needs no library"
        waits(process)
        assert not children_of(process.pid), "nor a process started"
        go_on(process)  # now both have loaded what they need
        (child,) = children_of(process.pid)
        whole, own = anonymous_kilobytes(child), anonymous_kilobytes(process.pid)
        go_on(process)
        assert children_of(process.pid) == [child], "one for all files of a build"
        grown = anonymous_kilobytes(process.pid) - own, anonymous_kilobytes(child) - whole
        assert max(grown) < 1024 and whole + sum(grown) < 10 << 10, (grown, whole)
        limits = Path(f"/proc/{child}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
        held = memory_of(child)
        assert found_in(held, forms) >= {"seed, first half", "seed, second half"}, (
            "the search finds what is there"
        )
        large.unlink()
        assert found_in(memory_of(process.pid), forms) == set()
        assert set(found_in_files(tmp_path, forms)) == {key}


_READS = "held = usign.read_secret_key(key); wait()"


_STATES = """
from asu_builder.signing.attestation import Attestation
from asu_builder.signing.holders import PROVENANCE
attestation = Attestation(FileKey(key, PROVENANCE))
attestation.require()
print(*{'cryptography'} & {*sys.modules})
wait()
attestation.sign_statement(b"{}")
wait()
"""


def test_nothing_of_a_provenance_key_is_in_the_service(tmp_path: Path) -> None:
    key = tmp_path / "provenance.key"
    key.write_text(pem.make_key().text())
    key.chmod(0o600)
    forms = secret_forms(key.read_bytes())
    with running(_STATES, key, key) as process:
        assert process.stdout and process.stdout.readline() == "\n", "the public half needs no library here"
        waits(process)
        assert found_in(memory_of(process.pid), forms) == set()
        (child,) = children_of(process.pid)
        assert found_in(memory_of(child), forms), "the search finds what is there"
        go_on(process)
        assert found_in(memory_of(process.pid), forms) == set()
        assert children_of(process.pid) == [child], "one for the whole build"
    assert set(found_in_files(tmp_path, forms)) == {key}


def test_a_process_that_reads_a_key_itself_is_found_out(key: Path) -> None:
    with running(_READS, key, key) as process:
        waits(process)
        assert found_in(memory_of(process.pid), secret_forms(key.read_bytes()))


def test_its_memory_is_neither_dumped_nor_read_by_others() -> None:
    code = (
        "import ctypes, resource; from asu_builder.signing.child import protect_memory;"
        "may = lambda: ctypes.CDLL(None).prctl(3); print(may());"
        "protect_memory(); print(may(), *resource.getrlimit(resource.RLIMIT_CORE))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "1\n0 0 0\n"


def test_it_ends_when_nothing_is_signed_and_another_signs_the_next(key: Path, tmp_path: Path) -> None:
    holder, message = FileKey(key, idle_seconds=0.1), tmp_path / "message"
    message.write_bytes(b"message")
    first = holder.sign(message)
    assert eventually(lambda: holder.pid() is None)
    assert holder.sign(message) == first == usign.read_secret_key(key).sign(b"message").raw


def test_a_killed_one_is_replaced_and_one_that_cannot_start_is_a_sentence(key: Path) -> None:
    holder = FileKey(key)
    first = holder.sign(key)
    child = holder.pid()
    assert child
    os.kill(child, signal.SIGKILL)
    assert holder.sign(key) == first
    for command, sentence in (
        (("/no/such/python",), "can be started: No such file"),
        (("false",), "has ended with 1"),
        (("sleep", "60"), "ended with 1"),  # it takes our paths for durations
        (("sh", "-c", "sleep 60"), "nothing was signed within 0.2 seconds"),
        (("sh", "-c", "echo - it is odd; cat"), "it is odd"),
        (("sh", "-c", "echo 00 11; cat"), "restart the service"),
    ):
        broken = FileKey(key, command=command, deadline_seconds=0.2 if "within" in sentence else 20)
        with pytest.raises(SigningUnavailable, match=re.escape(sentence)):
            broken.sign(key)


def test_a_key_replaced_under_a_running_service_signs_nothing_until_a_restart(key: Path) -> None:
    holder = FileKey(key)
    former = holder.public_key()
    key.write_text(usign.make_key().text())
    with pytest.raises(SigningUnavailable, match="it is another one by now than when"):
        holder.sign(key)
    assert holder.public_key() == former
    again = FileKey(key)
    assert again.public_key() != former and len(again.sign(key)) == 64


def test_what_is_wrong_with_a_key_is_told_by_either_half(key: Path) -> None:
    text = key.read_text()
    comment, line = text.splitlines()
    assert FileKey(key).public_key() == usign.read_secret_key(key).public.text()
    # The last letter of the seed's: its checksum does not fit, and the public half is whole.
    at = 80
    damaged = f"{comment}\n{line[:at]}{'A' if line[at] != 'A' else 'B'}{line[at + 1 :]}\n"
    key.write_text(damaged)
    holder = FileKey(key)
    holder.public_key()
    for use in (lambda: holder.sign(key), FileKey(key).examine):
        with pytest.raises(SigningUnavailable, match="it is damaged: its checksum is another one"):
            use()
    assert hashlib.sha256(damaged.encode()).digest() == hashlib.sha256(key.read_bytes()).digest()


@pytest.mark.parametrize("kind", [IMAGES, PROVENANCE], ids=["usign", "pem"])
def test_a_key_that_is_not_that_of_the_public_half_beside_is_noticed(tmp_path: Path, kind: KeyKind) -> None:
    """Any 32 bytes are a seed: of a key in PEM nothing else tells that one of its letters has changed."""
    key, other = (pem.make_key() if kind is PROVENANCE else usign.make_key() for _ in range(2))
    path, beside = tmp_path / "key", tmp_path / "key.pub"
    path.write_text(key.text())
    path.chmod(0o600)
    FileKey(path, kind).examine()
    for text in (key.public.text(), "garbage", ""):
        beside.write_text(text)
        FileKey(path, kind).examine()
    beside.write_text(other.public.text())
    with pytest.raises(SigningUnavailable, match=r"it is damaged, or .* is the public half of another key"):
        FileKey(path, kind).examine()


def test_a_disk_that_does_not_answer_is_said_in_time_and_by_one_thread(tmp_path: Path) -> None:
    answers, asked = threading.Event(), []

    def read(path: Path) -> bytes:
        asked.append(path)
        assert answers.wait(60)
        return b"there"

    reads = BoundedReads(seconds=0.1)
    for _ in range(3):
        with pytest.raises(usign.BadKey, match=r"not read within 0\.1 seconds; its disk does not answer"):
            reads.read(read, tmp_path)
    assert len(asked) == 1
    answers.set()
    assert eventually(lambda: not any(thread.name == "read-key" for thread in threading.enumerate()))
    assert reads.read(read, tmp_path) == b"there"
    with pytest.raises(usign.BadKey, match="No such file"):
        reads.read(usign.read_small_file, tmp_path / "absent")


def test_a_key_on_a_disk_that_hangs_ends_in_time(key: Path, tmp_path: Path) -> None:
    holder = FileKey(key, deadline_seconds=0.5)
    holder.public_key()
    # A message that is a pipe which nobody writes to waits as a disk does that is away.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    since = time.monotonic()
    with pytest.raises(SigningUnavailable, match=r"nothing was signed within 0\.5 seconds"):
        holder.sign(pipe)
    took = time.monotonic() - since
    assert took < 10
    assert holder.pid() is None
    pipe.replace(key)
    with pytest.raises(SigningUnavailable, match="it is no plain file"):
        FileKey(key).public_key()


@pytest.mark.timed
def test_answers_and_writes_go_on_while_a_large_image_is_signed(key: Path, tmp_path: Path) -> None:
    """Whatever held the interpreter for one pass over the image would stop them for a sixth of the time."""
    image, queue = tmp_path / "image.bin", SqlJobQueue(Database(tmp_path / "a.db"))
    with image.open("wb") as file:
        file.truncate(200 << 20)
    signing = Signing(FileKey(key), certificate=None, offered=tmp_path / "keys")
    signing.sign_file(key)
    told = Image(image.name, "combined", "", "", image.stat().st_size)
    pauses: list[float] = []

    async def answer_meanwhile() -> float:
        """How long signing took; a request is accepted each few milliseconds on the event loop meanwhile."""
        began = before = time.monotonic()
        signed = asyncio.ensure_future(asyncio.to_thread(signing.sign_image, told, image))
        while not signed.done():
            queue.submit(a_submission(packages=(f"p{len(pauses)}",)))
            await asyncio.sleep(0.005)
            now = time.monotonic()
            pauses.append(now - before)
            before = now
        await signed
        return time.monotonic() - began

    took = asyncio.run(answer_meanwhile())
    longest = max(pauses)
    assert len(pauses) > 20 and longest < took / 8, (longest, took, len(pauses))


@pytest.mark.timed
def test_signing_costs_little_more_than_the_library(key: Path, tmp_path: Path) -> None:
    """The CPU of both processes; rounds in turn, because the machine is shared."""
    image, secret, holder = tmp_path / "image.bin", usign.read_secret_key(key), FileKey(key)
    image.write_bytes(os.urandom(16 << 20))
    content = image.read_bytes()
    told = Image(image.name, "combined", "", "", len(content))
    signing = Signing(holder, certificate=None, offered=tmp_path / "keys")
    signing.sign_file(key)

    def spent() -> float:
        beside = int(Path(f"/proc/{holder.pid()}/schedstat").read_text().split()[0])
        return time.process_time() + beside / 1e9

    ours, bare = [], []
    for _ in range(9):
        began = spent()
        signing.sign_image(told, image)
        ours.append(spent() - began)
        began = spent()
        usign.is_signed(content, secret.sign(content), secret.public)
        hashlib.sha256(content)
        bare.append(spent() - began)
    # The least of each: the other rounds were disturbed.
    assert min(ours) < 1.3 * min(bare), (ours, bare)
