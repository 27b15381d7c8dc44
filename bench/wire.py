"""Documents on the wire: their bytes as they are and as gzip, and what sending one from memory costs."""

import contextlib
import gzip
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from asu_sample.server import DownloadServer
from bench import load
from bench.figures import Figure, Yardstick, alternate
from bench.process import Server, settle
from bench.sample import download_server
from bench.scenarios import cost, seeded, service
from bench.yardsticks import answer_to, same_bytes

SHARED = Path(__file__).resolve().parents[2] / "shared" / "upstream"
"""Metadata of real size beside the checkout."""
_OVERVIEW = "/json/v1/overview.json"
_DOCUMENTS = (
    ("overview", _OVERVIEW, 0.25),
    ("index of an architecture", "/json/v1/releases/25.12.0/packages/x86_64-index.json", 0.42),
    ("OpenAPI", "/openapi.json", 0.15),
)
"""Name, address, and how large the gzip form may be in comparison."""
_GZIP = b"Accept-Encoding: gzip, deflate, br\r\n"
_TIMES = 4.0
"""Of one that is sent as it is: it passes Starlette's router, which alone costs as much as two hellos."""
_COMPARED = 1.1
"""Neither gzip nor a 304 may cost more than that beside it; a little for the noise."""


def wiring(*, rounds: int, count: int) -> Iterator[Figure]:
    """Bytes of real documents; then CPU of a kept one: sent as it is, as gzip, and not at all."""
    if SHARED.is_dir():
        yield from _sizes()
    else:
        print(f"bytes of real documents left out: {SHARED} is not there")
    with seeded() as folder, download_server() as upstream, contextlib.ExitStack() as opened:
        server = opened.enter_context(service(folder, workers=0, upstream=upstream))
        plain = load.get(_OVERVIEW)
        gzipped = _asking(plain, _GZIP)
        known = _asking(gzipped, b"If-None-Match: %b\r\n" % _etag(answer_to(server.port, gzipped)))
        settle(server)
        measures = {}
        kinds = {"as it is": (plain, 200), "as gzip": (gzipped, 200), "304": (known, 304)}
        for name, (request, status) in kinds.items():
            same = opened.enter_context(same_bytes(server, request))
            measures[name] = partial(_spend, server, request, count, status)
            measures[f"raw, {name}"] = partial(_spend, same, request, count, status)
        spent = alternate(rounds, measures)
    for name in kinds:
        budget = _TIMES if name == "as it is" else None
        same_answer = Yardstick("raw ASGI, same bytes", spent[f"raw, {name}"])
        yield Figure(f"overview from memory, {name}, CPU", "µs", spent[name], budget, same_answer)
    plainly = Yardstick("as it is", spent["as it is"])
    for name in ("as gzip", "304"):
        yield Figure(f"overview from memory, {name} beside as it is", "µs", spent[name], _COMPARED, plainly)


def _sizes() -> Iterator[Figure]:
    with seeded() as folder, DownloadServer(SHARED) as upstream:
        with service(folder, workers=0, upstream=upstream.url) as server:
            for name, path, budget in _DOCUMENTS:
                request = load.get(path)
                plain = answer_to(server.port, request).partition(b"\r\n\r\n")[2]
                gzipped = answer_to(server.port, _asking(request, _GZIP)).partition(b"\r\n\r\n")[2]
                if gzip.decompress(gzipped) != plain:
                    raise SystemExit(f"{path} is another document as gzip")
                yield Figure(
                    f"{name}, as gzip", "B", [len(gzipped)], budget, Yardstick("as it is", [len(plain)])
                )


def _asking(request: bytes, header: bytes) -> bytes:
    return request[: -len(b"\r\n")] + header + b"\r\n"


def _etag(answer: bytes) -> bytes:
    head = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return next(line for line in head if line.lower().startswith(b"etag:")).partition(b":")[2].strip()


def _spend(server: Server, request: bytes, count: int, status: int) -> float:
    return cost(server, [request], count=count, status=status)[0]
