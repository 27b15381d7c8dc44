"""A download server in a directory, and the adapter that reads it; a test file says what lies there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_builder.database.connection import Database
from asu_builder.upstream.offer import HttpUpstream
from asu_sample.server import DownloadServer
from factories import Clock


@pytest.fixture
def server(downloads: Path) -> Iterator[DownloadServer]:
    with DownloadServer(downloads) as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def upstream(server: DownloadServer, database: Database, clock: Clock) -> Iterator[HttpUpstream]:
    opened = HttpUpstream(server.url, database, now=clock, clock=lambda: clock().timestamp())
    yield opened
    opened.close()
