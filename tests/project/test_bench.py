"""What `make bench` prints is measured as it says: ratios, loads, yardsticks that send the same bytes."""

import asyncio
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from bench import load
from bench.figures import Figure, Yardstick, alternate, render_line
from bench.hello import raw
from bench.process import Server
from bench.scenarios import cost, paced_cost
from bench.yardsticks import answer_to, hello, same_bytes

LARGE = b"x" * 3_000_000


class CountingServer(ThreadingHTTPServer):
    """Answers `/large`, `/missing` and everything else; counts the paths."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.requests: Counter[str] = Counter()


class _Answer(BaseHTTPRequestHandler):
    server: CountingServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        body = LARGE if self.path == "/large" else b"small"
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def counting() -> Iterator[CountingServer]:
    with CountingServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def listening(answer: bytes, *, closes: bool) -> Iterator[Server]:
    """A server that sends these bytes to each connection once, then closes it or keeps silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept = []

        def accept() -> None:
            with suppress(OSError):  # closed below
                while True:
                    connection, _ = listener.accept()
                    kept.append(connection)
                    connection.recv(65536)
                    connection.sendall(answer)
                    if closes:
                        connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        yield Server(os.getpid(), listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in kept:
            connection.close()


def test_a_figure_with_a_yardstick_is_judged_by_the_ratios_of_its_rounds() -> None:
    # The machine became slower by a factor of four in the last round: no ratio tells of it.
    figure = Figure("a poll", "µs", [12.0, 11.0, 44.0], 1.2, Yardstick("bare", [10.0, 10.0, 40.0]))
    assert figure.compared == [1.2, 1.1, 1.1]
    assert (figure.median, figure.missed) == (1.1, False)
    assert Figure("a poll", "µs", [12.0], 1.2, Yardstick("bare", [9.0])).missed


def test_a_figure_without_a_yardstick_is_judged_by_its_values() -> None:
    assert Figure("memory", "MB", [59.0, 61.0, 62.0], 60).missed
    assert not Figure("memory", "MB", [59.0, 59.0, 62.0], 60).missed
    assert not Figure("memory", "MB", [59.0]).missed


def test_a_round_that_lacks_its_yardstick_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        _ = Figure("a poll", "µs", [1.0, 2.0], 1.2, Yardstick("bare", [1.0])).median


def test_a_line_tells_ratios_first_and_what_is_behind_them_last() -> None:
    figure = Figure("a poll", "µs", [150.0, 130.0, 120.0], 1.2, Yardstick("bare", [100.0, 100.0, 100.0]))
    assert " ".join(render_line(figure).split()) == "a poll 1.20 1.30 1.50 × ≤ 1.2 MISSED 130 µs, bare 100"
    memory = Figure("memory", "MB", [59.5], 60)
    assert " ".join(render_line(memory).split()) == "memory 59.50 59.50 59.50 MB ≤ 60 kept"


def test_each_round_measures_everything_once() -> None:
    order = []

    def measure(name: str) -> float:
        order.append(name)
        return len(order)

    values = alternate(2, {"ours": partial(measure, "ours"), "known": partial(measure, "known")})
    assert order == ["ours", "known", "ours", "known"]
    assert values == {"ours": [1, 3], "known": [2, 4]}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_raw_application_sends_status_headers_and_body_of_the_answer(method: str) -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nX-Colon: a:b\r\ncontent-length: 4\r\n\r\n\r\n\r\n"
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def answers() -> None:
        await raw(answer)({"type": "http", "method": method}, receive, send)

    asyncio.run(answers())
    assert sent == [
        {
            "type": "http.response.start",
            "status": 404,
            "headers": [(b"x-colon", b"a:b"), (b"content-length", b"4")],
        },
        {"type": "http.response.body", "body": b"" if method == "HEAD" else b"\r\n\r\n"},
    ]


def test_the_yardstick_of_the_same_bytes_gives_them() -> None:
    request = load.get("/anything")
    with hello("starlette") as ours:
        with same_bytes(ours, request) as known:
            expected = answer_to(ours.port, request)
            assert expected.startswith(b"HTTP/1.1 404 ")
            assert answer_to(known.port, load.get("/else")) == expected
        head = load.get("/anything", method="HEAD")
        with same_bytes(ours, head) as known:
            assert answer_to(known.port, head) == answer_to(ours.port, head)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
def test_half_an_answer_is_no_yardstick(answer: bytes) -> None:
    with listening(answer, closes=True) as server, pytest.raises(ConnectionResetError):
        answer_to(server.port, load.get("/"))


def test_a_large_answer_is_read_whole(counting: CountingServer) -> None:
    bodies: list[bytes] = []
    requests = iter([load.get("/large"), load.get("/"), load.get("/large")])
    report = load.run(
        counting.server_port, requests, connections=1, heard=lambda _, __, body: bodies.append(body)
    )
    assert report.statuses == {200: 3}
    assert bodies == [LARGE, b"small", LARGE]


def test_an_answer_in_single_bytes_is_read_whole() -> None:
    answer = b"HTTP/1.1 503 Busy\r\ncontent-length: 5\r\n\r\nlater"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(65536)
                for byte in answer:
                    connection.sendall(bytes([byte]))
                connection.recv(1)

        thread = threading.Thread(target=drip)
        thread.start()
        report = load.run(listener.getsockname()[1], iter([load.get("/")]), connections=1)
        thread.join()
    assert (report.statuses, report.refused, report.broken) == ({503: 1}, [b"later"], 0)


def test_paced_clients_send_the_requests_in_turn(counting: CountingServer) -> None:
    paths = [f"/{number}" for number in range(7)]
    server = Server(os.getpid(), counting.server_port)
    requests = [load.get(path) for path in paths]
    spent, report = load.run_paced(server, requests, clients=60, seconds=1, pauses=(0.1, 0.3))
    sent = sum(counting.requests.values())
    assert report.statuses == {200: sent}
    assert len(report.latencies) == sent
    assert 0 < sent <= 60 * (1 / 0.1 + 1)
    each = [counting.requests[path] for path in paths]
    assert max(each) - min(each) <= 1
    assert report.broken == 0
    assert spent > 0


def test_the_lead_of_a_paced_load_is_not_counted(counting: CountingServer) -> None:
    server = Server(os.getpid(), counting.server_port)
    _, report = load.run_paced(server, [load.get("/")], clients=20, seconds=0.5, lead=1.5, pauses=(0.1, 0.2))
    assert 0 < report.statuses[200] == len(report.latencies) < counting.requests["/"]


def test_a_paced_client_without_an_answer_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_LAST_ANSWERS_SECONDS", 0.5)
    for closes in (False, True):
        with listening(b"", closes=closes) as server:
            _, report = load.run_paced(server, [load.get("/")], clients=3, seconds=0.5, pauses=(0.0, 0.1))
        assert (report.broken, report.latencies) == (3, [])


def test_another_status_than_meant_ends_the_measurement(counting: CountingServer) -> None:
    server = Server(os.getpid(), counting.server_port)
    assert cost(server, [load.get("/missing")], count=5, connections=2, status=404)[1].statuses == {404: 5}
    with pytest.raises(SystemExit, match="404"):
        cost(server, [load.get("/missing")], count=5, connections=2)
    with pytest.raises(SystemExit, match="404"):
        paced_cost(server, [load.get("/missing")], clients=20, seconds=5)
