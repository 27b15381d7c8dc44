"""How builds and tables are shown: in place on a terminal, line by line elsewhere, or as JSON."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

from asu_builder.client.builds import Event, LogLines, Progress
from asu_builder.domain.job import STAGE_WORDS, Stage

if TYPE_CHECKING:
    from rich.console import RenderableType


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows with these columns: with headings on a terminal, without any elsewhere."""
    cells = [[printable(str(row.get(column) or "")) for column in columns] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            click.echo("\t".join(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def print_json(document: object) -> None:
    """A document for programs."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


STAGES = {stage: word for stage, (_, word) in STAGE_WORDS.items()}
_SHOWN_LINES = 8
_REFRESHES = 8


class View:
    """Shows what happens, in order; `close` gives the terminal back. This one shows nothing."""

    keeps_output = False
    """Whether the build's output stays to be read, so that its end need not be shown again."""

    def note(self, sentence: str) -> None:
        """Something worth a line."""

    def show(self, event: Event) -> None:
        """What has happened to the build."""

    def image(self, name: str, got: int, size: int) -> None:
        """How much of an image is here."""

    def close(self) -> None:
        """Nothing more is shown."""


def choose_view(stream: IO[str], *, quiet: bool = False) -> View:
    """The view that fits: in place where `stream` is a terminal that can be written anywhere."""
    if quiet:
        return View()
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return InPlace()
    return LineByLine(stream)


class Notes(logging.Handler):
    """Warnings of the services, as notes of a view, so that they do not write across it."""

    def __init__(self, view: View) -> None:
        super().__init__(logging.WARNING)
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        self._view.note(record.getMessage())


@contextmanager
def shown(stream: IO[str], *, quiet: bool = False) -> Iterator[View]:
    """The view that fits, for as long as this is entered; what the services warn of goes there too."""
    view = choose_view(stream, quiet=quiet)
    notes = Notes(view)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.getLogger().addHandler(notes)
    try:
        yield view
    finally:
        logging.getLogger().removeHandler(notes)
        view.close()


def printable(text: str) -> str:
    """Text of a build without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text.rstrip("\r\n"))


def describe(progress: Progress) -> str:
    """How far it is, in a few words."""
    if progress.stage:
        where = STAGES.get(Stage(progress.stage), "") if progress.stage in STAGES else progress.stage
        words = f"building: {where}"
    elif progress.position:
        words = f"queued, {progress.position} ahead"
    else:
        words = "queued, next in turn" if progress.state == "pending" else progress.state
    return words if progress.eta_seconds is None else f"{words}, about {progress.eta_seconds} s left"


class LineByLine(View):
    """One line for each thing that happens; for files, pipes and the logs of others."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._shown = ""

    def note(self, sentence: str) -> None:
        click.echo(printable(sentence), file=self._stream)

    def show(self, event: Event) -> None:
        """Shows lines and progress; a change of the time left alone prints nothing."""
        if isinstance(event, LogLines):
            self.keeps_output = True
            for line in event.lines:
                click.echo(f"  {printable(line.text)}", file=self._stream)
        elif isinstance(event, Progress):
            words = describe(Progress(event.state, event.stage, event.position))
            if words != self._shown:
                click.echo(describe(event), file=self._stream)
            self._shown = words

    def image(self, name: str, got: int, size: int) -> None:
        if got == size:
            click.echo(f"{name}: {size} bytes", file=self._stream)


class InPlace(View):
    """A few lines of the terminal, written again and again: stages, what is left, the last output."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._begun = time.monotonic()
        self._progress = Progress("pending")
        self._lines: list[str] = []
        self._image = ""
        self._console = Console(file=sys.stderr)
        self._live = Live(
            get_renderable=self._render, console=self._console, refresh_per_second=_REFRESHES, transient=True
        )
        self._live.start()

    def note(self, sentence: str) -> None:
        from rich.text import Text

        self._console.print(Text(printable(sentence)))

    def show(self, event: Event) -> None:
        if isinstance(event, LogLines):
            printed = [printable(line.text) for line in event.lines]
            self._lines = [*self._lines, *printed][-_SHOWN_LINES:]
        elif isinstance(event, Progress):
            self._progress = event

    def image(self, name: str, got: int, size: int) -> None:
        self._image = f"{name}  {100 * got // max(size, 1)} % of {size >> 10} KiB"

    def close(self) -> None:
        self._live.stop()

    def _render(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        head = Text(f"{time.monotonic() - self._begun:5.0f} s  ", no_wrap=True, overflow="ellipsis")
        head.append(self._image or describe(self._progress), style="bold")
        lines = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in self._lines]
        # Not every server signs; one that does says so when it comes to that.
        last = self._progress.stage == Stage.SIGNING_IMAGES
        names = [stage for stage in STAGES if last or stage is not Stage.SIGNING_IMAGES]
        reached = names.index(Stage(self._progress.stage)) if self._progress.stage in STAGES else -1
        if self._image:
            reached = len(names)
        bar = Text("         ")
        for number, stage in enumerate(names):
            mark, style = (
                ("✓", "green") if number < reached else ("●", "cyan") if number == reached else ("○", "dim")
            )
            bar.append(f"{mark} {STAGES[stage]}   ", style=style)
        return Group(head, bar, *lines)
