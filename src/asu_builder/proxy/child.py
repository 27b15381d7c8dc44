"""The process that fetches for builds. It imports little, and knows nothing of the service but its orders.

Orders come on standard input and answers leave on standard output, a line of JSON each. It ends with its
standard input.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from asu_builder.domain.addresses import read_proxies
from asu_builder.proxy.fetching import MOST_BYTES, Allowed, Direct, Failed, Fetcher, Job, Refused, Stream

_MOST_CONNECTIONS = 32
"""Of one build."""
_LONGEST_HEAD = 8 << 10
_HEAD_SECONDS = 10.0
_SEND_SECONDS = 120.0
_STACK = 512 << 10
_WORDS = {400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed", 502: "Bad Gateway"}
_SUFFIX = ".sock"


class _Overdrawn(Exception):
    """The build has had as many bytes as one may."""


class Service:
    """The sockets of all builds, and what answers at them."""

    def __init__(self, directory: Path, fetcher: Fetcher) -> None:
        """`directory` is for the sockets, and exists."""
        self._directory = directory
        # A path of any length: the kernel takes no more than 107 bytes for a socket.
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fetcher = fetcher
        self._jobs: dict[str, tuple[Job, socket.socket]] = {}
        self._clients: dict[str, set[socket.socket]] = {}
        self._lock = threading.Lock()
        self._output = threading.Lock()

    def sweep(self) -> None:
        """Takes away the sockets at which no process listens any more."""
        for path in self._directory.glob(f"*{_SUFFIX}"):
            with socket.socket(socket.AF_UNIX) as trial:
                trial.settimeout(1)
                try:
                    trial.connect(self._short(path.name))
                except ConnectionRefusedError:
                    path.unlink(missing_ok=True)
                except OSError:
                    continue

    def say(self, message: Mapping[str, object]) -> None:
        """One line for the service; when it is gone, so is this process soon."""
        line = json.dumps(message).encode() + b"\n"
        with self._output, suppress(OSError):
            view = memoryview(line)
            while view:
                view = view[os.write(1, view) :]

    def obey(self, order: Mapping[str, Any]) -> Mapping[str, object]:
        """Carries out one order. Raises `OSError`."""
        key = order["job"]
        if order["do"] == "open":
            self._open(key)
        elif order["do"] == "allow":
            self._jobs[key][0].allow(order["urls"])
        elif order["do"] == "distrust":
            if read := self._jobs[key][0].read:
                read.drop()
        else:
            return self._close(key)
        return {}

    def _open(self, key: str) -> None:
        job = Job(key, lambda sentence: self.say({"job": key, "note": sentence}))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._short(key + _SUFFIX))
        # The user of a container is somebody else here; the name cannot be guessed.
        (self._directory / (key + _SUFFIX)).chmod(0o666)
        listener.listen(_MOST_CONNECTIONS)
        with self._lock:
            self._jobs[key] = job, listener
            self._clients[key] = set()
        threading.Thread(target=self._accept, args=(job, listener), daemon=True).start()

    def _close(self, key: str) -> Mapping[str, object]:
        with self._lock:
            job, listener = self._jobs.pop(key)
            clients = self._clients.pop(key)
            (self._directory / (key + _SUFFIX)).unlink(missing_ok=True)
            for connection in (listener, *clients):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        listener.close()
        had = job.traffic
        return {
            "requests": had.requests,
            "bytes": had.bytes,
            "refused": had.refused,
            "cached": had.cached,
        }

    def _short(self, name: str) -> str:
        return f"/proc/self/fd/{self._descriptor}/{name}"

    def _accept(self, job: Job, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                if listener.fileno() < 0 or job.key not in self._jobs:
                    return
                time.sleep(0.1)  # no descriptor is left
                continue
            with self._lock:
                clients = self._clients.get(job.key)
                room = clients is not None and len(clients) < _MOST_CONNECTIONS
                if clients is not None and room:
                    clients.add(client)
            if not room:
                job.traffic.refused += 1
                job.tell(f"refused: more than {_MOST_CONNECTIONS} connections at once")
                client.close()
                continue
            threading.Thread(target=self._serve, args=(job, client), daemon=True).start()

    def _serve(self, job: Job, client: socket.socket) -> None:
        try:
            with suppress(OSError):
                self._answer(job, client)
        finally:
            with self._lock:
                self._clients.get(job.key, set()).discard(client)
            client.close()

    def _answer(self, job: Job, client: socket.socket) -> None:
        started = False
        try:
            head = _read_head(client)
            if not head:
                return  # somebody only tried whether this socket can be reached
            method, asked, is_new = _read_request(head)
            url = job.find(asked)
            with job.lock:
                job.traffic.requests += 1
            stream = self._fetcher.fetch(job, url)
            started = True
            try:
                self._send(job, client, stream, with_body=method == "GET", is_new=is_new)
            finally:
                stream.close()
        except Refused as refused:
            with job.lock:
                job.traffic.refused += 1
            job.tell(f"refused: {refused}")
            _send_error(client, refused.status, str(refused))
        except Failed as failed:
            job.tell(str(failed))
            if not started:
                _send_error(client, 502, str(failed))
        except _Overdrawn:
            job.tell(f"refused: this build has been given {MOST_BYTES >> 30} GiB, which is all it may have")

    def _send(
        self, job: Job, client: socket.socket, stream: Stream, *, with_body: bool, is_new: bool
    ) -> None:
        if stream.is_cached:
            with job.lock:
                job.traffic.cached += 1
        lines = [f"HTTP/1.1 {stream.status} {_WORDS.get(stream.status, 'Answer')}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in stream.headers.items()]
        # Without a length only pieces tell that a body has ended, and did not break off.
        in_pieces = stream.length is None and is_new and with_body
        if stream.length is not None:
            lines.append(f"Content-Length: {stream.length}")
        elif in_pieces:
            lines.append("Transfer-Encoding: chunked")
        client.settimeout(_SEND_SECONDS)
        client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))
        if not with_body:
            return
        for chunk in stream.chunks:
            with job.lock:
                job.traffic.bytes += len(chunk)
                if job.traffic.bytes > MOST_BYTES:
                    raise _Overdrawn
            if in_pieces:
                client.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            else:
                client.sendall(chunk)
        if in_pieces:
            client.sendall(b"0\r\n\r\n")


def _read_head(client: socket.socket) -> bytes:
    """The head of a request; nothing where there is none. Raises `Refused`."""
    until, head = time.monotonic() + _HEAD_SECONDS, b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        left = until - time.monotonic()
        if left <= 0:
            raise Refused("a request that did not end within ten seconds", 400)
        client.settimeout(left)
        try:
            chunk = client.recv(_LONGEST_HEAD)
        except TimeoutError:
            continue
        head += chunk
        if len(head) > _LONGEST_HEAD:
            raise Refused("a request whose head is longer than 8 KiB", 400)
        if not chunk:
            if head:
                raise Refused("half a request", 400)
            break
    return head


def _read_request(head: bytes) -> tuple[str, str, bool]:
    """Method, address, and whether the client speaks HTTP/1.1. Raises `Refused`."""
    line = head.split(b"\n", 1)[0].rstrip(b"\r").decode("latin-1")
    words = line.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise Refused(f"{line[:80]!a} is no request", 400)
    method, asked, version = words
    if method not in ("GET", "HEAD"):
        raise Refused(f"{method[:20]!a} of {asked[:200]!a}: only GET and HEAD are answered", 405)
    return method, asked, version == "HTTP/1.1"


def _send_error(client: socket.socket, status: int, sentence: str) -> None:
    body = f"{sentence}\n".encode("ascii", "replace")
    head = (
        f"HTTP/1.1 {status} {_WORDS[status]}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    client.settimeout(_HEAD_SECONDS)
    client.sendall(head.encode() + body)


def main(choose: Callable[[Direct, Mapping[str, Any]], Fetcher]) -> None:
    """Obeys until standard input ends. The first line says where sockets lie and what builds may reach.

    `choose` makes what answers builds, of what fetches from servers and of the first line.
    """
    threading.stack_size(_STACK)
    orders = os.fdopen(0, "rb", closefd=False)
    given = json.loads(orders.readline())
    allowed = Allowed(
        private=tuple((host, port) for host, port in given["private"]),
        redirects=tuple((host, port) for host, port in given["redirects"]),
        proxies=read_proxies(os.environ),
    )
    direct = Direct(allowed)
    service = Service(Path(given["directory"]), choose(direct, given))
    service.sweep()
    for line in orders:
        order = json.loads(line)
        try:
            answer = service.obey(order)
        except (OSError, KeyError) as error:
            answer = {"wrong": getattr(error, "strerror", "") or str(error)}
        service.say({"id": order["id"], **answer})
    direct.close()
    os._exit(0)  # threads that still send must not hold it up
