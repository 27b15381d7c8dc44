"""A clock of the database that tests move."""

from datetime import datetime
from typing import TypeVar

from factories import NOON

Port = TypeVar("Port")


class DatabaseClock:
    """Stands still until it is moved; `Database(path, clock=CLOCK)`."""

    moment = NOON

    def __call__(self) -> datetime:
        return self.moment


CLOCK = DatabaseClock()
"""Each test finds it at noon."""


def at_time(port: Port, moment: datetime) -> Port:
    """The port, at this moment by its database's clock."""
    CLOCK.moment = moment
    return port
