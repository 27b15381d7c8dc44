"""`asu-builder doctor`: what is wrong here, and what to type."""

import logging
import os
import sys
import textwrap
from collections.abc import Mapping

import click
import msgspec

from asu_builder import __version__
from asu_builder.doctor.report import CHECKS, examine, is_healthy
from asu_builder.doctor.sample_build import try_building
from asu_builder.doctor.scene import Scene
from asu_builder.domain.health import CheckResult, Status
from asu_builder.settings.reading import survey_settings

_SIGNS: Mapping[Status, str] = {"ok": "✓", "warning": "!", "error": "✗"}
_PLAIN_SIGNS: Mapping[Status, str] = {"ok": "ok", "warning": "!", "error": "NO"}
_COLOURS: Mapping[Status, str] = {"ok": "green", "warning": "yellow", "error": "red"}
_NAME_WIDTH, _MARGIN, _WIDTH = 20, 24, 110


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, when every check has ended.")
@click.option("--no-build", is_flag=True, help="Leave out the sample build, which takes some seconds.")
@click.option("--url", default="", metavar="URL", help="The public address: asks as browsers and clients do.")
def doctor_command(as_json: bool, no_build: bool, url: str) -> None:
    """Checks this installation and says how to fix it; changes nothing. Exit code 1: there is an error."""
    logging.disable(logging.CRITICAL)  # the results say why something fails
    scene = Scene(survey_settings(), url=url)
    results: list[CheckResult] = []
    for result in examine(scene, CHECKS):
        _add(results, result, shown=not as_json)
    if not no_build:
        _add(results, try_building(scene, results), shown=not as_json)
    errors, warnings = (sum(result.status == status for result in results) for status in ("error", "warning"))
    healthy = is_healthy(results)
    if as_json:
        document = {"version": __version__, "healthy": healthy, "checks": results}
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))
    elif errors or warnings:
        click.echo(f"\n{len(results)} checked: {errors} with an error, {warnings} with a warning.")
    else:
        click.echo(f"\n{len(results)} checked, and all is well.")
    sys.stdout.flush()
    # A check that hangs in the kernel, on a dead network mount, must not keep the end waiting.
    os._exit(0 if healthy else 1)


def _add(results: list[CheckResult], result: CheckResult, *, shown: bool) -> None:
    if shown:
        if not results or results[-1].group != result.group:
            click.echo(("\n" if results else "") + click.style(result.group, bold=True))
        sign = click.style(_signs()[result.status], fg=_COLOURS[result.status])
        lines = textwrap.wrap(
            result.sentence, _WIDTH - _MARGIN, break_long_words=False, break_on_hyphens=False
        )
        click.echo(f"  {sign} {result.name.ljust(_NAME_WIDTH)}{lines[0]}")
        # A remedy is never wrapped: it is there to be copied.
        for line in (*lines[1:], *([f"-> {result.remedy}"] if result.remedy else [])):
            click.echo(" " * _MARGIN + line)
    results.append(result)


def _signs() -> Mapping[Status, str]:
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return _PLAIN_SIGNS
    return _SIGNS
