"""The frames of an exec's output, however the transport cuts them, and calls that can be given up."""

import socket
import struct
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from threading import Thread, Timer
from time import sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asu_builder.domain.errors import EngineUnavailable
from asu_builder.engines.podman.streams import ConnectionSentinel, Demultiplexer, Stream, libpod_url

CALL = timedelta(seconds=5)


def frame(stream: int, content: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(content)) + content


def demultiplexed(chunks: list[bytes]) -> tuple[bytes, bytes, bool]:
    out, err = bytearray(), bytearray()
    frames = Demultiplexer({1: out.extend, 2: err.extend})
    for chunk in chunks:
        frames.feed(chunk)
    return bytes(out), bytes(err), frames.is_between_frames


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.binary(max_size=40)), max_size=8),
    st.lists(st.integers(min_value=0, max_value=200), max_size=12),
)
def test_frames_come_apart_however_they_are_cut(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    whole = b"".join(frame(stream, content) for stream, content in frames)
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    chunks = [whole[begin:end] for begin, end in pairwise(places)]
    expected = [b"".join(content for stream, content in frames if stream == wanted) for wanted in (1, 2)]
    assert demultiplexed(chunks) == (*expected, True)


@pytest.mark.parametrize("missing", [1, 3, 5, 8, 10])
def test_a_stream_that_breaks_off_inside_a_frame_is_noticed(missing: int) -> None:
    whole = frame(1, b"12345")
    assert demultiplexed([whole[:-missing]])[2] is False


def test_queries_are_quoted() -> None:
    assert libpod_url("/v5/libpod/", "images/pull", reference="a/b:c&d") == (
        "/v5/libpod/images/pull?reference=a%2Fb%3Ac%26d"
    )


# --- calls -------------------------------------------------------------------------------------------


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A service that accepts and then leaves everything to the test."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        yield listening


def test_a_silent_call_ends_when_it_is_aborted(listener: socket.socket, tmp_path: Path) -> None:
    with Stream(tmp_path / "s", "POST", "/x", call=CALL, headers_within=None) as stream:
        timer = Timer(0.2, stream.abort)
        timer.start()
        with pytest.raises(EngineUnavailable):
            stream.begin()
        timer.join()


def test_a_call_aborted_before_it_began_does_not_begin(listener: socket.socket, tmp_path: Path) -> None:
    with Stream(tmp_path / "s", "POST", "/x", call=CALL, headers_within=None) as stream:
        stream.abort()
        with pytest.raises(EngineUnavailable):
            stream.begin()


def test_an_answer_must_begin_in_time(listener: socket.socket, tmp_path: Path) -> None:
    with Stream(tmp_path / "s", "POST", "/x", call=CALL, headers_within=timedelta(seconds=0.1)) as stream:
        with pytest.raises(EngineUnavailable, match="did not answer in time"):
            stream.begin()


def test_an_answer_is_read_to_its_end_and_a_refusal_is_understood(
    listener: socket.socket, tmp_path: Path
) -> None:
    answer = b'HTTP/1.1 500 Oh\r\nContent-Length: 37\r\n\r\n{"message": "that is not possible!!"}\n'
    with Stream(tmp_path / "s", "GET", "/x", call=CALL, headers_within=CALL) as stream:
        timer = Timer(0.05, _answer, args=(listener, answer))
        timer.start()
        assert stream.begin() == 500
        assert stream.refusal() == "that is not possible!!"
        timer.join()


def test_a_refusal_that_does_not_come_is_not_waited_for(listener: socket.socket, tmp_path: Path) -> None:
    answer = b"HTTP/1.1 500 Oh\r\nContent-Length: 37\r\n\r\n"
    soon = timedelta(seconds=0.2)
    with Stream(tmp_path / "s", "GET", "/x", call=soon, headers_within=CALL) as stream:
        answering = Thread(target=_answer, args=(listener, answer), kwargs={"seconds": 1.0})
        answering.start()
        assert stream.begin() == 500
        with pytest.raises(EngineUnavailable, match="did not answer in time"):
            stream.refusal()
        answering.join()


@pytest.mark.parametrize(("answer", "whole"), [(b"3\r\nabc\r\n0\r\n\r\n", True), (b"3\r\nabc\r\n", False)])
def test_an_answer_that_was_cut_off_is_told_from_a_whole_one(
    listener: socket.socket, tmp_path: Path, answer: bytes, whole: bool
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Stream(tmp_path / "s", "GET", "/x", call=CALL, headers_within=CALL) as stream:
        answering = Thread(target=_answer, args=(listener, head + answer))
        answering.start()
        assert stream.begin() == 200
        if whole:
            assert stream.read(100) == b"abc"
        else:
            with pytest.raises(EngineUnavailable):
                stream.read(100)
        assert stream.is_complete == whole
        answering.join()


def test_a_queue_of_callers_that_is_full_is_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as waiting:
        listening.bind(str(tmp_path / "full"))
        listening.listen(0)
        waiting.connect(str(tmp_path / "full"))
        with Stream(tmp_path / "full", "GET", "/x", call=timedelta(0.001), headers_within=CALL) as stream:
            with pytest.raises(EngineUnavailable, match="did not answer in time"):
                stream.begin()


@pytest.mark.parametrize(
    ("answer", "lost"), [(None, False), (b"", True), (b"HTTP/1.1 400 Bad Request\r\n\r\n", False)]
)
def test_a_witness_loses_sight_only_of_a_service_that_goes_without_a_word(
    listener: socket.socket, tmp_path: Path, answer: bytes | None, lost: bool
) -> None:
    with ConnectionSentinel(tmp_path / "s", "/wait", call=CALL) as witness:
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100).startswith(b"POST /wait HTTP/1.1\r\n")
            if answer:
                connection.sendall(answer)
            if answer is not None:
                connection.shutdown(socket.SHUT_RDWR)
            assert [witness.has_lost_sight() for _ in range(100)] == [lost] * 100


def _answer(listener: socket.socket, answer: bytes, *, seconds: float = 0.0) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)
        sleep(seconds)
