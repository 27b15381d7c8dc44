"""`asu-package-changes`: the package rules as a service of their own, behind the same door as the builder."""

import logging
import os
import signal
import sys
import time

import uvicorn

from asu_builder.http.door import Door
from asu_builder.http.server import server_config
from asu_builder.settings import Settings
from package_changes.service import ServiceSettings, ServiceSettingsProblem, create_service, read_settings
from package_changes.watch import RulesFile

_WRONG_SETTING = 2
_USAGE = """\
asu-package-changes: serves package rules over HTTP. It takes variables and no arguments:
  PACKAGE_CHANGES_PATH  a rules file, watched while it serves (the built-in rules)
  PACKAGE_CHANGES_HOST  the address to listen on (127.0.0.1)
  PACKAGE_CHANGES_PORT  the port to listen on (8081)
"""


def rules_config(settings: ServiceSettings, limits: Settings | None = None) -> uvicorn.Config:
    """uvicorn's options for the service; `limits` are those of the builder unless others are given."""
    door = Door(limits, large_bodies=lambda path: path == "/apply")
    app = create_service(RulesFile(settings.path))
    return server_config(app, settings.host, settings.port, door=door)


def main() -> None:
    """Runs the service until it is told to stop (SIGTERM or Ctrl-C)."""
    if sys.argv[1:]:
        wanted = sys.argv[1] in ("-h", "--help")
        (sys.stdout if wanted else sys.stderr).write(_USAGE)
        sys.exit(0 if wanted else _WRONG_SETTING)
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%SZ",
    )
    try:
        settings = read_settings(os.environ)
    except ServiceSettingsProblem as problem:
        sys.stderr.write(f"asu-package-changes: {problem}\n")
        sys.exit(_WRONG_SETTING)
    # uvicorn passes the signal that ended it to the former handler; without one, a normal end is a crash.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(rules_config(settings)).run()


if __name__ == "__main__":
    main()
