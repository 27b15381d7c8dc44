"""Which representation a request gets, what names it, and that compressed forms stay within their bytes."""

import asyncio
import gzip
import random
from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.http.cache import Rendered, TtlCache
from asu_builder.http.representations import LEAST_COMPRESSED, Document, Wanted, prefers_gzip, wanted
from asu_builder.http.threads import Threads

LONG = b"what many ask for, again and again; " * 100
_NOISE = random.Random(1).randbytes(5000)


@pytest.mark.parametrize(
    ("accepted", "gzipped"),
    [
        (b"", False),
        (b"gzip", True),
        (b"GZip", True),
        (b"x-gzip", True),
        (b"deflate, gzip;q=1.0, *;q=0.5", True),
        (b"br;q=1.0, gzip;q=0.8, identity;q=0.1", True),
        (b"gzip;q=0.001", True),
        (b"gzip ; q=0.5\t,identity;q=0.5", True),
        (b"gzip;q=0.5, identity", False),
        (b"gzip;q=0", False),
        (b"gzip;q=0.000, *", False),
        (b"identity", False),
        (b"identity;q=0", False),
        (b"identity;q=0, *", True),
        (b"*;q=0", False),
        (b"*", True),
        (b"*;q=0.3, gzip;q=0.2", False),
        (b"br, deflate, zstd", False),
        (b"gzip;q=2", False),
        (b"gzip;q=-1", False),
        (b"gzip;q=nan", False),
        (b"gzip;q=1e3", False),
        (b"gzip;q=0.1234", False),
        (b"gzip;q=", False),
        (b"gzip;level=9", False),
        (b"gzip gzip", False),
        (b"notgzip, gzipped", False),
        (b";;;,,,q=1", False),
        (b",gzip,", True),
        ("gzip\u00a0".encode(), False),
    ],
)
def test_gzip_is_chosen_by_weight_and_by_nothing_malformed(accepted: bytes, gzipped: bool) -> None:
    assert prefers_gzip(accepted) is gzipped


@given(st.lists(st.tuples(st.sampled_from([b"accept-encoding", b"if-none-match", b"x"]), st.binary())))
def test_no_headers_are_an_error(headers: list[tuple[bytes, bytes]]) -> None:
    asked = wanted({"headers": headers})
    document = Document(LONG)
    document.compress()
    assert document.answer(asked).status_code in (200, 304)


def test_headers_that_come_in_pieces_count_as_one_and_endless_ones_for_nothing() -> None:
    pieces = [(b"accept-encoding", b"gzip"), (b"accept-encoding", b"identity;q=0.5")]
    assert wanted({"headers": pieces}).gzip
    assert not wanted({"headers": [*pieces, (b"accept-encoding", b"gzip;q=0")]}).gzip
    assert not wanted({"headers": [(b"accept-encoding", b"gzip" + b",gzip" * 100)]}).gzip
    assert wanted({"headers": [(b"if-none-match", b'"a"'), (b"if-none-match", b'"b"')]}).known == b'"a","b"'


def _header(response: Response, name: str) -> str | None:
    return response.headers.get(name)


def test_each_representation_has_a_name_of_its_own() -> None:
    document = Document(LONG)
    before = document.answer(Wanted(True, b""))
    assert _header(before, "content-encoding") is None and before.body == LONG, "it is not compressed yet"
    document.compress()
    plain, gzipped = (document.answer(Wanted(wish, b"")) for wish in (False, True))
    assert plain.body == LONG and gzip.decompress(bytes(gzipped.body)) == LONG
    assert _header(plain, "content-encoding") is None
    assert _header(gzipped, "content-encoding") == "gzip"
    assert _header(plain, "etag") == _header(before, "etag") != _header(gzipped, "etag")
    for response in (plain, gzipped):
        assert _header(response, "content-length") == str(len(response.body))
        assert _header(response, "vary") == "Accept-Encoding"
    other = Document(LONG + b"!")
    other.compress()
    assert not {other.answer(Wanted(wish, b"")).headers["etag"] for wish in (False, True)} & {
        plain.headers["etag"],
        gzipped.headers["etag"],
    }


def test_the_same_document_has_the_same_bytes_and_names_in_every_process() -> None:
    one, two = Document(LONG), Document(bytes(LONG))
    one.compress()
    two.compress()
    assert (one.gzipped, one.digest) == (two.gzipped, two.digest)


@pytest.mark.parametrize(
    "body", [b"", b"x" * (LEAST_COMPRESSED - 1), _NOISE], ids=["empty", "small", "noise"]
)
def test_what_compression_does_not_help_is_sent_as_it_is(body: bytes) -> None:
    document = Document(body)
    document.compress()
    answer = document.answer(Wanted(True, b""))
    assert answer.body == body
    assert _header(answer, "content-encoding") is None
    assert _header(answer, "vary") == "Accept-Encoding", "a longer one might be compressed"
    assert document.size == len(body)


