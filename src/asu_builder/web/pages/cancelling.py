"""The secret to cancel a build by, kept by the browser of who asked first, for that build's page alone."""

from starlette.requests import Request
from starlette.responses import Response

from asu_builder.web.pages.session import cookie_of, is_secure

COOKIE = "asu_cancel"
_SECONDS = 2 * 86400
"""No build waits for longer."""


def keep_cancel_token(response: Response, request: Request, *, address: str, token: str) -> None:
    """Keeps it where no script and no other page reaches it."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=_SECONDS,
        path=address,
        httponly=True,
        samesite="strict",
        secure=is_secure(request),
    )


def cancel_token_of(request: Request) -> str:
    """The secret that came with a request for a build's page; "" for everybody else."""
    return cookie_of(request, COOKIE)
