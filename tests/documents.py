"""The commands that the documentation tells people to type, read from its pages."""

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

RUN, BACKGROUND, OPERATOR = "", "background", "operator"
"""Behind `sh`: a block that is run; one that stays running; one for a machine that tests do not have."""

_BLOCK = re.compile(r"^```([a-z]+)([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(Struct, frozen=True):
    """A fenced block of a page."""

    page: str
    language: str
    kind: str
    text: str


def pages() -> list[Path]:
    """Every page of the documentation."""
    return sorted(DOCS.rglob("*.md"))


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page that name a language."""
    name = str(page.relative_to(DOCS))
    return [
        Block(name, language, kind.strip(), text) for language, kind, text in _BLOCK.findall(page.read_text())
    ]


def shell_blocks() -> Iterator[Block]:
    """Every block of commands, of all pages."""
    for page in pages():
        yield from (
            block for block in blocks_of(page) if block.language in ("sh", "bash", "console", "shell")
        )
