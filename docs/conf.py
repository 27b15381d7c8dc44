"""How Sphinx makes the site of these pages: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from asu_builder import __version__

project = "ASU Builder"
release = version = __version__
extensions = ["myst_parser", "generated"]
exclude_patterns = ["generated.py"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"ASU Builder {__version__}"
html_copy_source = False
html_show_copyright = False
# Nothing is loaded from elsewhere: furo brings its own style and uses the reader's fonts.
html_favicon = "../src/asu_builder/http/static/icon.svg"
