"""The documents of the download server that one answer is made of, and the wait for missing ones."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextvars import ContextVar
from typing import Any, TypeVar

from asu_builder.domain.errors import AsuError, TooManyRequests

FIRST_SECONDS = 10.0
"""How long an answer waits for documents that were never seen: auc gives up after 15."""
AGAIN_SECONDS = 2.0
"""How long it waits to learn whether those past their fresh time have changed."""
BESIDE_SECONDS = 5.0
"""How long it waits for those it can be made without."""
_ROUNDS = 30
"""Documents that lead to others do so a few times; what never comes to rest is given up."""
T = TypeVar("T")


class DocumentState:
    """One document as it is known now; whatever was made of it holds this and sees it change."""

    __slots__ = ("_clock", "checked", "digest", "fresh_for")

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` counts seconds and never leaps."""
        self._clock = clock
        self.digest = b""
        """Of the content; empty when nothing is known of it any more."""
        self.checked = 0.0
        """When upstream has last said so, by the clock."""
        self.fresh_for = 0.0

    @property
    def age(self) -> float:
        """Seconds since upstream has last said so."""
        return self._clock() - self.checked

    @property
    def stale_for(self) -> float:
        """Seconds since its fresh time was over; 0 while it lasts."""
        return max(0.0, self.age - self.fresh_for)


class Sources:
    """The documents that an answer was made of."""

    __slots__ = ("_read",)

    def __init__(self, read: Iterable[tuple[DocumentState, bytes]] = ()) -> None:
        """Each with the digest that it had when it was read."""
        self._read = tuple(read)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._read)

    @property
    def unchanged(self) -> bool:
        """Whether all of them still say the same."""
        return all(state.digest == digest for state, digest in self._read)

    @property
    def age(self) -> float:
        """Seconds since upstream has last said what the oldest says."""
        return max((state.age for state, _ in self._read), default=0.0)

    @property
    def stale_for(self) -> float:
        """Seconds since the first of them was past its fresh time."""
        return max((state.stale_for for state, _ in self._read), default=0.0)


class Reading:
    """The documents of one answer. For one thread at a time."""

    def __init__(
        self,
        caller: str = "",
        *,
        admit: Callable[[], TooManyRequests | None] = lambda: None,
        patience: float = FIRST_SECONDS,
    ) -> None:
        """`caller` is for whom documents are fetched, so that one caller cannot take every place.

        `admit` is asked once, before the first document is fetched for this answer. `patience` is how
        many seconds it waits at most.
        """
        self.caller = caller
        self._admit = admit
        self._asked = False
        self._refusal: TooManyRequests | None = None
        began = time.monotonic()
        self.until = began + patience
        self.beside_until = began + min(BESIDE_SECONDS, patience)
        self.again_until = began + min(AGAIN_SECONDS, patience)
        self._rounds = 0
        self._read: dict[str, tuple[DocumentState, bytes]] = {}
        self._first: list[Future[Any]] = []
        self._beside: list[Future[Any]] = []
        self._again: list[Future[Any]] = []
        self.left_out: dict[str, None] = {}
        """Feeds whose index could not be read, so that the answer was made without them."""

    def begin_round(self) -> None:
        """Before the code is run once more."""
        self._rounds += 1
        self._read, self.left_out = {}, {}
        self._first, self._beside, self._again = [], [], []

    def refusal(self) -> TooManyRequests | None:
        """Why no document may be fetched for this answer; None when it may."""
        if not self._asked:
            self._asked = True
            self._refusal = self._admit()
        return self._refusal

    def give_up(self) -> None:
        """It waits no longer: what is not here is lacking for good."""
        self.until = self.beside_until = self.again_until = 0.0

    def note(self, address: str, state: DocumentState) -> None:
        """This document was read."""
        self._read[address] = (state, state.digest)

    def await_first(self, fetch: "Future[Any]") -> None:
        """The answer lacks what this brings."""
        self._first.append(fetch)

    def await_beside(self, fetch: "Future[Any]") -> None:
        """The answer would be better with what this brings."""
        self._beside.append(fetch)

    def await_again(self, fetch: "Future[Any]") -> None:
        """The answer has an old copy of what this brings."""
        self._again.append(fetch)

    @property
    def over(self) -> bool:
        """Whether it has waited long enough for what was never seen."""
        return self._rounds > _ROUNDS or time.monotonic() >= self.until

    @property
    def beside_over(self) -> bool:
        """Whether it has waited long enough for what it can be made without."""
        return time.monotonic() >= self.beside_until

    @property
    def again_over(self) -> bool:
        """Whether it has waited long enough for what is old."""
        return self._rounds > _ROUNDS or time.monotonic() >= self.again_until

    @property
    def lacks(self) -> bool:
        """Whether the code has to be run once more, when `waits` are over."""
        return bool(self._first or self._beside or self._again)

    @property
    def waits(self) -> Iterator[tuple[list["Future[Any]"], float]]:
        """What to wait for, one after the other, each until when at most (`time.monotonic`)."""
        yield self._again, self.again_until
        yield self._beside, self.beside_until
        yield self._first, self.until

    @property
    def sources(self) -> Sources:
        """What the last round has read."""
        return Sources(self._read.values())

    def active(self) -> "Active":
        """While this lasts, what is read in this thread belongs to it."""
        return Active(self)


class Active:
    """What `Reading.active` gives; a generator in its place would cost as much as reading a document."""

    __slots__ = ("_reading", "_token")

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __enter__(self) -> None:
        self._token = _CURRENT.set(self._reading)

    def __exit__(self, *_: object) -> None:
        _CURRENT.reset(self._token)


_CURRENT: ContextVar[Reading | None] = ContextVar("reading", default=None)


def current_reading() -> Reading | None:
    """The reading that is active in this thread; None where each document is waited for."""
    return _CURRENT.get()


def read_whole(call: Callable[[], T], reading: Reading) -> T:
    """What `call` returns when no document is lacking; waits in this thread."""
    while True:
        reading.begin_round()
        result: T | None = None
        error: AsuError | None = None
        with reading.active():
            try:
                result = call()
            except AsuError as raised:
                error = raised
        if not reading.lacks:
            break
        for fetches, until in reading.waits:
            wait(fetches, timeout=max(0.0, until - time.monotonic()))
    if error is not None:
        raise error
    return result  # type: ignore[return-value] # None only where `call` returned it
