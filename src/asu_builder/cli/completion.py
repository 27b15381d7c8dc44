"""`asu-builder completion`: what a shell needs to complete our commands and options."""

import click

from asu_builder.cli import main

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
