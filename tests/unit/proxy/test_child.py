"""What a build gets at its socket, whatever it says there."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_builder.proxy import child
from asu_builder.proxy.child import Service
from asu_builder.proxy.fetching import Failed, Job, Refused, Stream
from factories import eventually


class Fetcher:
    """Answers with what a test wants."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.closed = 0
        self.chunks: list[bytes | Exception] = [b"package"]
        self.length: int | None = 7
        self.refusal: Exception | None = None

    def fetch(self, job: Job, url: str) -> Stream:
        self.asked.append(url)
        if self.refusal:
            raise self.refusal

        def read() -> Iterator[bytes]:
            for chunk in self.chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk

        def close() -> None:
            self.closed += 1

        return Stream(200, {"etag": '"x"'}, self.length, read(), close=close)


@pytest.fixture
def fetcher() -> Fetcher:
    return Fetcher()


class Site(Service):
    """A service whose sentences are kept, with one job."""

    def __init__(self, directory: Path, fetcher: Fetcher) -> None:
        super().__init__(directory, fetcher)
        self.said: list[str] = []
        self.path = directory / "job.sock"

    def say(self, message: object) -> None:
        assert isinstance(message, dict)
        self.said.append(str(message["note"]))

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(self._short(self.path.name))  # waits where the queue of callers is full
        client.settimeout(20)
        return client

    def ask(self, request: bytes, *, end: bool = True) -> bytes:
        """Everything that is answered."""
        with self.connect() as client:
            client.sendall(request)
            if end:
                client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.fixture
def site(tmp_path: Path, fetcher: Fetcher) -> Iterator[Site]:
    # Longer than the path of a socket may be.
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    made = Site(directory, fetcher)
    made.obey({"do": "open", "job": "job"})
    made.obey({"do": "allow", "job": "job", "urls": ["https://a.example/x"]})
    yield made
    if made._jobs:
        made.obey({"do": "close", "job": "job"})


def get(path: str = "/x/p.ipk", method: str = "GET", version: str = "1.1") -> bytes:
    return f"{method} http://a.example:443{path} HTTP/{version}\r\nHost: other\r\n\r\n".encode()


def test_a_file_is_given_with_its_length(site: Site, fetcher: Fetcher) -> None:
    head, _, body = site.ask(get()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nContent-Length: 7" in head
    assert body == b"package"
    assert fetcher.asked == ["https://a.example/x/p.ipk"]
    assert fetcher.closed == 1
    assert site.obey({"do": "close", "job": "job"}) == {"requests": 1, "bytes": 7, "refused": 0, "cached": 0}
    assert not site.path.exists()


def test_a_head_has_no_body(site: Site, fetcher: Fetcher) -> None:
    answer = site.ask(get(method="HEAD"))
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 7" in answer
    assert fetcher.closed == 1


def test_a_body_that_breaks_off_never_looks_whole(site: Site, fetcher: Fetcher) -> None:
    fetcher.length = None
    assert site.ask(get()).endswith(b"7\r\npackage\r\n0\r\n\r\n")
    fetcher.chunks = [b"package", Failed("it broke off")]
    assert site.ask(get()).endswith(b"7\r\npackage\r\n")
    fetcher.length = 20
    assert site.ask(get()).endswith(b"Content-Length: 20\r\n\r\npackage")
    assert site.said == ["it broke off"]


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        (b"CONNECT a.example:443 HTTP/1.1\r\n\r\n", 405, "only GET and HEAD"),
        (b"POST http://a.example:443/x HTTP/1.1\r\n\r\n", 405, "only GET and HEAD"),
        (get("/y"), 403, "not below a repository of this build"),
        (b"GET http://169.254.169.254/latest HTTP/1.1\r\n\r\n", 403, "not below a repository"),
        (b"GET /x HTTP/1.1\r\n\r\n", 400, "no address of a file"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "no request"),
        (b"GET http://a.example:443/x HTTP/2.0\r\n\r\n", 400, "no request"),
        (b"GET  http://a.example:443/x\r\n\r\n", 400, "no request"),
        (b"GET http://a.exa", 400, "half a request"),
        (b"GET http://a.example:443/x HTTP/1.1\r\n" + b"a: b\r\n" * 2000, 400, "longer than 8 KiB"),
        (b"\0" * 9000, 400, "longer than 8 KiB"),
    ],
)
def test_everything_else_is_refused_with_a_sentence(
    site: Site, fetcher: Fetcher, request_: bytes, status: int, said: str
) -> None:
    assert site.ask(request_).startswith(f"HTTP/1.1 {status} ".encode())
    assert [sentence.startswith("refused: ") and said in sentence for sentence in site.said] == [True]
    assert not fetcher.asked
    assert site.obey({"do": "close", "job": "job"})["refused"] == 1


def test_a_client_that_says_nothing_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_HEAD_SECONDS", 0.2)
    assert site.ask(b"GET ", end=False).startswith(b"HTTP/1.1 400 ")
    assert site.ask(b"") == b""
    assert len(site.said) == 1


@pytest.mark.parametrize("failure", [Failed("the server is gone"), Refused("it leads elsewhere", 502)])
def test_a_server_that_fails_is_a_bad_gateway(site: Site, fetcher: Fetcher, failure: Exception) -> None:
    fetcher.refusal = failure
    assert site.ask(get()).startswith(b"HTTP/1.1 502 ")
    assert str(failure) in site.said[0]


def test_a_thousand_connections_take_nothing_from_others(site: Site, fetcher: Fetcher) -> None:
    held: list[socket.socket] = []
    for _ in range(200):
        client = site.connect()
        held.append(client)
    # Those beyond the limit are closed at once; the others wait for their request.
    assert eventually(lambda: len(site._clients["job"]) == 32)
    assert eventually(lambda: "more than 32 connections" in "".join(site.said))
    site.obey({"do": "open", "job": "other"})
    site.obey({"do": "allow", "job": "other", "urls": ["https://a.example/x"]})
    site.path = site.path.with_name("other.sock")
    assert site.ask(get()).endswith(b"package")
    site.obey({"do": "close", "job": "other"})
    for client in held:
        client.close()


def test_one_build_cannot_ask_for_what_another_may_have(site: Site, fetcher: Fetcher) -> None:
    site.obey({"do": "open", "job": "other"})
    site.path = site.path.with_name("other.sock")
    assert site.ask(get()).startswith(b"HTTP/1.1 403 ")
    site.obey({"do": "close", "job": "other"})


def test_a_build_is_given_so_much_and_no_more(
    site: Site, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "MOST_BYTES", 10)
    assert site.ask(get()).endswith(b"package")
    assert not site.ask(get()).endswith(b"package")
    assert "all it may have" in site.said[0]


def test_the_end_of_a_build_ends_what_it_still_loads(site: Site, fetcher: Fetcher) -> None:
    with site.connect() as client:
        assert eventually(lambda: len(site._clients["job"]) == 1)
        site.obey({"do": "close", "job": "job"})
        assert client.recv(64) == b""


def test_sockets_of_processes_that_are_gone_are_taken_away(tmp_path: Path, fetcher: Fetcher) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "old.sock"))
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(tmp_path / "living.sock"))
        living.listen()
        Service(tmp_path, fetcher).sweep()
        assert [path.name for path in tmp_path.iterdir()] == ["living.sock"]
