"""The sign of life that a process gives, by which operators and other processes know it."""

import os
from collections.abc import Callable

from asu_builder.core.health import Health
from asu_builder.core.worker import Workers
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.nodes import NodeFacts
from asu_builder.ports import Nodes, Store


class Presence:
    """Renews the row of this process. While another machine has its name, it claims nothing."""

    def __init__(
        self,
        nodes: Nodes,
        workers: Workers,
        *,
        name: str,
        machine: str,
        version: str,
        answers: bool,
        builds: bool,
        health: Health,
        store: Store,
        rules: Callable[[], str],
    ) -> None:
        """`rules` names the package rules, "" before they were read."""
        self._nodes = nodes
        self._workers = workers
        self._name = name
        self._machine = machine
        self._version = version
        self._answers = answers
        self._builds = builds
        self._health = health
        self._store = store
        self._rules = rules
        self._life = os.urandom(8).hex()
        self._is_displaced = False

    def renew(self) -> None:
        """To be called every few seconds. Raises `Unavailable` where another has the name."""
        try:
            room: int | None = self._store.room()
        except Unavailable:
            room = None
        facts = NodeFacts(
            self._version,
            self._answers,
            self._builds,
            self._workers.concurrent,
            self._workers.running,
            self._rules(),
            room,
            self._health.hindrance() if self._builds else "",
        )
        if not self._nodes.renew(self._name, self._machine, self._life, facts):
            self._is_displaced, self._workers.only = True, NO_JOB
            raise Unavailable(
                f"Another machine has taken the name {self._name} on this database; this process takes no "
                "jobs. Stop one of them, and set another worker_id."
            )
        if self._is_displaced:  # the other has gone
            self._is_displaced, self._workers.only = False, None

    def leave(self) -> None:
        """Says that this process ends."""
        self._nodes.leave(self._name, self._life)


NO_JOB = 0
"""The number of none, for workers that are to build nothing."""
