"""`python -m bench.package_changes`: what an answer of the package-changes service costs."""

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from asu_builder.http.rules_service import parse_body
from bench import load
from bench.figures import Figure, Yardstick, alternate, render_head, render_line
from bench.process import Server, free_port, serving
from bench.scenarios import cost
from bench.yardsticks import hello
from package_changes.files import built_in_rules

_ROUNDS = 7
_REQUESTS = 3000
_BUDGET = 15
"""Times a raw hello, one request at a time."""

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
    rules_service = serving(["asu_builder.http.rules_service"], port, environment=environment, path="/health")
    with hello() as raw, rules_service as server:
        apply = load.post("/apply", json.dumps(_ASKED).encode())
        measures = {"apply": partial(_spend, server, apply), "hello": partial(_spend, raw, load.get("/"))}
        spent = alternate(_ROUNDS, measures)
        known = Yardstick("raw hello", spent["hello"])
        print(render_line(Figure("POST /apply, 150 packages, CPU", "µs", spent["apply"], _BUDGET, known)))
        print(render_line(Figure("start: exec to first answer, CPU", "ms", [server.start_cpu * 1000])))


def _rounds(call: Callable[[], object]) -> list[float]:
    costs = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        for _ in range(_REQUESTS):
            call()
        costs.append((time.process_time() - began) / _REQUESTS * 1e6)
    return costs


def _spend(server: Server, request: bytes) -> float:
    return cost(server, [request], count=_REQUESTS, connections=1)[0]


if __name__ == "__main__":
    main()
