"""`asu-builder doctor`: what is wrong here, and what to type."""

import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping

import click
import msgspec

from asu_builder import __version__
from asu_builder.doctor.report import CHECKS, examine, is_healthy
from asu_builder.doctor.sample_build import try_building
from asu_builder.doctor.scene import Scene
from asu_builder.domain.check_result import CheckResult, Status
from asu_builder.settings.reading import survey_settings

_SIGNS: Mapping[Status, str] = {"ok": "✓", "warning": "!", "error": "✗"}
_PLAIN_SIGNS: Mapping[Status, str] = {"ok": "ok", "warning": "!", "error": "NO"}
_COLOURS: Mapping[Status, str] = {"ok": "green", "warning": "yellow", "error": "red"}
_NAME_WIDTH, _MARGIN, _WIDTH = 20, 24, 110


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, when everything has been looked at.")
@click.option("--no-build", is_flag=True, help="Leave out the sample build, which takes some seconds.")
@click.option("--url", default="", metavar="URL", help="The public address: asks as browsers and clients do.")
def doctor_command(as_json: bool, no_build: bool, url: str) -> None:
    """Looks for what is wrong here and says what to do; changes nothing. Exit code 1: something is wrong."""
    logging_off()
    scene = Scene(survey_settings(), url=url)
    results = _results(scene, build=not no_build)
    seen = _print_json(results) if as_json else _print(results)
    sys.stdout.flush()
    # A check that hangs in the kernel, on a dead network mount, must not keep the end waiting.
    os._exit(0 if is_healthy(seen) else 1)


def logging_off() -> None:
    """What libraries say about failing is said by the results."""
    import logging

    logging.disable(logging.CRITICAL)


def _results(scene: Scene, *, build: bool) -> Iterator[CheckResult]:
    found = []
    for result in examine(scene, CHECKS):
        found.append(result)
        yield result
    if build:
        yield try_building(scene, found)


def _print_json(results: Iterable[CheckResult]) -> list[CheckResult]:
    seen = list(results)
    document = {"version": __version__, "healthy": is_healthy(seen), "checks": seen}
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))
    return seen


def _print(results: Iterable[CheckResult]) -> list[CheckResult]:
    seen: list[CheckResult] = []
    for result in results:
        if not seen or seen[-1].group != result.group:
            click.echo(("\n" if seen else "") + click.style(result.group, bold=True))
        _print_one(result)
        seen.append(result)
    errors, warnings = (sum(result.status == status for result in seen) for status in ("error", "warning"))
    if errors or warnings:
        click.echo(f"\n{len(seen)} checked: {errors} with an error, {warnings} with a warning.")
    else:
        click.echo(f"\n{len(seen)} checked, and all is well.")
    return seen


def _print_one(result: CheckResult) -> None:
    sign = click.style(_signs()[result.status], fg=_COLOURS[result.status])
    name = result.name.ljust(_NAME_WIDTH)
    lines = textwrap.wrap(result.sentence, _WIDTH - _MARGIN, break_long_words=False, break_on_hyphens=False)
    click.echo(f"  {sign} {name}{lines[0]}")
    for line in lines[1:]:
        click.echo(" " * _MARGIN + line)
    if result.remedy:
        # Never wrapped: it is there to be copied.
        click.echo(" " * _MARGIN + "-> " + result.remedy)


def _signs() -> Mapping[Status, str]:
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return _PLAIN_SIGNS
    return _SIGNS
