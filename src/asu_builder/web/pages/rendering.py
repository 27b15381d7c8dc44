"""Templates to answers: one look, one set of headers, nothing from elsewhere."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from asu_builder.domain.access import Asker, Right
from asu_builder.web import reasons
from asu_builder.web.pages import words
from asu_builder.web.pages.static_files import StaticFiles

TEMPLATES = Path(__file__).parent.parent / "templates"

HEADERS = {
    # Nothing inline and nothing from elsewhere; 'self' covers the WebSocket of this host.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # The address of a build page is the key to it, so no link tells where it was followed.
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Rendering:
    """Renders pages; templates are compiled once."""

    def __init__(self, static_files: StaticFiles, *, version: str, contact: str) -> None:
        self._static_files = static_files
        self._version = version
        self._contact = contact

    def page(
        self, template: str, request: Request, *, asker: Asker, status: int = 200, **values: object
    ) -> HTMLResponse:
        """A whole page. `asker` decides what the navigation offers; `values` are the template's own."""
        return self.answer(self.text(template, path=request.scope["path"], asker=asker, **values), status)

    def text(self, template: str, *, path: str, asker: Asker, **values: object) -> str:
        """A page, or a part of one, before it is an answer."""
        return self._environment.get_template(template).render(
            path=path,
            signed_in=asker.name if asker.token else "",
            may_read=asker.may(Right.READ),
            may_operate=asker.may(Right.OPERATE),
            **values,
        )

    def answer(self, content: str | bytes, status: int = 200) -> HTMLResponse:
        """The headers of every page around what was rendered."""
        return HTMLResponse(content, status, headers=HEADERS)

    @cached_property
    def _environment(self) -> Environment:
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment.globals.update(
            static=self._static_files.address,
            server_version=self._version,
            contact=words.contact(self._contact.strip()),
        )
        filters: Mapping[str, Any] = {
            "size": words.size,
            "span": words.span,
            "moment": words.moment,
            "number": words.number,
            "sentence": words.sentence,
            "linked": words.linked,
            "reason": reasons.in_words,
            "reason_first": reasons.as_beginning,
        }
        environment.filters.update(filters)
        return environment
