"""Files on their way to clients: every byte, from memory or disk, and nothing left behind."""

import asyncio
import contextlib
import errno
import http.client
import os
import random
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from starlette.types import Message, Receive, Scope, Send

from asgi_client import AsgiClient
from asu_builder.http.door import CLIENT, Client, Door
from asu_builder.http.sendfile import DISK_THREADS, PIECE, REST, FileSender
from door_rig import Served, door_settings, head_of, is_closed, serve_app
from factories import eventually

BIG = random.Random(1).randbytes(10 << 20)
ENORMOUS = 64 << 20
"""More than the buffers of a socket hold."""
SIZES = (
    *(0, 1, REST - 1, REST, REST + 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE),
    *(3 * PIECE + 5, len(BIG)),
)


class FileServer:
    """Sends one file, from `start` to before `end` of the query where these are given."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sender = FileSender()
        self.clients: list[Client] = []
        self.failures: list[BaseException] = []
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        file = os.open(self.path, os.O_RDONLY)
        self.running += 1
        try:
            asked = parse_qs(scope["query_string"].decode())
            start = int(asked.get("start", ["0"])[0])
            end = int(asked.get("end", [str(os.fstat(file).st_size)])[0])
            length = b"%d" % (end - start)
            head: Message = {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", length)],
            }
            client = scope.get(CLIENT)
            if client:
                self.clients.append(client)
            await self.sender.send(head, file, start, end, client=client, send=send)
        except BaseException as error:
            self.failures.append(error)
            raise
        finally:
            self.running -= 1
            os.close(file)


@pytest.fixture(params=["/var/tmp", "/dev/shm"], ids=["disk", "memory"])
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory on a disk, and one on a file system that knows no `RWF_NOWAIT`."""
    with tempfile.TemporaryDirectory(prefix="asu-test-", dir=request.param) as name:
        yield Path(name)


@pytest.fixture
def files(folder: Path) -> FileServer:
    """Over a file of 10 MiB."""
    (folder / "file").write_bytes(BIG)
    return FileServer(folder / "file")


@pytest.fixture
def served(files: FileServer) -> Iterator[Served]:
    """The real server in front."""
    with serve_app(files, Door()) as served:  # type: ignore[arg-type] # nothing else of it is used
        yield served


