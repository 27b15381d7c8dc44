"""Callers, what a token lets its holder do, and the rates that limit the others."""

import re
from enum import StrEnum

from msgspec import Struct

from asu_builder.domain.errors import NotAllowed, NotAuthenticated
from asu_builder.domain.job import Priority


class Right(StrEnum):
    """What a token may be given beside asking for builds without a limit."""

    READ = "read"
    """See every job, its request and its output, and the settings."""
    OPERATE = "operate"
    """Cancel, requeue and purge jobs, pause and resume the workers. Includes READ."""


class Token(Struct, frozen=True):
    """A known token. Its secret is never kept: `digest` is the SHA-256 of it, in hexadecimal."""

    name: str
    digest: str
    rights: frozenset[Right] = frozenset()
    priority: Priority = Priority.NORMAL


def digest_of(secret: str) -> str:
    """What is kept of a secret: its SHA-256, in hexadecimal."""
    import hashlib  # with OpenSSL, which a start does without

    return hashlib.sha256(secret.encode()).hexdigest()


def new_token() -> tuple[str, str]:
    """A new secret of 256 random bits, and its digest."""
    import secrets  # only where one is made

    secret = secrets.token_urlsafe(32)
    return secret, digest_of(secret)


class Caller(Struct, frozen=True):
    """The sender of a request: the holder of a token, or only an address."""

    name: str
    """The token's name, else the address; IPv6 addresses by their /64, which one household shares."""
    token: Token | None = None
    many: bool = False
    """Whether others stand behind it whom nothing tells apart: a proxy that does not say for whom."""

    @property
    def priority(self) -> Priority:
        """The class of the jobs that this caller submits."""
        return Priority.NORMAL if self.token is None else self.token.priority

    def may(self, right: Right) -> bool:
        """Whether a token was sent that gives this right."""
        rights = self.token.rights if self.token else frozenset()
        return right in rights or Right.OPERATE in rights

    def require(self, right: Right) -> None:
        """Raises `NotAuthenticated` or `NotAllowed`, each with what to do."""
        if self.token is None:
            raise NotAuthenticated(
                "This needs a token of the operator: send it as `Authorization: Bearer TOKEN`."
            )
        if not self.may(right):
            raise NotAllowed(f"The token {self.token.name} lacks the right {right}.")


_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(rf"([0-9]{{1,6}})\s*/\s*(?:([1-9][0-9]{{0,4}})\s+)?({'|'.join(_SECONDS)})")


class Rate(Struct, frozen=True):
    """So many in so many units of time."""

    amount: int
    units: int
    unit: str

    @property
    def seconds(self) -> int:
        """The length of the window."""
        return self.units * _SECONDS[self.unit]

    def __str__(self) -> str:
        """As a sentence says it: `20 per minute`, `20 per 10 seconds`."""
        return f"{self.amount} per {self.unit if self.units == 1 else f'{self.units} {self.unit}s'}"


def parse_rates(text: str) -> tuple[Rate, ...]:
    """The rates that a setting names, each once; none for an empty text. Raises `ValueError`."""
    if not text.strip():
        return ()
    found = [(part, _RATE.fullmatch(part.strip())) for part in text.split(";")]
    if wrong := [part for part, match in found if not match]:
        raise ValueError(f"This is no rate: {wrong[0][:80]!r}")
    return tuple(
        dict.fromkeys(Rate(int(match[1]), int(match[2] or 1), match[3]) for _, match in found if match)
    )
