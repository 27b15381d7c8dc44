"""How a client ends that does not end well, and how it reads what it was sent."""

from collections.abc import Mapping
from typing import Any, TypeVar

Kind = TypeVar("Kind")


class ClientCrash(Exception):
    """The real client would die of an exception, freeze, or wait for ever without a word."""


class ClientError(Exception):
    """The client stops and tells its user; `shown` is all that he sees."""

    def __init__(self, shown: str, status: int = 0) -> None:
        super().__init__(shown)
        self.shown = shown
        self.status = status


def need(document: object, key: str, kind: type[Kind]) -> Kind:
    """A field that the client reads without a look whether it is there and of which type."""
    if not isinstance(document, Mapping):
        raise ClientCrash(f"{key} of something that is no object: {document!r}")
    if key not in document:
        raise ClientCrash(f"{key} is missing, there are only {', '.join(map(str, document))}")
    value = document[key]
    if not is_a(value, kind):
        raise ClientCrash(f"{key} is {value!r} and no {kind.__name__}")
    return value  # type: ignore[no-any-return]


def perhaps(document: Mapping[str, Any], key: str, kind: type[Kind]) -> Kind | None:
    """A field that may be absent, but not of another type."""
    return need(document, key, kind) if document.get(key) is not None else None


def is_a(value: object, kind: type) -> bool:
    """Whether a JSON value is of a type; true is no number here."""
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
