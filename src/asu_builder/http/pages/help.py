"""The documentation as a site, where the installation has it: `make docs` puts it beside the pages."""

import math
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from asu_builder.domain.errors import BuildNotFound
from asu_builder.http.cache import Rendered, TtlCache
from asu_builder.http.texts import gettext

SITE = Path(__file__).parent.parent / "help"
FIRST = "index.html"
_KINDS = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".png": b"image/png",
    ".txt": b"text/plain; charset=utf-8",
}
"""What is served; anything else that Sphinx writes is for itself."""
_HEADERS = (
    (b"cache-control", b"public, max-age=3600"),
    # Its theme writes scripts and styles into its pages, which hold nothing that anybody sent.
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; "
        b"base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class HelpSite:
    """Files below a folder, listed once; none outside of it can be named."""

    def __init__(self, cache: TtlCache, root: Path = SITE) -> None:
        """`cache` keeps what is read."""
        self._cache = cache
        self._files = {
            path.relative_to(root).as_posix(): path
            for path in (sorted(root.rglob("*")) if root.is_dir() else ())
            if path.suffix in _KINDS and path.is_file()
        }

    @property
    def is_there(self) -> bool:
        """Whether this installation has the documentation."""
        return FIRST in self._files

    async def show(self, request: Request) -> Response:
        """A file of the site. Raises `BuildNotFound` for any other."""
        if not self.is_there:
            raise BuildNotFound(gettext("This installation is without the documentation: run make docs."))
        name = request.path_params.get("path", "")
        if not name:
            return RedirectResponse(f"/help/{FIRST}", 303)
        path = self._files.get(name)
        if path is None:
            raise BuildNotFound(gettext("The documentation has no such page."))

        def read() -> Rendered:
            return Rendered(path.read_bytes(), math.inf, content_type=_KINDS[path.suffix])

        return await self._cache.answer(request, name, read, _HEADERS)
