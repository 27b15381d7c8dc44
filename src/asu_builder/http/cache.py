"""Rendered answers, kept within a fixed number of bytes, for some seconds, or until their sources change.

Documents are compressed when the first client asks for it, in a thread, and kept so too.
"""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.access import Caller
from asu_builder.domain.errors import TooManyRequests
from asu_builder.domain.reading import Sources
from asu_builder.http.answer_cache import LruByteCache
from asu_builder.http.door import Headers
from asu_builder.http.representations import JSON, Document, wanted
from asu_builder.http.threads import SingleFlight, Threads, Waiting, while_client_stays


class Rendered(Struct, frozen=True):
    """A document and for how many seconds it may be given without another look."""

    body: bytes
    seconds: float
    complete: bool = True
    """False where something is not known yet, so that it is soon made again."""
    content_type: bytes = JSON


class CachedDocument(Struct, frozen=True):
    """A document in memory, and until when it is right at least."""

    document: Document
    until: float


AnyCached = TypeVar("AnyCached", bound=CachedDocument)
_OVERHEAD = 1000
"""Of one document, about, with its key and its sources."""


class DocumentCache(Generic[AnyCached]):
    """Documents by key, within `budget` bytes with their gzip forms. `clock` counts seconds."""

    def __init__(self, threads: Threads, *, budget: int, largest: int, clock: Callable[[], float]) -> None:
        self._threads = threads
        self._clock = clock
        self._largest = largest
        self._kept: LruByteCache[str, AnyCached] = LruByteCache(budget=budget, largest=largest)
        self._compressions: SingleFlight[None] = SingleFlight()

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        return self._kept.size

    def _keep(self, key: str, kept: AnyCached) -> None:
        self._kept.put(key, kept, _cost(key, kept.document))

    def _former(self, key: str, document: Document) -> Document:
        """The kept one if it has the same bytes: it may be compressed already."""
        kept = self._kept.get(key)
        return kept.document if kept and kept.document.digest == document.digest else document

    async def _compress(self, key: str, document: Document) -> None:
        """Compresses it once for all who ask. One that is not kept stays as it is: each would do it again."""
        if self._keeper(key, document):
            await self._compressions.ask(document, partial(self._compress_kept, key, document))

    async def _compress_kept(self, key: str, document: Document) -> None:
        await self._threads.run(document.compress)
        if kept := self._keeper(key, document):
            if _cost(key, document) > self._largest:
                document.gzipped = b""  # better than to keep neither
            self._keep(key, kept)

    def _keeper(self, key: str, document: Document) -> AnyCached | None:
        kept = self._kept.get(key)
        return kept if kept and kept.document is document else None


def _cost(key: str, document: Document) -> int:
    return document.size + len(key) + _OVERHEAD


def _make_document(render: Callable[[], Rendered]) -> tuple[Document, Rendered]:
    rendered = render()
    return Document(rendered.body, rendered.content_type), rendered


class TtlCache(DocumentCache[CachedDocument]):
    """Documents that are made again when their time is over."""

    def __init__(self, threads: Threads, *, budget: int, largest: int, clock: Callable[[], float]) -> None:
        super().__init__(threads, budget=budget, largest=largest, clock=clock)
        self._flights: SingleFlight[CachedDocument] = SingleFlight()

    async def answer(
        self, request: Request, key: str, render: Callable[[], Rendered], headers: Headers = ()
    ) -> Response:
        """The document as the request asks for it, made in a thread if it is not fresh.

        Raises what `render` raises.
        """
        asked = wanted(request.scope)
        kept = self._kept.get(key)
        if kept is None or self._clock() >= kept.until:
            kept, _ = await self._flights.ask(key, partial(self._make, key, render))
        if asked.gzip and kept.document.gzipped is None:
            await self._compress(key, kept.document)
        return kept.document.answer(asked, headers)

    async def _make(self, key: str, render: Callable[[], Rendered]) -> CachedDocument:
        document, rendered = await self._threads.run(_make_document, render)
        kept = CachedDocument(self._former(key, document), self._clock() + rendered.seconds)
        self._keep(key, kept)
        return kept


