"""A bucket of object storage: the only module that speaks to `obstore`, each call with an end in time.

Whatever else the bucket does than what it is asked for is `StoreUnavailable`, with a sentence for
the operator.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from asu_builder.domain.errors import StoreUnavailable
from asu_builder.loading import Late
from asu_builder.settings import Settings

if TYPE_CHECKING:
    from types import ModuleType

    from obstore.store import ObjectStore

SIGNED_FOR = timedelta(hours=1)
"""How long a signed address leads to its file."""
_WHOLE_BELOW = 8 << 20
"""Bytes of a file that is written with one request, and only if there is none. Larger ones come in parts of
this size, at which obstore cannot say so; the whole one would be read into memory."""
_PARTS_AT_ONCE = 2
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,64})</Code>")
_MOST_READ = 4000
"""Characters of what the bucket said."""
_REFUSED = (
    *("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
    *("AuthenticationFailed", "AuthorizationFailure", "AuthorizationHeaderMalformed"),
)


@Late
def _library() -> "ModuleType":
    import obstore
    import obstore.exceptions

    return obstore


class NoBucket(StoreUnavailable):
    """The whole bucket is not there."""


class Found(Struct, frozen=True):
    """One object of a listing."""

    key: str
    size: int
    modified_at: datetime


class Timeouts(Struct, frozen=True):
    """How long one request may take, with its body."""

    quick: timedelta = timedelta(seconds=4)
    """For what others wait for: whether something is there."""
    read: timedelta = timedelta(seconds=10)
    """For a piece of a file, or a thousand names."""
    write: timedelta = timedelta(seconds=60)
    """For 8 MiB over a slow line."""


class Bucket:
    """Below one prefix of one bucket; keys are relative to it. The library is loaded by the first call."""

    def __init__(self, settings: Settings, timeouts: Timeouts | None = None) -> None:
        self.url = settings.store_url
        self._options = dict(settings.store_options)
        timeouts = timeouts or Timeouts()
        # A call that fails is made once more, so it ends within about twice its time.
        self._quick = Late(partial(self._open, timeouts.quick, timeouts.quick))
        self._read = Late(partial(self._open, timeouts.read, timeouts.read))
        # A build is not lost to an outage of a minute.
        self._write = Late(partial(self._open, timeouts.write, 2 * timeouts.write, retries=8))

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key. A missing bucket may look like a missing object."""
        with self._errors():
            try:
                _library().head(self._quick(), key)
            except FileNotFoundError:
                return False
        return True

    def require(self) -> None:
        """Passes where the bucket is there and may be listed. Raises `NoBucket` too."""
        with self._errors():
            next(iter(self._quick().list(chunk_size=1)), None)

    def list(self, folder: str = "") -> Iterator[Found]:
        """Every object below a folder, a thousand with each request.

        Folders are not listed: some servers keep empty ones.
        """
        with self._errors():
            for chunk in self._read().list(f"{folder}/" if folder else None):
                for entry in chunk:
                    yield Found(entry["path"], entry["size"], entry["last_modified"])

    def put(self, key: str, text: bytes = b"") -> None:
        """Writes a small object, also over another one."""
        with self._errors():
            _library().put(self._quick(), key, text)

    def upload(self, key: str, path: Path, *, attributes: Mapping[str, str]) -> None:
        """Writes a file under a key that no other process writes to."""
        put = partial(_library().put, self._write(), key, attributes=dict(attributes))
        if path.stat().st_size > _WHOLE_BELOW:
            with self._errors():
                put(path, chunk_size=_WHOLE_BELOW, max_concurrency=_PARTS_AT_ONCE)
            return
        body = path.read_bytes()
        # One that is there came with a request whose answer was lost.
        with self._errors(), suppress(_library().exceptions.AlreadyExistsError):
            put(body, mode="create")

    def download(self, found: Found, path: Path, *, require_time: Callable[[], None]) -> bool:
        """Writes an object of a listing to a file; False where it is not there any more.

        `require_time` is called between pieces of 8 MiB.
        """
        with path.open("wb") as file:
            for start in range(0, found.size, _WHOLE_BELOW):
                require_time()
                end = min(start + _WHOLE_BELOW, found.size)
                with self._errors():
                    try:
                        piece = _library().get_range(self._write(), found.key, start=start, end=end)
                    except FileNotFoundError:
                        return False
                file.write(memoryview(piece))
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects, and is done too if there are none."""
        if several := list(keys):
            with self._errors():
                _library().delete(self._read(), several)

    async def read(self, key: str, start: int, count: int) -> tuple[memoryview, int] | None:
        """So many bytes from `start` on, and how many the whole object has; None for a missing one.

        For the event loop, after `load`.
        """
        options = {"range": (start, start + count)}
        with self._errors():
            try:
                found = await _library().get_async(self._read(), key, options=options)
            except FileNotFoundError:
                return None
            return memoryview(await found.bytes_async()), found.meta["size"]

    @property
    def is_loaded(self) -> bool:
        """Whether it was asked for something already."""
        return self._quick.value is not None

    def load(self) -> None:
        """Loads the library, which takes some ten milliseconds; to be called in a thread."""
        self._read()

    def sign(self, key: str) -> str:
        """An address that leads to the object for `SIGNED_FOR`; nothing is asked for it."""
        with self._errors():
            return str(_library().sign(self._read(), "GET", key, SIGNED_FOR))

    def _open(self, timeout: timedelta, again_for: timedelta, *, retries: int = 1) -> "ObjectStore":
        from obstore.store import from_url

        options: dict[str, Any] = dict(self._options)
        options["client_options"] = {
            "connect_timeout": timedelta(seconds=3),
            "timeout": timeout,
        }
        if options.get("endpoint", "").startswith("http://"):
            options["client_options"]["allow_http"] = True
        options["retry_config"] = {
            "max_retries": retries,
            "retry_timeout": again_for,
            "backoff": {
                "init_backoff": timedelta(milliseconds=200),
                "max_backoff": timedelta(seconds=15),
                "base": 2,
            },
        }
        with self._errors():
            return from_url(self.url, **options)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Says in a sentence what the bucket, or the way to it, has done."""
        base = _library().exceptions.BaseError
        try:
            yield
        except (base, OSError, ValueError) as error:
            raise failure_of(self.url, error) from error


