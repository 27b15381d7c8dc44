"""`python -m bench.package_changes`: what an answer of the package-changes service costs."""

import json
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from typing import Any

from asu_builder.http.rules_service import parse_body
from bench.figures import Figure, render_head, render_line
from bench.process import Server, cpu_seconds, free_port, serving
from package_changes.files import built_in_rules

_ROUNDS = 7
_REQUESTS = 3000
_BUDGET = 300

_NAMES = [f"package-{number}" for number in range(143)]
_ASKED: Mapping[str, Any] = {
    "version": "25.12.0",
    "target": "mvebu/cortexa9",
    "profile": "linksys_wrt3200acm",
    "packages": [
        *_NAMES,
        "luci-i18n-opkg-de",
        "luci-i18n-base-en",
        "firewall",
        "opkg",
        "-ppp",
        "luci",
        "nano",
    ],
    "default_packages": [*_NAMES[:60], "base-files", "kmod-dsa-mv88e6xxx"],
    "diff_packages": True,
    "from_version": "24.10.4",
    "from_defaults": [*_NAMES[:60], "base-files"],
}


def main() -> None:
    """Prints the cost of the rules alone, and of a whole answer over HTTP."""
    print(render_head())
    rules = built_in_rules()
    context = parse_body(json.dumps(_ASKED).encode())
    own = Figure("rules applied in-process, 150 packages", "µs", _rounds(lambda: rules.apply(context)))
    print(render_line(own), flush=True)
    port = free_port()
    environment = {"PACKAGE_CHANGES_PORT": str(port)}
    with serving(["asu_builder.http.rules_service"], port, environment=environment, path="/health") as server:
        values = [_cost_of_answers(server) for _ in range(_ROUNDS)]
        print(render_line(Figure("POST /apply, 150 packages, CPU of the service", "µs", values, _BUDGET)))
        print(render_line(Figure("start: exec to first answer, CPU", "ms", [server.start_cpu * 1000])))


def _rounds(call: Callable[[], object]) -> list[float]:
    costs = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        for _ in range(_REQUESTS):
            call()
        costs.append((time.process_time() - began) / _REQUESTS * 1e6)
    return costs


def _cost_of_answers(server: Server) -> float:
    body = json.dumps(_ASKED)
    connection = HTTPConnection("127.0.0.1", server.port)
    before = cpu_seconds(server.pid)
    for _ in range(_REQUESTS):
        connection.request("POST", "/apply", body)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {content[:200]!r}")
    spent = cpu_seconds(server.pid) - before
    connection.close()
    return spent / _REQUESTS * 1e6


if __name__ == "__main__":
    main()
