"""The operator's hand, on a server that is named or on this installation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec

from asu_builder.cli.opening import operator, told, who
from asu_builder.cli.places import server_of
from asu_builder.domain.errors import BuildNotFound, NotAllowed, NotAuthenticated
from asu_builder.domain.short_hashes import FOUND_AT_MOST, whole_hash
from asu_builder.ports import JobFilter
from asu_builder.services.operator import Operator
from asu_builder.web.operator import describe_job
from asu_builder.web.operator_documents import ActDocument


class Hand(Protocol):
    """What an operator sees and does, wherever: `LocalHand` or `client.operator.ServerOperator`."""

    def jobs(self, wanted: JobFilter) -> Sequence[dict[str, Any]]:
        """Jobs, newest first, as the HTTP interface tells them."""

    def show(self, request_hash: str) -> Any:
        """The newest job of a hash. Raises `BuildNotFound`."""

    def cancel(self, request_hash: str) -> None:
        """Ends the live job of this hash. Raises `BuildNotFound` or `Conflict`."""

    def requeue(self, request_hash: str) -> None:
        """Builds once more what has ended, or gives a running build back to the queue."""

    def purge(self, request_hash: str) -> None:
        """Forgets a result or a failure now, with its images."""

    def pause(self) -> None:
        """Lets no worker claim a job."""

    def resume(self) -> None:
        """Lets workers claim jobs again."""

    def acts(self, limit: int) -> Sequence[dict[str, Any]]:
        """What operators did, newest first."""


class LocalHand:
    """Speaks as `client.operator.ServerOperator` does; whoever is at the terminal may do everything."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def jobs(self, wanted: JobFilter) -> Sequence[dict[str, Any]]:
        """See `Hand.jobs`."""
        return [_document(describe_job(job)) for job in self._operator.jobs(wanted)]

    def show(self, request_hash: str) -> Any:
        """See `Hand.show`."""
        job = self._operator.find(request_hash)
        if job is None:
            raise BuildNotFound("There is no job under this hash.")
        return _document(job)

    def cancel(self, request_hash: str) -> None:
        """See `Hand.cancel`."""
        self._operator.cancel(request_hash, who=who())

    def requeue(self, request_hash: str) -> None:
        """See `Hand.requeue`."""
        self._operator.requeue(request_hash, who=who())

    def purge(self, request_hash: str) -> None:
        """See `Hand.purge`."""
        self._operator.purge(request_hash, who=who())

    def pause(self) -> None:
        """See `Hand.pause`."""
        self._operator.pause(who=who())

    def resume(self) -> None:
        """See `Hand.resume`."""
        self._operator.resume(who=who())

    def acts(self, limit: int) -> Sequence[dict[str, Any]]:
        """See `Hand.acts`."""
        found = self._operator.acts(limit)
        return [_document(ActDocument(act.at, act.who, act.act, act.subject)) for act in found]


@contextmanager
def hand_of(server: str, token: str) -> Iterator[Hand]:
    """The hand on the server that is named, or on this installation. Errors end the command."""
    if not server:
        with operator() as hand:
            yield LocalHand(hand)
        return
    from asu_builder.client.operator import ServerOperator

    with told():
        try:
            yield ServerOperator(server_of(server, token))
        except (NotAuthenticated, NotAllowed) as error:
            raise type(error)(f"{error} Name a token with --token or ASU_BUILDER_TOKEN.") from error


def hashes_of(hand: Hand) -> Callable[[str], Sequence[str]]:
    """The hashes of jobs by how they begin."""

    def begin_so(prefix: str) -> Sequence[str]:
        found = hand.jobs(JobFilter(request_hash=prefix, limit=FOUND_AT_MOST))
        return [str(job["request_hash"]) for job in found]

    return begin_so


def whole(hand: Hand, given: str) -> str:
    """The hash that begins as given. Raises as `whole_hash` does."""
    return whole_hash(given, hashes_of(hand))


def _document(value: object) -> Any:
    return msgspec.to_builtins(value)
