"""Brings the catalogues of the pages' texts up to date with the source, and compiles them: `make texts`.

A new language begins with an empty file: `touch src/asu_builder/http/locale/fr.po && make texts`.
"""

import sys
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOM = Path(__file__).parent.parent / "src" / "asu_builder" / "http"
LOCALE = ROOM / "locale"
METHODS = [("**.py", "python"), ("static/**.js", "javascript"), ("templates/**.html", "jinja2")]
OPTIONS = {
    "templates/**.html": {
        "trimmed": "true",
        "trim_blocks": "true",
        "lstrip_blocks": "true",
        "silent": "false",
    }
}
KEYWORDS = {**DEFAULT_KEYWORDS, "marked": None}
WIDTH = 110


class Texts(Catalog):
    """A catalogue whose header holds only what its readers need, so that equal texts are equal bytes."""

    @property
    def mime_headers(self) -> list[tuple[str, str]]:
        """Language, plural forms and encoding."""
        return [
            ("Language", str(self.locale)),
            ("Plural-Forms", self.plural_forms),
            ("Content-Type", "text/plain; charset=utf-8"),
        ]


def extracted() -> Catalog:
    """Every text that the source marks."""
    found = Catalog()
    for _, _, message, comments, context in extract_from_dir(
        ROOM, METHODS, OPTIONS, KEYWORDS, ("Translators:",), strip_comment_tags=True
    ):
        found.add(message, auto_comments=comments, context=context)
    return found


def read(path: Path) -> Catalog:
    """The catalogue of the language that the file's name says."""
    with path.open("rb") as file:
        return read_po(file, locale=path.stem, abort_invalid=True)


def updated(path: Path, texts: Catalog) -> Texts:
    """The same with every text of the source and no other; a text that is new has no translation yet."""
    former, catalogue = read(path), Texts(locale=path.stem, header_comment="", fuzzy=False)
    for message in texts:
        if message.id:
            known = former.get(message.id, message.context)
            # A plural has a form for each that the language knows.
            same = known is not None and isinstance(known.id, str) == isinstance(message.id, str)
            catalogue.add(
                message.id,
                known.string if known is not None and same else None,
                auto_comments=message.auto_comments,
                context=message.context,
            )
    return catalogue


def as_text(catalogue: Texts) -> bytes:
    """The file that translators edit, in the order of the texts: a change of one is a change of one place."""
    file = BytesIO()
    write_po(file, catalogue, width=WIDTH, sort_output=True)
    return file.getvalue()


def compiled(catalogue: Texts) -> bytes:
    """What `gettext` of the standard library reads. Texts without a translation are not in it."""
    file = BytesIO()
    write_mo(file, catalogue)
    return file.getvalue()


def main() -> None:
    """Writes both files of each language, and says what has no translation."""
    texts = extracted()
    for path in sorted(LOCALE.glob("*.po")):
        catalogue = updated(path, texts)
        path.write_bytes(as_text(catalogue))
        path.with_suffix(".mo").write_bytes(compiled(catalogue))
        missing = [message.id for message in catalogue if message.id and not _has_text(message.string)]
        sys.stderr.write(f"{path.stem}: {len(catalogue) - len(missing)} of {len(catalogue)} texts\n")
        for text in missing:
            sys.stderr.write(f"  without translation: {text!r}\n")


def _has_text(translation: object) -> bool:
    parts = translation if isinstance(translation, tuple | list) else (translation,)
    return all(parts)


if __name__ == "__main__":
    main()
