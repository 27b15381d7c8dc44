"""A sample ImageBuilder that stays in every stage long enough for a poller to see it."""

import shutil
from pathlib import Path

from asu_sample.distribution import Distribution

_RECIPE = "\t@PYTHONPATH=scripts"


def write_slow_imagebuilder(
    world: Distribution, folder: Path, *, version: str, target: str, seconds: float
) -> str:
    """Writes it below `folder`, waiting at least so long in every stage; the template of its path."""
    start = folder / version / target
    shutil.copytree(world.imagebuilder(version, target), start / "ready")
    makefile = start / "ready" / "Makefile"
    text = makefile.read_text()
    assert text.count(_RECIPE) == 1
    makefile.write_text(text.replace(_RECIPE, f"\t@sleep {seconds}; {_RECIPE[2:]}"))
    # A container without a Makefile is set up by its own script, as those of snapshots are.
    (start / "setup.sh").write_text(f"sleep {seconds} && mv ready/* .\n")
    return f"{folder}/{{version}}/{{target}}/{{subtarget}}"
