"""The real web application over a queue of plain values and a store on disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_client import AsgiClient
from asu_builder.http.fast_path import FastPath
from fake_builds import FakeBuilds
from web_scene import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """The parts, before any application."""
    return Scene(tmp_path / "store")


@pytest.fixture
def app(scene: Scene) -> FastPath:
    """The application over the parts."""
    return scene.app()


@pytest.fixture
def client(app: FastPath) -> Iterator[AsgiClient]:
    """A client of the running application."""
    with AsgiClient(app) as running:
        yield running


@pytest.fixture
def builds(scene: Scene) -> FakeBuilds:
    """The queue behind the application."""
    return scene.builds
