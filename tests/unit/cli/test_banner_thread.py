from types import SimpleNamespace
from typing import Any, cast

import pytest

from asu_builder.app.adapters import Role
from asu_builder.cli import serving
from asu_builder.settings import load_with_origins


class _Ended:
    """What a server that has closed says of where it listens."""

    def getsockname(self) -> object:
        raise OSError(9, "Bad file descriptor")


class _Bound:
    def getsockname(self) -> object:
        return ("127.0.0.1", 8080)


@pytest.mark.parametrize(
    ("sockets", "listens_at"),
    [([], None), ([_Ended()], None), ([_Bound()], ("127.0.0.1", 8080))],
)
def test_the_banner_of_a_server_that_has_just_ended_is_left_out(
    monkeypatch: pytest.MonkeyPatch, sockets: list[object], listens_at: object
) -> None:
    logged: list[object] = []
    monkeypatch.setattr(serving, "_BANNER_AFTER_SECONDS", 0)
    monkeypatch.setattr(
        "asu_builder.doctor.report.log_banner", lambda _, *, listens_at, builds: logged.append(listens_at)
    )
    server = SimpleNamespace(started=True, should_exit=False, servers=[SimpleNamespace(sockets=sockets)])
    serving._say_how_it_is(cast("Any", server), load_with_origins(), Role.BOTH)
    assert logged == ([] if listens_at is None else [listens_at])
