"""`asu-builder man` and `completion`: made from the commands themselves."""

import re
from collections.abc import Iterator

import click

from asu_builder import __version__
from asu_builder.cli import main
from asu_builder.cli.exit_codes import MEANINGS

_PROGRAM = "asu-builder"
_VARIABLE = "_ASU_BUILDER_COMPLETE"
"""By it click knows that a shell asks; its own choice for a program of this name."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Prints a script that completes commands and options.

    For bash, in ~/.bashrc: eval "$(asu-builder completion bash)"
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, shell
    complete = kind(main, {}, _PROGRAM, _VARIABLE)
    # `source` would run bash to see how old it is, which says nothing about where the script is read.
    click.echo(complete.source_template % complete.source_vars())


_PURPOSE = "builds OpenWrt images with exactly the packages a router needs"
_FILES = "/etc/asu/config.yaml, ~/.asu/config.yaml, config.yaml"
_VARIABLES = (
    ("ASU_…", "Each setting of docs/settings.md by its name, like ASU_DATABASE_PATH."),
    ("ASU_BUILDER_SERVER, ASU_BUILDER_TOKEN", "What --server and --token say otherwise."),
)


@click.command("man")
def man_command() -> None:
    """Prints the manual page, as man reads it."""
    click.echo(render_man_page(main))


def render_man_page(root: click.Group) -> str:
    """The page, in the language of man(7)."""
    lines = [
        f'.TH {_PROGRAM.upper().replace("-", chr(92) + "-")} 1 "" "{_PROGRAM} {__version__}" "User Commands"',
        ".SH NAME",
        f"{_text(_PROGRAM)} \\- {_text(_PURPOSE)}",
        ".SH SYNOPSIS",
        f".B {_text(_PROGRAM)}",
        "[COMMAND] [OPTIONS]",
        ".SH DESCRIPTION",
        *_paragraphs(root.help or ""),
        ".SH COMMANDS",
        *(line for name, command in commands_of(root) for line in _command(name, command)),
        ".SH EXIT STATUS",
        *(line for code, meaning in MEANINGS.items() for line in _entry(str(int(code)), meaning)),
        ".SH ENVIRONMENT",
        *(line for name, meaning in _VARIABLES for line in _entry(name, meaning)),
        ".SH FILES",
        *_entry(_FILES, "Settings; later files win, variables win over all."),
    ]
    return "\n".join(lines)


def commands_of(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its whole name; groups only by their members."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from commands_of(command, f"{before}{name} ")
            elif command is not None:
                yield f"{before}{name}", command


def _command(name: str, command: click.Command) -> Iterator[str]:
    with click.Context(command) as context:
        usage = " ".join(command.collect_usage_pieces(context))
        yield f".SS {_text(f'{name} {usage}')}"
        yield from _paragraphs(command.help or "")
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and record[1]:
                yield from _entry(*record)


def _entry(term: str, meaning: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_text(term)}"
    yield _text(meaning)


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _text(text: str) -> str:
    """As roff takes it: nothing of it is a request, and a hyphen can be copied as one."""
    escaped = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
