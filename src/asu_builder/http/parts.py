"""What the web application and its pages are built from."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from asu_builder.core.catalog import Catalog
from asu_builder.core.health import Health
from asu_builder.core.live import Ends, LiveBuilds
from asu_builder.core.operator import Operator, QueueOverview
from asu_builder.core.search import Preview, Search
from asu_builder.core.submit import Builds
from asu_builder.http.api.builds import BuildAnswers
from asu_builder.http.api.live import WatchLimits
from asu_builder.http.callers import Admit, Callers
from asu_builder.http.shared_answers import SharedAnswers
from asu_builder.http.threads import AdmitFetch, Threads, Waiting
from asu_builder.ports import ImageSigning, StatementSigning, Statistics, Store
from asu_builder.settings import Settings

if TYPE_CHECKING:
    from asu_builder.core.comparison import Comparisons
    from asu_builder.core.statistics import Charts
    from asu_builder.http.api.monitoring import MetricsCollector
    from asu_builder.http.api.operator import ConfigurationDocument


HEALTH_PAGE, ERROR_PAGE = "the page of /health", "the page of an error"
"""Pages beside those with an address of their own, by the names that `make_pages` gives them."""


class Parts(Struct, frozen=True):
    """What the web application stands on.

    `start` runs before the port answers and must return at once; `stop` runs when the last answer
    has left, in a thread, and may wait.
    `clock` counts seconds; it decides when an answer is no longer fresh. `revoked` gives another value
    whenever an operator has taken an answer back, in any process. `ends` are there on a database server,
    `shared_answers` where nodes also share a Redis.
    `charts`, `comparisons`, `configuration` and `metrics` are made by the first who calls, because a start
    needs none of them.
    """

    builds: Builds
    live: LiveBuilds
    health: Health
    store: Store
    statistics: Statistics
    catalog: Catalog
    charts: Callable[[], "Charts"]
    preview: Preview
    comparisons: Callable[[], "Comparisons"]
    operator: Operator
    queue_overview: QueueOverview
    configuration: Callable[[], "ConfigurationDocument"]
    metrics: Callable[[], "MetricsCollector"]
    callers: Callers
    limit_previews: Admit
    limit_fetches: AdmitFetch
    settings: Settings
    start: Callable[[], None]
    stop: Callable[[], None]
    version: str
    watch_limits: WatchLimits = WatchLimits()
    clock: Callable[[], float] = time.monotonic
    revoked: Callable[[], object] = lambda: None
    ends: Ends | None = None
    shared_answers: SharedAnswers | None = None
    signing: ImageSigning | None = None
    attestation: StatementSigning | None = None


class PageParts(Parts, frozen=True, kw_only=True):
    """What the pages need beside that. `description` returns the OpenAPI document."""

    search: Search
    answers: BuildAnswers
    threads: Threads
    waiting: Waiting
    description: Callable[[], dict[str, Any]]

    @property
    def client(self) -> str:
        """The client name of the pages in build requests."""
        return f"web/{self.version}"
