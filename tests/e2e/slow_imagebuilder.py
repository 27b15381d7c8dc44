"""A sample ImageBuilder that stays in every stage long enough for a poller to see it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from asu_sample.distribution import Distribution

_RECIPE = "\t@PYTHONPATH=scripts"


def write_slow_imagebuilder(
    world: Distribution,
    folder: Path,
    *,
    version: str,
    target: str,
    seconds: float,
    longer: Mapping[str, int] | None = None,
) -> str:
    """Writes it below `folder`, waiting at least so long in every stage; the template of its path.

    `longer` says for how many seconds goals wait that are given a package of that name.
    """
    start = folder / version / target
    shutil.copytree(world.imagebuilder(version, target), start / "ready")
    makefile = start / "ready" / "Makefile"
    text = makefile.read_text()
    assert text.count(_RECIPE) == 1
    wait = str(seconds)
    for package, instead in (longer or {}).items():
        wait = f"$(if $(filter {package},$(PACKAGES)),{instead},{wait})"
    makefile.write_text(text.replace(_RECIPE, f"\t@sleep {wait}; {_RECIPE[2:]}"))
    # A container without a Makefile is set up by its own script, as those of snapshots are.
    (start / "setup.sh").write_text(f"sleep {seconds} && mv ready/* .\n")
    return f"{folder}/{{version}}/{{target}}/{{subtarget}}"
