"""An ImageBuilder that is right in every form and does nothing, so that hundreds of builds take seconds."""

import hashlib
import json
from pathlib import Path

from asu_sample.releases import RELEASES

_IMAGE = b"an image of nothing\n"
_MAKEFILE = """\
info:
\t@cat info.txt
manifest:
\t@echo "base-files - 1"
image:
\t@mkdir -p "$(BIN_DIR)" && cp image.bin profiles.json "$(BIN_DIR)/"
.PHONY: info manifest image
"""
_INFO = """\
Current Target: "pico/nine"
Current Revision: "{revision}"
Default Packages: base-files
Available Profiles:

acme_small:
    Acme Small
    Packages:
    SupportedDevices: acme,small
"""


def write_cheap_imagebuilder(folder: Path, *, version: str) -> str:
    """Writes it below `folder`; the template of its path."""
    (revision,) = [release.revision for release in RELEASES if release.version == version]
    tree = folder / version / "pico" / "nine"
    tree.mkdir(parents=True)
    (tree / "Makefile").write_text(_MAKEFILE)
    (tree / "info.txt").write_text(_INFO.format(revision=revision))
    (tree / "image.bin").write_bytes(_IMAGE)
    image = {"name": "image.bin", "type": "sysupgrade", "sha256": hashlib.sha256(_IMAGE).hexdigest()}
    profiles = {
        "metadata_version": 1,
        "version_number": version,
        "version_code": revision,
        "target": "pico/nine",
        "profiles": {"acme_small": {"images": [image], "titles": [{"title": "Acme Small"}]}},
    }
    (tree / "profiles.json").write_text(json.dumps(profiles))
    return f"{folder}/{{version}}/{{target}}/{{subtarget}}"
