"""Renders templates and serves static files, with one set of headers."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from asu_builder.domain.access import Caller, Right
from asu_builder.domain.errors import BuildNotFound
from asu_builder.http.cache import Rendered, TtlCache
from asu_builder.http.pages import words
from asu_builder.http.representations import Document, wanted
from asu_builder.http.texts import LANGUAGES, Language, current, gettext, ngettext, npgettext, pgettext

ROOT = Path(__file__).parent.parent / "static"
_KINDS = {
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_FOREVER = (
    (b"cache-control", b"public, max-age=31536000, immutable"),
    (b"x-content-type-options", b"nosniff"),
)


_FOR_A_DAY = ((b"cache-control", b"public, max-age=86400"), (b"x-content-type-options", b"nosniff"))


class StaticFiles:
    """Every file below `static/`, read and compressed once.

    All share one digest in their address: modules import each other by relative names, and a browser
    never mixes two versions.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._files = {
            path.name: Document(path.read_bytes(), _KINDS[path.suffix])
            for path in sorted(root.iterdir())
            if path.suffix in _KINDS
        }
        scripts = [file.body.decode() for name, file in self._files.items() if name.endswith(".js")]
        for language in LANGUAGES.values():
            script = texts_of_scripts(language, scripts).encode()
            self._files[f"texts.{language.code}.js"] = Document(script, _KINDS[".js"])
        digest = hashlib.sha256()
        for name, file in self._files.items():
            file.compress()
            digest.update(name.encode() + b"\0" + file.body)
        self._digest = digest.hexdigest()[:12]

    def address(self, name: str) -> str:
        """The address of a file. Raises `KeyError` for an unknown one."""
        _ = self._files[name]
        return f"/static/{self._digest}/{name}"

    async def serve_icon(self, request: Request) -> Response:
        """The icon at the address where browsers look for it beside documents that name none."""
        return self._files["icon.svg"].answer(wanted(request.scope), _FOR_A_DAY)

    async def serve(self, request: Request) -> Response:
        """The file, cacheable for ever; 404 for a file of another version."""
        name = request.path_params["name"]
        if request.path_params["digest"] != self._digest or name not in self._files:
            raise BuildNotFound("There is no such file. Reload the page.")
        return self._files[name].answer(wanted(request.scope), _FOREVER)


_CALL = re.compile(r'\b(n?gettext)\("((?:[^"\\]|\\.)*)"(?:,\s*"((?:[^"\\]|\\.)*)")?')
"""A text of a script, as scripts write it: in double quotes, with its plural behind it."""


def texts_of_scripts(language: Language, scripts: Iterable[str]) -> str:
    """A script that gives the scripts their texts in a language, and the rule of its plurals."""
    texts: dict[str, object] = {}
    for script in scripts:
        for kind, one, many in _CALL.findall(script):
            one, many = (json.loads(f'"{text}"') for text in (one, many))
            if kind == "gettext":
                texts[one] = language.texts.gettext(one)
            else:
                texts[one] = language.plurals(one, many)
    table = json.dumps(texts, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return f'import {{ speak }} from "./texts.js";\nspeak({table}, (n) => Number({language.plural}));\n'


TEMPLATES = Path(__file__).parent.parent / "templates"

HEADERS = {
    # No inline code, no other hosts; 'self' covers the WebSocket of this host.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # The address of a build page is its key, so links send no referrer.
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
SHARED_HEADERS = tuple(
    (name.encode(), value.encode()) for name, value in {**HEADERS, "cache-control": "no-cache"}.items()
)
"""Kept by browsers and asked about each time: the answer to a signed-in operator is another one."""
_HTML = b"text/html; charset=utf-8"
ANYBODY = Caller("")
"""Callers without a token: no page shows them their address."""


class Rendering:
    """Renders pages; templates are compiled once."""

    def __init__(self, static_files: StaticFiles, shared: TtlCache, *, version: str, contact: str) -> None:
        """`shared` keeps what is the same for everybody."""
        self.has_help = False
        """Whether the site of the documentation is there, to be linked."""
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            extensions=["jinja2.ext.i18n"],
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment.policies["ext.i18n.trimmed"] = True
        environment.install_gettext_callables(  # type: ignore[attr-defined] # of the extension
            gettext, ngettext, newstyle=True, pgettext=pgettext, npgettext=npgettext
        )
        environment.globals.update(
            static=static_files.address,
            server_version=version,
            contact=words.contact(contact.strip()),
        )
        environment.filters.update(
            size=words.size,
            span=words.span,
            moment=words.moment,
            date=words.day,
            english=words.english,
            state_word=words.state_word,
            stage_word=words.stage_word,
            number=words.number,
            said=words.said,
            sentence=words.sentence,
            linked=words.linked,
            reason=words.in_words,
            reason_first=words.as_beginning,
        )
        self._environment = environment
        self._shared = shared

    def page(
        self, template: str, request: Request, *, caller: Caller, status: int = 200, **values: object
    ) -> HTMLResponse:
        """A whole page. `caller` decides what the navigation offers; `values` are for the template."""
        return self.answer(self.text(template, path=request.scope["path"], caller=caller, **values), status)

    def text(self, template: str, *, path: str, caller: Caller, **values: object) -> str:
        """The HTML of a page or a part of one."""
        return self._environment.get_template(template).render(
            path=path,
            language=current(),
            languages=LANGUAGES,
            has_help=self.has_help,
            signed_in=caller.name if caller.token else "",
            may_read=caller.may(Right.READ),
            may_operate=caller.may(Right.OPERATE),
            **values,
        )

    def for_anybody(self, template: str, *, path: str, seconds: float, **values: object) -> Rendered:
        """A page or a part of one as everybody without a token sees it, for so many seconds."""
        text = self.text(template, path=path, caller=ANYBODY, **values)
        return Rendered(text.encode(), seconds, content_type=_HTML)

    async def shared(self, request: Request, key: str, render: Callable[[], Rendered]) -> Response:
        """What `for_anybody` makes, kept and compressed; `render` runs in a thread.

        No other page is compressed: the length of a secret and an attacker's text that are compressed
        together tells the secret.
        """
        return await self._shared.answer(request, key, render, SHARED_HEADERS)

    def answer(self, content: str | bytes, status: int = 200) -> HTMLResponse:
        """A response with the headers of every page."""
        return HTMLResponse(content, status, headers=HEADERS)
