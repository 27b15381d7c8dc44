"""`asu-builder doctor`: what is wrong here, and what to type."""

import os
import sys
import textwrap
from collections.abc import Iterable, Iterator

import click
import msgspec

from asu_builder import __version__
from asu_builder.doctor.report import CHECKS, examine, is_healthy
from asu_builder.doctor.sample_build import try_building
from asu_builder.doctor.scene import Scene
from asu_builder.domain.check_result import Finding, Grade
from asu_builder.settings.reading import survey_settings

_SIGNS = {Grade.OK: "✓", Grade.WARNING: "!", Grade.WRONG: "✗"}
_PLAIN_SIGNS = {Grade.OK: "ok", Grade.WARNING: "!", Grade.WRONG: "NO"}
_COLOURS = {Grade.OK: "green", Grade.WARNING: "yellow", Grade.WRONG: "red"}
_NAME_WIDTH, _MARGIN, _WIDTH = 20, 24, 110


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, when everything has been looked at.")
@click.option("--no-build", is_flag=True, help="Leave out the sample build, which takes some seconds.")
@click.option("--url", default="", metavar="URL", help="The public address: asks as browsers and clients do.")
def doctor_command(as_json: bool, no_build: bool, url: str) -> None:
    """Looks for what is wrong here and says what to do; changes nothing. Exit code 1: something is wrong."""
    logging_off()
    scene = Scene(survey_settings(), url=url)
    findings = _findings(scene, build=not no_build)
    seen = _print_json(findings) if as_json else _print(findings)
    sys.stdout.flush()
    # A check that hangs in the kernel, on a dead network mount, must not keep the end waiting.
    os._exit(0 if is_healthy(seen) else 1)


def logging_off() -> None:
    """What libraries say about failing is said by the findings."""
    import logging

    logging.disable(logging.CRITICAL)


def _findings(scene: Scene, *, build: bool) -> Iterator[Finding]:
    found = []
    for finding in examine(scene, CHECKS):
        found.append(finding)
        yield finding
    if build:
        yield try_building(scene, found)


def _print_json(findings: Iterable[Finding]) -> list[Finding]:
    seen = list(findings)
    document = {"version": __version__, "healthy": is_healthy(seen), "findings": seen}
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))
    return seen


def _print(findings: Iterable[Finding]) -> list[Finding]:
    seen: list[Finding] = []
    for finding in findings:
        if not seen or seen[-1].group != finding.group:
            click.echo(("\n" if seen else "") + click.style(finding.group, bold=True))
        _print_one(finding)
        seen.append(finding)
    wrong = sum(finding.grade == Grade.WRONG for finding in seen)
    doubtful = sum(finding.grade == Grade.WARNING for finding in seen)
    click.echo(
        f"\n{len(seen)} looked at: {wrong} wrong, {doubtful} doubtful."
        if wrong or doubtful
        else f"\n{len(seen)} looked at, and all is well."
    )
    return seen


def _print_one(finding: Finding) -> None:
    sign = click.style(_signs()[finding.grade], fg=_COLOURS[finding.grade])
    name = finding.name.ljust(_NAME_WIDTH)
    lines = textwrap.wrap(finding.sentence, _WIDTH - _MARGIN, break_long_words=False, break_on_hyphens=False)
    click.echo(f"  {sign} {name}{lines[0]}")
    for line in lines[1:]:
        click.echo(" " * _MARGIN + line)
    if finding.remedy:
        # Never wrapped: it is there to be copied.
        click.echo(" " * _MARGIN + "-> " + finding.remedy)


def _signs() -> dict[Grade, str]:
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return _PLAIN_SIGNS
    return _SIGNS
