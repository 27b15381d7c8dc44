"""Tables: drawn on a terminal, tab-separated elsewhere, or as JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from asu_builder.cli.views import printable


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