def get(served: Served, target: str = "/") -> bytes:
    """The body of one answer, which must be whole."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", target)
        return connection.getresponse().read()


@pytest.mark.parametrize("size", SIZES)
def test_every_byte_comes_and_the_connection_serves_on(files: FileServer, served: Served, size: int) -> None:
    files.path.write_bytes(BIG[:size])
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    with contextlib.closing(connection):
        for _ in range(2):
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert answer.headers["content-length"] == str(size)
            assert answer.read() == BIG[:size]
        connection.request("GET", "/?start=3&end=3")
        assert connection.getresponse().read() == b""
    assert files.failures == []


@pytest.mark.parametrize("size", SIZES)
def test_another_server_sends_every_byte_too(files: FileServer, size: int) -> None:
    files.path.write_bytes(BIG[:size])
    with AsgiClient(files) as client:
        assert client.get("/").body == BIG[:size]


@pytest.mark.parametrize(
    ("start", "end"), [(5, 6), (1, len(BIG)), (PIECE - 1, 2 * PIECE + 1), (len(BIG) - REST - 1, len(BIG))]
)
def test_a_part_is_that_part(served: Served, start: int, end: int) -> None:
    assert get(served, f"/?start={start}&end={end}") == BIG[start:end]


def read_answer(connection: socket.socket, *, most: int = 1 << 20) -> bytes:
    """The body of one answer, whose head tells its length, and no byte of the next one."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1)
    length = int(received.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    body = bytearray()
    while len(body) < length and (more := connection.recv(min(most, length - len(body)))):
        body += more
    return bytes(body)


def test_requests_that_are_sent_at_once_are_answered_in_order(files: FileServer, served: Served) -> None:
    starts = (0, 1, PIECE, 7)
    with served.connect() as connection:
        connection.sendall(b"".join(head_of(f"/?start={at}&end={at + 3 * PIECE}") for at in starts))
        for at in starts:
            assert read_answer(connection) == BIG[at : at + 3 * PIECE]
    assert files.failures == []


def test_a_connection_that_is_to_be_closed_is_closed_behind_the_last_byte(served: Served) -> None:
    for request in (b"GET / HTTP/1.0\r\n\r\n", head_of("/", "Connection: close")):
        with served.connect() as connection:
            connection.sendall(request)
            assert read_answer(connection) == BIG
            assert is_closed(connection)


def buffered(files: FileServer) -> int:
    """Bytes that the server's transports hold in this process."""
    cycles = [client.cycle for client in files.clients]
    return sum(cycle.transport.get_write_buffer_size() for cycle in cycles if cycle)


def test_slow_readers_get_every_byte_and_little_memory(files: FileServer, served: Served) -> None:
    os.truncate(files.path, ENORMOUS)
    readers = 20
    with contextlib.ExitStack() as opened:
        connections = [opened.enter_context(served.connect()) for _ in range(readers)]
        for connection in connections:
            connection.sendall(head_of("/"))
        assert eventually(lambda: buffered(files) == readers * REST), "each socket is full"
        assert files.running == readers
        assert read_answer(connections[0], most=100_000) == BIG + bytes(ENORMOUS - len(BIG))
        assert buffered(files) == (readers - 1) * REST
    assert eventually(lambda: files.running == 0), "those that leave are sent nothing more"
    assert files.failures == []


def test_a_client_that_reads_nothing_is_ended_after_its_time(files: FileServer) -> None:
    os.truncate(files.path, ENORMOUS)
    with serve_app(files, Door(door_settings(seconds=0.3))) as served:  # type: ignore[arg-type]
        with served.connect() as connection:
            connection.sendall(head_of("/"))
            assert eventually(lambda: buffered(files) > 0)
            served.wait_until_alone()
            assert is_closed(connection)
        assert eventually(lambda: files.running == 0)
    assert files.failures == []


def descriptors(files: FileServer) -> list[str]:
    """Sockets, and the file that is sent, each as often as this process has it open."""
    opened = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the look itself
            opened.append(str(link.readlink()))
    return sorted(name for name in opened if name.startswith(("socket:", str(files.path))))


@pytest.mark.parametrize("linger", [False, True], ids=["closed", "reset"])
def test_clients_that_leave_in_the_middle_leave_nothing_behind(
    files: FileServer, served: Served, linger: bool
) -> None:
    os.truncate(files.path, ENORMOUS)
    before = descriptors(files)
    for _ in range(20):
        with served.connect() as connection:
            if linger:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.sendall(head_of("/"))
            connection.recv(1000)
    assert eventually(lambda: files.running == 0)
    served.wait_until_alone()
    assert eventually(lambda: descriptors(files) == before)
    assert files.failures == []
    assert get(served, "/?end=1000") == BIG[:1000]


def disk_threads() -> int:
    """How many threads wait for disks."""
    return sum(thread.name.startswith("web-disk") for thread in threading.enumerate())


def test_the_threads_of_a_burst_are_few_and_go_away_again(
    files: FileServer, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", refuses)
    most = []
    sendfile = os.sendfile

    def count(connection: int, file: int, start: int, size: int) -> int:
        most.append(disk_threads())
        return sendfile(connection, file, start, size)

    monkeypatch.setattr(os, "sendfile", count)
    clients = 200
    with contextlib.ExitStack() as opened:
        connections = [opened.enter_context(served.connect()) for _ in range(clients)]
        for connection in connections:
            connection.sendall(head_of(f"/?end={3 * PIECE}"))
        for connection in connections:
            assert read_answer(connection) == BIG[: 3 * PIECE]
        assert 1 <= max(most) <= DISK_THREADS
        assert eventually(lambda: disk_threads() == 0), "while the connections are still open"
    assert files.failures == []


def refuses(file: int, buffers: Sequence[memoryview], start: int, flags: int) -> int:
    """As a file system that cannot tell what is in memory."""
    raise OSError(errno.EOPNOTSUPP, "not supported")


def test_what_is_not_in_memory_is_read_by_a_thread(
    files: FileServer, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other look finds nothing, and the others find the first page only."""
    looks: list[int] = []
    preadv = os.preadv

    def forgetful(file: int, buffers: Sequence[memoryview], start: int, flags: int) -> int:
        looks.append(start)
        if len(looks) % 2:
            raise BlockingIOError
        return min(4096, preadv(file, buffers, start))

    threads: set[str] = set()
    sendfile = os.sendfile

    def note(connection: int, file: int, start: int, size: int) -> int:
        threads.add(threading.current_thread().name)
        return sendfile(connection, file, start, size)

    monkeypatch.setattr(os, "preadv", forgetful)
    monkeypatch.setattr(os, "sendfile", note)
    assert get(served) == BIG
    assert any(name.startswith("web-disk") for name in threads), threads
    assert any(not name.startswith("web-disk") for name in threads), threads
    assert files.failures == []


def test_a_file_that_was_dropped_from_memory_comes_whole(files: FileServer, served: Served) -> None:
    with files.path.open("rb") as file:
        os.fsync(file.fileno())
        for _ in range(3):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert get(served) == BIG
    assert files.failures == []


def test_downloads_take_turns_on_the_event_loop(
    files: FileServer, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll waits for one piece of one of them: the loop turns between any two pieces."""
    sizes: list[int] = []
    """Of pieces, and 0 where the loop has turned."""
    all_here = threading.Event()

    def note(connection: int, file: int, start: int, size: int) -> int:
        assert all_here.wait(60)
        sizes.append(size)
        return sendfile(connection, file, start, size)

    def find(file: int, buffers: Sequence[memoryview], start: int, flags: int) -> int:
        return preadv(file, buffers, start)

    def end_turn() -> None:
        sizes.append(0)
        ended()

    sendfile, preadv, ended = os.sendfile, os.preadv, files.sender._let_send
    monkeypatch.setattr(os, "sendfile", note)
    monkeypatch.setattr(os, "preadv", find)
    monkeypatch.setattr(files.sender, "_let_send", end_turn)
    with contextlib.ExitStack() as opened:
        connections = [opened.enter_context(served.connect()) for _ in range(5)]
        for connection in connections:
            connection.sendall(head_of(f"/?end={3 * PIECE}"))
        all_here.set()
        for connection in connections:
            assert read_answer(connection) == BIG[: 3 * PIECE]
    assert len(sizes) >= 2 * 5 * 3
    assert max(sizes[::2]) <= PIECE and min(sizes[::2]) > 0, sizes
    assert set(sizes[1::2]) == {0}, sizes


@pytest.mark.parametrize("left", [0, 5 << 20])
def test_a_file_that_gets_shorter_ends_the_connection_and_is_never_called_whole(
    files: FileServer, served: Served, left: int
) -> None:
    os.truncate(files.path, ENORMOUS)
    with served.connect() as connection:
        connection.sendall(head_of("/"))
        received = len(connection.recv(1 << 20))
        os.truncate(files.path, left)
        while more := connection.recv(1 << 20):
            received += len(more)
    assert received < ENORMOUS
    assert eventually(lambda: files.running == 0)
    assert [type(failure) for failure in files.failures] == [RuntimeError]


def test_a_file_that_is_replaced_comes_as_it_was(files: FileServer, served: Served) -> None:
    os.truncate(files.path, ENORMOUS)
    with served.connect() as connection:
        connection.sendall(head_of("/"))
        assert eventually(lambda: buffered(files) > 0)
        files.path.unlink()
        files.path.write_bytes(b"another")
        assert read_answer(connection) == BIG + bytes(ENORMOUS - len(BIG))


def test_a_disk_that_fails_ends_the_connection(
    files: FileServer, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    for name in ("preadv", "pread", "sendfile"):
        monkeypatch.setattr(os, name, fail)
    with served.connect() as connection:
        connection.sendall(head_of("/"))
        received = b""
        while more := connection.recv(65536):
            received += more
    assert received.startswith(b"HTTP/1.1 200") and received.endswith(b"\r\n\r\n")
    assert eventually(lambda: [type(failure) for failure in files.failures] == [OSError])


def test_a_file_system_that_cannot_send_files_is_read(
    files: FileServer, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "not for such files")

    monkeypatch.setattr(os, "sendfile", refuse)
    assert get(served) == BIG


def test_a_call_that_was_never_made_closes_what_it_was_given(tmp_path: Path) -> None:
    """The client leaves while every thread is busy."""
    (tmp_path / "file").write_bytes(BIG)
    files = FileServer(tmp_path / "file")

    async def leave() -> None:
        busy = threading.Event()
        with files.sender._disk_threads() as threads:
            for _ in range(DISK_THREADS):
                threads.submit(busy.wait, 60)
            before = descriptors(files)
            await_nothing: Message = {"type": "http.response.start", "status": 200, "headers": []}
            file = os.open(files.path, os.O_RDONLY)

            async def ignore(_: Message) -> None:
                pass

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(os, "preadv", refuses)
                sending = asyncio.ensure_future(
                    files.sender.send(await_nothing, file, 0, len(BIG), client=None, send=ignore)
                )
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert len(descriptors(files)) == len(before) + 2
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
            os.close(file)
            assert descriptors(files) == before
            busy.set()

    asyncio.run(leave())
