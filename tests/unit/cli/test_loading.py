import gc

import click
import pytest

from asu_builder.cli import main


def test_garbage_is_looked_for_while_a_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    probe = click.Command("probe", callback=lambda: seen.append(gc.isenabled()))
    monkeypatch.setitem(main.commands, "probe", probe)
    gc.disable()  # as it is loaded
    try:
        main(["probe"], standalone_mode=False)
    finally:
        gc.enable()
    assert seen == [True]
