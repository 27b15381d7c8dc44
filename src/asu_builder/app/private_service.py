"""The service for one command, on a socket file in a private directory, in this process."""

import contextlib
import getpass
import tempfile
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.app import Application, assemble
from asu_builder.domain.access import Right, Token, new_token
from asu_builder.domain.errors import Unavailable
from asu_builder.http.server import DrainingServer, server_config
from asu_builder.settings import Settings

_POLL = timedelta(seconds=1)
"""How soon a job is taken up that a lost worker of another process has left."""
_MARK = "-terminal"
_LONGEST_NAME = 64
_NO_JOB = 0
_START_SECONDS = 0.01
_LONGEST_DIRECTORY = 60
"""Characters; the address of a socket file has at most 107."""


class PrivateService(Struct, frozen=True):
    """A running service: where it listens, and the secret that lets its user do everything."""

    application: Application
    socket_path: Path
    token: str


@contextlib.contextmanager
def private_service(settings: Settings) -> Iterator[PrivateService]:
    """Serves until the block ends; a service may run beside it, and keeps its worker's name.

    It only answers until `application.begin` is called, so that looking at a queue changes nothing in it;
    the worker takes no job until `application.workers.only` names one. Rate limits do not hold for the
    user. Raises `SettingsProblem` or `Unavailable`.
    """
    secret, digest = new_token()
    settings = replace(
        settings,
        worker_id=settings.worker_id[: _LONGEST_NAME - len(_MARK)] + _MARK,
        worker_concurrent=1,
        worker_poll=_POLL,
        shutdown_grace=timedelta(0),
    )
    user = Token(f"cli:{getpass.getuser()}", digest, frozenset({Right.OPERATE}))
    application = assemble(settings, own_tokens=[user], only_answers=True)
    application.workers.only = _NO_JOB
    temporary = None if len(tempfile.gettempdir()) < _LONGEST_DIRECTORY else "/tmp"
    with tempfile.TemporaryDirectory(prefix="asu-builder-", dir=temporary) as folder:
        path = Path(folder) / "socket"
        config = server_config(application.app, "", 0, door=application.door)
        config.uds = str(path)
        server = DrainingServer(config, drain=application.drain, end_streams=application.end_streams)
        thread = threading.Thread(target=server.run, name="private-service", daemon=True)
        thread.start()
        try:
            while not server.started:
                thread.join(_START_SECONDS)
                if not thread.is_alive():
                    raise Unavailable("The service of this command has not started; the log says why.")
            yield PrivateService(application, path, secret)
        finally:
            server.should_exit = True
            thread.join()
