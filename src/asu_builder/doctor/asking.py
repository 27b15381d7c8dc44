"""Short questions over HTTP, each of which ends within seconds."""

from collections.abc import Mapping

import urllib3
from msgspec import Struct
from urllib3.exceptions import HTTPError

from asu_builder.adapters.outgoing import open_pool

PATIENCE_SECONDS = 4.0
"""For a connection, and then for each part of an answer; the check's own deadline bounds the whole."""

_MOST = 8 << 20


class Heard(Struct, frozen=True):
    """An answer: `headers` by their lower-case names, one entry for each time a header came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    def one(self, name: str) -> str:
        """Its values as one, as HTTP allows; empty where there is none."""
        return ", ".join(self.all(name))


class Unheard(Exception):
    """No answer, or one that is none; the text is the end of a sentence, without its full stop."""


def ask(method: str, url: str, *, headers: Mapping[str, str] | None = None, directly: bool = False) -> Heard:
    """One question, asked once. Raises `Unheard`.

    It goes through the proxy that the environment names, like all that the service and Podman ask;
    `directly` is for this very service.
    """
    timeout = urllib3.Timeout(connect=PATIENCE_SECONDS, read=PATIENCE_SECONDS)
    try:
        with urllib3.PoolManager() if directly else open_pool(url) as pool:
            answer = pool.request(
                method,
                url,
                headers=dict(headers or {}),
                timeout=timeout,
                retries=urllib3.Retry(total=0, redirect=3),
                preload_content=False,
            )
            body = answer.read(_MOST)
            found = tuple((name.lower(), value) for name, value in answer.headers.iteritems())
            answer.release_conn()
    except (HTTPError, OSError) as error:
        raise Unheard(reason_of(error)) from error
    return Heard(answer.status, found, body)


def fetch(url: str) -> Heard:
    """A document that must be there. Raises `Unheard`."""
    heard = ask("GET", url)
    if heard.status != 200:
        raise Unheard(f"{url} is answered {heard.status}")
    return heard


def reason_of(error: BaseException) -> str:
    """What the error at the bottom of the chain says."""
    chain = [error]
    while (below := chain[-1].__cause__ or chain[-1].__context__ or getattr(chain[-1], "reason", None)) and (
        isinstance(below, BaseException) and below not in chain
    ):
        chain.append(below)
    if any(isinstance(link, TimeoutError) for link in chain):
        return f"no answer within {PATIENCE_SECONDS:.0f} seconds"
    bottom = next((link for link in reversed(chain) if isinstance(link, OSError)), chain[-1])
    text = getattr(bottom, "strerror", None) or str(bottom)
    return " ".join(text.split())[:200].rstrip(".")
