"""`make docs` makes a site that is whole and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

from asu_builder.cli import main
from asu_builder.http.routes import OPERATIONS
from documents import DOCS, ROOT, pages

pytestmark = pytest.mark.long

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}


class _Loaded(HTMLParser):
    """What a browser fetches by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADING.get(tag, ""))
        if address:
            self.addresses.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, made as `make docs` makes it."""
    folder = tmp_path_factory.mktemp("site")
    dry = subprocess.run(
        ["make", "--dry-run", "--always-make", "docs"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    (line,) = [line for line in dry.stdout.splitlines() if "sphinx-build" in line]
    command = line.split("sphinx-build", 1)[1].replace("dist/", f"{folder}/").split()
    assert "-W" in command, "a warning must be an error"
    made = subprocess.run(
        [sys.executable, "-m", "sphinx", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return folder / "docs"


def test_every_page_is_in_the_site(site: Path) -> None:
    for page in pages():
        assert (site / page.relative_to(DOCS)).with_suffix(".html").exists(), page


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    found = 0
    for page in site.rglob("*.html"):
        loaded = _Loaded()
        loaded.feed(page.read_text())
        found += len(loaded.addresses)
        for address in loaded.addresses:
            assert not re.match(r"(\w+:)?//", address), f"{page.name} loads {address}"
            file = (page.parent / address.partition("?")[0].partition("#")[0]).resolve()
            assert file.exists(), f"{page.name} lacks {address}"
    assert found > 100
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet.name


def test_the_reference_has_every_command_and_every_address(site: Path) -> None:
    commands = (site / "reference/commands.html").read_text()
    context = click.Context(main)
    names = main.list_commands(context)
    assert len(names) > 5
    for name in names:
        assert f"asu-builder {name}" in commands
        command = main.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in commands
    interface = re.sub(r"<[^>]+>", "", (site / "reference/interface.html").read_text())
    for operation in OPERATIONS:
        assert operation.address in interface


def test_no_page_keeps_a_place_for_what_is_generated(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert "generated:" not in page.read_text(), page.name
