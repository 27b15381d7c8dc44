"""A service that knows three tokens; a client is anybody until it sends one of `visitors.py`."""

from pathlib import Path

import pytest

from visitors import TOKENS
from web_scene import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """The parts, with three tokens."""
    return Scene(tmp_path, tokens=TOKENS)
