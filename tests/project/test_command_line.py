"""Every command and option is explained, and what can be printed about them can be used."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from asu_builder.cli import main
from asu_builder.cli.exit_codes import MEANINGS
from asu_builder.cli.manual import commands_of
from tools import require_tool

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "command-line.md").read_text()
COMMANDS = dict(commands_of(main))


def section_of(name: str) -> str:
    """What is written under the heading that names a command, else the whole page."""
    for section in re.split(r"^## ", DOCUMENT, flags=re.MULTILINE):
        heading = section.partition("\n")[0]
        if name in re.split(r"[ ,]+", heading.removeprefix("asu-builder ")):
            return section
    return DOCUMENT


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_and_its_options_are_explained(name: str) -> None:
    section = section_of(name)
    assert f"asu-builder {name}" in section or f"asu-builder {name}" in DOCUMENT
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"`(?:{option}\b[^`]*)`", section + DOCUMENT.partition("\n## ")[0]), option


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_and_its_options_say_what_they_do(name: str) -> None:
    command = COMMANDS[name]
    assert command.help and command.help.strip().endswith((".", ')"'))
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help and parameter.help.endswith("."), parameter.name


def test_the_exit_codes_in_the_documentation_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", DOCUMENT, re.MULTILINE)
    assert rows == [(str(int(code)), meaning) for code, meaning in MEANINGS.items()]


def test_no_option_is_explained_that_does_not_exist() -> None:
    known = {
        option
        for command in COMMANDS.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert set(re.findall(r"`(--[a-z-]+)", DOCUMENT)) <= known


def printed(*arguments: str) -> str:
    """What a command prints."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_manual_page_is_without_warnings_and_names_every_command(tmp_path: Path) -> None:
    require_tool("groff")
    page = tmp_path / "asu-builder.1"
    page.write_text(printed("man"))
    result = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-z", "-Kutf8", page], check=False, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    shown = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-c", page], check=True, capture_output=True, text=True
    ).stdout
    for name in COMMANDS:
        assert re.search(rf"^   {name}( |$)", re.sub(r".\x08", "", shown), re.MULTILINE), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_names_the_program(shell: str) -> None:
    script = printed("completion", shell)
    assert "asu-builder" in script and "_ASU_BUILDER_COMPLETE" in script


def test_bash_reads_its_completion_script(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(printed("completion", "bash"))
    subprocess.run(["bash", "-n", script], check=True)
    asked = f"source {script} && complete -p asu-builder"
    result = subprocess.run(["bash", "-c", asked], check=True, capture_output=True, text=True)
    assert result.stdout.startswith("complete ")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("asu-builder de", ["plain,demo", "plain,devices"]),
        ("asu-builder build --filesystem j", ["plain,jffs2", "plain,jffs2-nand"]),
    ],
)
def test_what_is_begun_is_completed(words: str, offered: list[str]) -> None:
    environment = {
        "_ASU_BUILDER_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    result = CliRunner().invoke(main, env=environment, prog_name="asu-builder")
    assert result.output.splitlines() == offered


def test_serving_does_not_pay_for_what_other_commands_need() -> None:
    modules = "asu_builder.cli, asu_builder.cli.exit_codes, asu_builder.http.server"
    code = f"import {modules}, sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert "asu_builder" in loaded
    assert loaded & {"rich", "yaml", "podman", "jinja2", "pygments"} == set()
    assert "asu_builder.client" not in result.stdout
