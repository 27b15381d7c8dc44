import pytest

from asu_builder.client.builds import (
    Ended,
    LogLine,
    LogLines,
    Progress,
    Refusal,
    parse_events,
    progress_of,
)

STREAM = (
    b'event: state\ndata: {"type":"state","state":"pending","stage":null,"position":2,"eta_seconds":7}\n\n'
    b": nothing new\n\n"
    b'event: lines\nid: 2\ndata: {"type":"lines","lines":['
    b'{"seq":2,"at":"2026-03-01T12:00:00Z","stage":"init","text":"h\xc3\xa4"}]}\r\n\r\n'
    b'event: later\ndata: {"type":"later"}\n\n'
    b"data: no JSON\n\n"
    b'event: final\ndata: {"type":"final","status":200,\ndata: "document":{"detail":"done"}}\n\n'
)
EVENTS = [
    Progress("pending", None, 2, 7),
    LogLines((LogLine(2, "2026-03-01T12:00:00Z", "init", "hä"),)),
    Ended(200, {"detail": "done"}),
]


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_events_are_read_in_whatever_pieces_they_come(size: int) -> None:
    chunks = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert list(parse_events(chunks)) == EVENTS


def test_an_event_that_breaks_off_is_none() -> None:
    assert list(parse_events([STREAM[:-1]])) == EVENTS[:2]


def test_a_refusal_in_the_stream_is_seen() -> None:
    text = b'data: {"type":"problem","status":429,"title":"Too many","detail":"Later."}\n\n'
    assert list(parse_events([text])) == [Refusal(429, "Later.")]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            {"detail": "queued", "state": "pending", "queue_position": 3, "eta_seconds": 9},
            Progress("pending", None, 3, 9),
        ),
        (
            {"detail": "started", "state": "building", "imagebuilder_status": "init", "queue_position": 0},
            Progress("building", "init"),
        ),
        # What the predecessor says.
        ({"detail": "queued", "queue_position": 0}, Progress("pending", None, 0)),
        (
            {"detail": "started", "imagebuilder_status": "building_image"},
            Progress("building", "building_image"),
        ),
        ({"detail": "queued", "queue_position": "many"}, Progress("pending")),
    ],
)
def test_a_poll_says_how_far_a_build_is(document: dict[str, object], expected: Progress) -> None:
    assert progress_of(document) == expected