@pytest.mark.parametrize("wish", [False, True])
def test_what_the_client_has_is_not_sent_again(wish: bool) -> None:
    document = Document(LONG)
    document.compress()
    etag = document.answer(Wanted(wish, b"")).headers["etag"].encode()
    other = document.answer(Wanted(not wish, b"")).headers["etag"].encode()
    for known in (etag, b"W/" + etag, b'"a,b" , W/' + etag + b', "c"', etag + b"," + other, b"*", b" * "):
        answer = document.answer(Wanted(wish, known), [(b"age", b"7")])
        assert (answer.status_code, answer.body) == (304, b"")
        assert answer.headers["etag"].encode() == etag
        assert (answer.headers["age"], answer.headers["vary"]) == ("7", "Accept-Encoding")
        assert "content-length" not in answer.headers and "content-type" not in answer.headers
    for known in (
        other,
        b'"x"',
        etag[:-1],
        etag[1:],
        etag.strip(b'"'),
        b"**",
        b'"*"',
        b"W/",
        b'"',
        etag.upper(),
    ):
        assert document.answer(Wanted(wish, known)).status_code == 200, known


@pytest.fixture
def threads() -> Iterator[Threads]:
    found = Threads(2, name="test")
    yield found
    found.close()


class _Compressions:
    """How often something was compressed, and how often on the event loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.on_the_loop = 0
        real = Document.compress

        def compress(document: Document) -> None:
            if document.gzipped is None:
                self.count += 1
                self.on_the_loop += asyncio._get_running_loop() is not None
            real(document)

        monkeypatch.setattr(Document, "compress", compress)


@pytest.fixture
def compressions(monkeypatch: pytest.MonkeyPatch) -> _Compressions:
    return _Compressions(monkeypatch)


def _request(*, gzipped: bool) -> Request:
    headers = [(b"accept-encoding", b"gzip")] if gzipped else []
    return Request({"type": "http", "headers": headers})


def test_a_document_is_compressed_once_in_a_thread_when_the_first_client_asks(
    threads: Threads, compressions: _Compressions
) -> None:
    at = 0.0

    async def play() -> None:
        nonlocal at
        cache = TtlCache(threads, budget=100_000, largest=50_000, clock=lambda: at)
        ask = partial(cache.answer, key="a", render=lambda: Rendered(LONG, 10.0))
        assert (await ask(_request(gzipped=False))).body == LONG
        assert compressions.count == 0
        answers = await asyncio.gather(*(ask(_request(gzipped=True)) for _ in range(8)))
        assert {gzip.decompress(bytes(answer.body)) for answer in answers} == {LONG}
        at = 20.0
        again = await ask(_request(gzipped=True))
        assert again.body == answers[0].body
        assert (compressions.count, compressions.on_the_loop) == (1, 0), "made again with the same bytes"

    asyncio.run(play())


def test_compressed_forms_count_within_the_budget(threads: Threads) -> None:
    async def play() -> None:
        cache = TtlCache(threads, budget=60_000, largest=20_000, clock=lambda: 0.0)
        for number in range(100):
            body = random.Random(number).randbytes(2000).hex().encode()
            key = f"{number:03}"
            request = _request(gzipped=True)
            before = await cache.answer(_request(gzipped=False), key, partial(Rendered, body, 1.0))
            size = cache.size
            after = await cache.answer(request, key, partial(Rendered, body, 1.0))
            assert gzip.decompress(bytes(after.body)) == before.body == body
            if number < 5:
                assert cache.size - size == len(after.body)
            assert cache.size <= 60_000
        assert cache.size > 40_000

    asyncio.run(play())


def test_a_document_too_large_to_be_kept_twice_is_kept_as_it_is(
    threads: Threads, compressions: _Compressions
) -> None:
    body = _NOISE.hex().encode()  # 10,000 bytes, half of them when compressed
    rendered = 0

    def render() -> Rendered:
        nonlocal rendered
        rendered += 1
        return Rendered(body, 10.0)

    async def play() -> None:
        cache = TtlCache(threads, budget=100_000, largest=12_000, clock=lambda: 0.0)
        for _ in range(3):
            await cache.answer(_request(gzipped=True), "a", render)
        answer = await cache.answer(_request(gzipped=True), "a", render)
        assert (answer.body, answer.headers.get("content-encoding")) == (body, None)
        assert (rendered, compressions.count) == (1, 1)

    asyncio.run(play())


def test_what_is_not_kept_is_not_compressed_for_each_who_asks(
    threads: Threads, compressions: _Compressions
) -> None:
    async def play() -> None:
        cache = TtlCache(threads, budget=100_000, largest=2000, clock=lambda: 0.0)
        for _ in range(3):
            answer = await cache.answer(_request(gzipped=True), "a", lambda: Rendered(LONG, 10.0))
            assert (answer.body, answer.headers.get("content-encoding")) == (LONG, None)
        assert (compressions.count, cache.size) == (0, 0)

    asyncio.run(play())
