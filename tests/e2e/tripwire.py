"""A copy of a sample ImageBuilder whose every command fails once a dangerous value has reached make."""

import re
import shutil
from pathlib import Path

from asu_sample.distribution import Distribution

LOG = "dangerous-arguments.log"
_RECIPE = re.compile(r"exec (python3 .*-m miniature \$@)$", re.MULTILINE)
_ALARM = rf"\1 && {{ test ! -e {LOG} || {{ cat {LOG} >&2; exit 97; }}; }}"


def lay_tripwires(world: Distribution, folder: Path, versions: tuple[str, ...], target: str) -> str:
    """Writes the copies below `folder`; the template of their paths."""
    for version in versions:
        tree = folder / version / target
        shutil.copytree(world.imagebuilder(version, target), tree)
        makefile = tree / "Makefile"
        text, count = _RECIPE.subn(_ALARM, makefile.read_text())
        assert count == 1
        makefile.write_text(text)
    return f"{folder}/{{version}}/{{target}}/{{subtarget}}"
