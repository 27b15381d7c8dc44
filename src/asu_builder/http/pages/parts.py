"""What the pages are built from."""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from asu_builder.core.catalog import Catalog
from asu_builder.core.health import Health
from asu_builder.core.live import LiveBuilds
from asu_builder.core.operator import Operator, QueueOverview
from asu_builder.core.preflight import Preview
from asu_builder.core.search import Search
from asu_builder.core.statistics import Charts
from asu_builder.http.api.builds import BuildAnswers
from asu_builder.http.api.operator import ConfigurationDocument
from asu_builder.http.callers import Admit, Callers
from asu_builder.http.threads import Threads
from asu_builder.http.waiting import Waiting
from asu_builder.settings import Settings


class PageParts(Struct, frozen=True):
    """What the pages need. `description` returns the OpenAPI document."""

    health: Health
    charts: Charts
    catalog: Catalog
    queue_overview: QueueOverview
    operator: Operator
    configuration: Callable[[], ConfigurationDocument]
    search: Search
    live: LiveBuilds
    preview: Preview
    limit_previews: Admit
    answers: BuildAnswers
    settings: Settings
    callers: Callers
    threads: Threads
    waiting: Waiting
    clock: Callable[[], float]
    description: Callable[[], dict[str, Any]]
    version: str

    @property
    def client(self) -> str:
        """The client name of the pages in build requests."""
        return f"web/{self.version}"