_STALE_SECONDS = 2.0
"""How long a document made of stale ones is given without a look whether upstream has come back."""
_INCOMPLETE_SECONDS = 10.0
"""The same for one made without a feed."""
_LONGEST_AGE = 10**9


class Made(CachedDocument, frozen=True):
    """An answer with what it was made of."""

    sources: Sources
    stale: bool
    """Whether it was made though some of its sources were past their fresh time."""
    left_out: tuple[str, ...] = ()
    """Feeds it was made without."""
    complete: bool = True
    """Whether `render` knew all that it wanted to tell."""

    @property
    def lasts(self) -> bool:
        """Whether it may be kept elsewhere for a while: it lacks nothing and is not stale."""
        return self.complete and not self.left_out and not self.sources.stale_for

    @property
    def still_right(self) -> bool:
        """Whether nothing has changed that it was made of, and nothing has to be asked for again."""
        return self.sources.unchanged and (self.stale or not self.sources.stale_for)

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """How old it is, where it was made of documents of upstream, and what it was made without."""
        lacking = ((b"x-incomplete", ", ".join(self.left_out).encode()),) if self.left_out else ()
        if not self.sources:
            return lacking
        age = (b"age", b"%d" % min(self.sources.age, _LONGEST_AGE))
        stale_for = min(self.sources.stale_for, _LONGEST_AGE)
        stale = ((b"x-stale-seconds", b"%d" % stale_for),) if stale_for >= 1 else ()
        return (age, *stale, *lacking)


class MadeAnswers(DocumentCache[Made]):
    """Documents that are made again when one of upstream changes that they were made of."""

    def __init__(
        self,
        waiting: Waiting,
        *,
        budget: int,
        largest: int,
        clock: Callable[[], float],
        patience: float | None = None,
    ) -> None:
        """`patience` is that of `Waiting.reading`."""
        super().__init__(waiting.threads, budget=budget, largest=largest, clock=clock)
        self._waiting = waiting
        self._patience = patience
        self._shared: SingleFlight[Made] = SingleFlight()

    async def get(
        self, key: str, caller: Caller, render: Callable[[], Rendered], *, gzip: bool = False
    ) -> Made:
        """The answer, made in a thread if it is not right any more. Raises what `render`
        raises, and `ClientGone` when the client goes away.

        With `gzip` its document is compressed too, if that saves anything.
        """
        kept = self._kept.get(key)
        if kept is None or self._clock() >= kept.until or not kept.still_right:
            kept = await self._join(key, caller, render)
        if gzip and kept.document.gzipped is None:
            await self._compress(key, kept.document)
        return kept

    async def _join(self, key: str, caller: Caller, render: Callable[[], Rendered]) -> Made:
        make = partial(self._make, key, caller, render)
        if not self._shared.runs(key):
            return await self._ask(key, make)
        try:
            return await self._ask(key, make)
        except TooManyRequests:
            # It was another's share that is used up.
            return await self._ask((key, caller.name), make)

    async def _ask(self, key: object, make: Callable[[], Coroutine[Any, Any, Made]]) -> Made:
        with while_client_stays():
            kept, _ = await self._shared.ask(key, make)
        return kept

    async def _make(self, key: str, caller: Caller, render: Callable[[], Rendered]) -> Made:
        reading = self._waiting.reading(caller, key, patience=self._patience)
        document, rendered = await self._waiting.run(reading, _make_document, render)
        sources = reading.sources
        stale = sources.stale_for > 0
        seconds = min(rendered.seconds, _STALE_SECONDS) if stale else rendered.seconds
        left_out = tuple(reading.left_out)
        if left_out:
            seconds = min(seconds, _INCOMPLETE_SECONDS)
        until, document = self._clock() + seconds, self._former(key, document)
        kept = Made(document, until, sources, stale, left_out, rendered.complete)
        self._keep(key, kept)
        return kept
