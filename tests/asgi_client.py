"""A client for the ASGI application itself: no network, no HTTP library, every byte visible."""

import asyncio
import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

PEER = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `headers` keeps order and repetition."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The one value of a header; fails when it is there more than once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} is there {len(values)} times: {values}"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class AsgiClient:
    """Sends requests as uvicorn would hand them over; the application's life is a `with` block."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._runner = asyncio.Runner()
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._life: asyncio.Task[None] | None = None

    def __enter__(self) -> "AsgiClient":
        self._runner.run(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._end())
        self._runner.close()

    async def _begin(self) -> None:
        async def live() -> None:
            await self._app({"type": "lifespan", "state": {}}, self._to_app.get, self._from_app.put)

        self._life = asyncio.create_task(live())
        await self._to_app.put({"type": "lifespan.startup"})
        message = await self._from_app.get()
        assert message["type"] == "lifespan.startup.complete", message

    async def _end(self) -> None:
        await self._to_app.put({"type": "lifespan.shutdown"})
        message = await self._from_app.get()
        assert message["type"] == "lifespan.shutdown.complete", message
        assert self._life is not None
        await self._life

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Something else on the event loop of the application."""
        return self._runner.run(work)

    def get(self, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        """A GET."""
        return self.request("GET", target, headers=headers)

    def post(
        self, target: str, document: object, headers: Mapping[str, str] | None = None, *, peer: str = PEER
    ) -> Answer:
        """A POST of a JSON document, or of bytes as they are, from an address."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self._runner.run(self.ask("POST", target, body=body, headers=headers, peer=peer))

    def request(
        self, method: str, target: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request."""
        return self._runner.run(self.ask(method, target, body=body, headers=headers))

    def together(self, *requests: tuple[str, str, bytes]) -> list[Answer]:
        """Requests (method, target, body) that are all on their way at the same time."""

        async def gather() -> list[Answer]:
            return await asyncio.gather(
                *(self.ask(method, target, body=body) for method, target, body in requests)
            )

        return self._runner.run(gather())

    async def ask(
        self,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        peer: str = PEER,
    ) -> Answer:
        """One request, for tests that are on the event loop themselves."""
        exchange = _Exchange(body)
        await self._app(_scope(method, target, headers or {}, peer), exchange.receive, exchange.send)
        return exchange.answer()


class _Exchange:
    def __init__(self, body: bytes) -> None:
        # In pieces, as a network would have it.
        pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)] or [b""]
        self._pieces = iter(
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            for number, piece in enumerate(pieces, start=1)
        )
        self._sent: list[Message] = []

    async def receive(self) -> Message:
        piece = next(self._pieces, None)
        if piece is None:
            # This client stays until it has its answer.
            await asyncio.Event().wait()
            return {"type": "http.disconnect"}
        return piece

    async def send(self, message: Message) -> None:
        self._sent.append(message)

    def answer(self) -> Answer:
        start, *parts = self._sent
        assert start["type"] == "http.response.start", start
        assert parts, "no body was sent"
        assert not parts[-1].get("more_body", False), "the answer was not ended"
        headers = tuple((name.decode(), value.decode("latin-1")) for name, value in start["headers"])
        return Answer(start["status"], headers, b"".join(part.get("body", b"") for part in parts))


def _scope(method: str, target: str, headers: Mapping[str, str], peer: str) -> Scope:
    raw_path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": (peer, 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
