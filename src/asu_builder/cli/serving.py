"""`asu-builder serve` and `asu-builder worker`: bind the port before anything else starts, log the banner."""

import errno
import gc
import logging
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from asu_builder.domain.errors import Unavailable
from asu_builder.settings import LoadedSettings, SettingsProblem, load_with_origins

if TYPE_CHECKING:
    from asu_builder.app.adapters import Role
    from asu_builder.app.background import Rounds
    from asu_builder.http.server import DrainingServer

_BANNER_LOOKS_SECONDS = 0.1
_BANNER_AFTER_SECONDS = 1.0
_NEIGHBOURS = 50
_LOWEST_OF_EVERYBODY = 1024
_GARBAGE_AFTER = 10_000
"""So many more objects than before that may refer to others; about a megabyte."""


def serve(
    *,
    command: str = "serve",
    port: int | None = None,
    file: Path | None = None,
    rounds: "Rounds | None" = None,
) -> None:
    """Runs the service by the settings of files and `ASU_*` variables.

    `command` says for which role, see `Role`; tests choose other `rounds`.
    """
    # What is loaded at the start stays: to look for garbage in it costs a twentieth of the start.
    gc.disable()
    from asu_builder.app import assemble
    from asu_builder.app.adapters import Role
    from asu_builder.app.background import use_one_heap
    from asu_builder.cli.exit_codes import exit_on_error
    from asu_builder.cli.log_lines import configure_logging
    from asu_builder.http.server import DrainingServer, Supervisor, inherited_sockets, server_config

    use_one_heap()
    role = Role(command)
    chosen = "server_port" if role.answers else "monitoring_port"
    with exit_on_error():
        loaded = load_with_origins(
            files=None if file is None else (file,), options={} if port is None else {chosen: port}
        )
        settings = loaded.settings
        configure_logging(settings)
        host = settings.server_host if role.answers else settings.monitoring_host
        # Bound before the database is touched, and not listening before the application has started.
        sockets = inherited_sockets() or listen_at(
            host, getattr(settings, chosen), command=command, setting=chosen
        )
        application = assemble(settings, role=role, origins=loaded.origins, rounds=rounds)
        gc.freeze()
        # Python's own 700 is reached by a batch of requests on their way, and nothing of it is garbage.
        gc.set_threshold(_GARBAGE_AFTER)
        gc.enable()
    for warning in application.warnings:
        logging.getLogger("asu_builder").warning(warning)
    supervisor = Supervisor()
    config = server_config(
        application.app,
        host,
        getattr(settings, chosen),
        door=application.door,
        supervisor=supervisor,
    )
    server = DrainingServer(
        config, drain=application.drain, end_streams=application.end_streams, supervisor=supervisor
    )
    threading.Thread(target=_say_how_it_is, args=(server, loaded, role), name="banner", daemon=True).start()
    server.run(sockets=sockets)


def _say_how_it_is(server: "DrainingServer", loaded: LoadedSettings, role: "Role") -> None:
    """Logs the banner, once the port answers and has answered the first ones: it loads a good deal."""
    pause = threading.Event()  # time.sleep fails where the clock is moved under it
    while not server.started:
        if server.should_exit:
            return
        pause.wait(_BANNER_LOOKS_SECONDS)
    pause.wait(_BANNER_AFTER_SECONDS)
    try:
        address = server.servers[0].sockets[0].getsockname()
    except (IndexError, AttributeError, OSError):  # the server may end at any moment
        return
    if server.should_exit:
        return
    from asu_builder.loading import LOADING

    with LOADING:
        from asu_builder.doctor.report import log_banner

    log_banner(loaded, listens_at=address, builds=role.builds)


def listen_at(
    host: str, port: int, *, command: str = "serve", setting: str = "server_port"
) -> list[socket.socket]:
    """Sockets at every address of a host, bound and not yet listening, for a command of ours.

    Raises `Unavailable` where the port is taken, `SettingsProblem` where host or port cannot be had.
    """
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in _addresses(host, port):
            opened = socket.socket(family, kind, protocol)
            sockets.append(opened)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind(address)
            opened.setblocking(False)
    except OSError as error:
        for opened in sockets:
            opened.close()
        if error.errno == errno.EADDRINUSE:
            from asu_builder.doctor.installation import described, listener

            holder = listener(port)
            free = _free_neighbour(host, port)
            other = f", or serve elsewhere: asu-builder {command} --port {free}" if free else ""
            stop = f"Stop it (kill {holder})" if holder else "Stop it"
            raise Unavailable(f"Port {port} is taken by {described(holder)}. {stop}{other}") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            import getpass

            raise SettingsProblem(
                f"{setting}: user {getpass.getuser()} may not open port {port}. Choose one of at least "
                f"{_LOWEST_OF_EVERYBODY}, as with: asu-builder {command} --port 8080"
            ) from error
        raise SettingsProblem(
            f"{setting.replace('port', 'host')}: {host} is no address of this machine ({error.strerror}). "
            "Set it to 127.0.0.1, or to 0.0.0.0 for all."
        ) from error
    return sockets


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(found))


def _free_neighbour(host: str, port: int) -> int | None:
    """The next port that can be had now."""
    for candidate in range(port + 1, min(port + _NEIGHBOURS, 65536)):
        try:
            for family, kind, protocol, _, address in _addresses(host, candidate):
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(address)
        except OSError:
            continue
        return candidate
    return None