def failure_of(url: str, error: BaseException) -> StoreUnavailable:
    """What it means, in a sentence for an operator.

    Of what the bucket said only status and code, which are no secrets.
    """
    said = str(error)[:_MOST_READ]
    status = found[1] if (found := _STATUS.search(said)) else ""
    code = found[1] if (found := _CODE.search(said)) else ""
    if code in ("NoSuchBucket", "ContainerNotFound"):
        return NoBucket(
            f"There is no bucket {url}. Make it, or correct store_url; nothing makes it by itself."
        )
    return StoreUnavailable(_explain(url, error, said, status, code))


def _explain(url: str, error: BaseException, said: str, status: str, code: str) -> str:
    if code == "RequestTimeTooSkewed":
        return f"The object storage of {url} says that the clock of this machine is wrong."
    if status in ("401", "403") or code in _REFUSED or isinstance(error, PermissionError):
        return (
            f"The object storage refuses the key for {url}{f' ({code})' if code else ''}. Correct the key in "
            "store_options or in the environment; it must be allowed to list, read, write and delete."
        )
    if status.startswith("3") or code == "PermanentRedirect":
        return f"The bucket {url} is in another region or at another endpoint; correct store_options."
    nothing = (
        f"Where {url} should be, nothing answers as object storage does; correct store_url, or endpoint in "
        "store_options."
    )
    if status == "404":
        return nothing
    if status:
        return f"The object storage of {url} answers {status}{f' ({code})' if code else ''}."
    kind = type(error).__name__
    if kind in ("UnknownConfigurationKeyError", "ValueError"):
        return f"store_options does not fit to {url}; the documentation lists its names."
    if "HTTP error" in said or isinstance(error, OSError):
        return f"The object storage of {url} does not answer, or breaks off its answer."
    return nothing
