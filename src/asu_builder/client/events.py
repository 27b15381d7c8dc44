"""What is seen of a build while it goes on, as values; the server's events have the same form."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct


class Progress(Struct, frozen=True, tag_field="type", tag="state", omit_defaults=True):
    """How far it is. `position` counts the jobs ahead while it waits, `eta_seconds` what is left."""

    state: str
    stage: str | None = None
    position: int | None = None
    eta_seconds: int | None = None


class LogLine(Struct, frozen=True):
    """One line that the build has printed; `seq` numbers them from 1."""

    seq: int
    at: str
    stage: str
    text: str


class LogLines(Struct, frozen=True, tag_field="type", tag="lines"):
    """What was printed since the last event."""

    lines: tuple[LogLine, ...]


class Ended(Struct, frozen=True, tag_field="type", tag="final"):
    """The end: the HTTP status and the document that a poll answers from now on."""

    status: int
    document: dict[str, Any]


class Refusal(Struct, frozen=True, tag_field="type", tag="problem"):
    """Why nothing follows, though the build has not ended."""

    status: int
    detail: str = ""


Event = Progress | LogLines | Ended

_DECODER: msgspec.json.Decoder[Event | Refusal] = msgspec.json.Decoder(Event | Refusal)


def parse_events(chunks: Iterable[bytes]) -> Iterator[Event | Refusal]:
    """The events of a stream of server-sent events; what is not known, or no JSON, is passed over."""
    for text in _blocks(chunks):
        try:
            yield _DECODER.decode(text)
        except msgspec.MsgspecError:
            continue


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The `data` of each event (WHATWG HTML, §9.2): its lines joined, comments left out."""
    rest = b""
    for chunk in chunks:
        *blocks, rest = (rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in filter(None, blocks):
            data = [
                line.removeprefix(b"data:").removeprefix(b" ")
                for line in block.split(b"\n")
                if line.startswith(b"data:")
            ]
            if data:
                yield b"\n".join(data)


def progress_of(document: dict[str, Any]) -> Progress:
    """What a poll's 202 says. Old servers say no `state`, but their words for it."""
    waits = document.get("detail") == "queued"
    state = document.get("state") or ("pending" if waits else "building")
    stage = document.get("imagebuilder_status")
    return Progress(
        str(state),
        stage=stage if isinstance(stage, str) and not waits else None,
        position=_count(document.get("queue_position")) if waits else None,
        eta_seconds=_count(document.get("eta_seconds")),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
