"""What stands behind the question mark of an address."""

from collections.abc import Sequence

from starlette.requests import Request

from asu_builder.domain.errors import RequestRejected


def number(request: Request, name: str, *, otherwise: int, highest: int, lowest: int = 1) -> int:
    """A number between `lowest` and `highest`, whichever is nearer when it is outside.

    Raises `RequestRejected` for what is no number.
    """
    text = request.query_params.get(name, "")
    if not text:
        return otherwise
    if not (text.isascii() and text.isdigit()):
        raise RequestRejected(f"{name}: expected a number from {lowest} to {highest}")
    return max(lowest, min(int(text[:20]), highest))


def one_of(request: Request, name: str, choices: Sequence[int], *, otherwise: int) -> int:
    """One of some numbers. Raises `RequestRejected` for any other."""
    text = request.query_params.get(name, "") or str(otherwise)
    if text not in map(str, choices):
        raise RequestRejected(f"{name}: expected one of {', '.join(map(str, choices))}")
    return int(text)
