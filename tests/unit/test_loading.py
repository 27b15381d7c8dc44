"""Libraries that are loaded late, by many threads at once, are loaded whole.

The deadlock itself comes about once in hundreds of starts, so what is held here is the rule against it.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import pytest

from asu_builder.loading import Late

_SOURCE = Path(__file__).resolve().parents[2] / "src" / "asu_builder"
_SHARED = [
    *(
        path
        for room in ("database", "engines", "store", "upstream")
        for path in (_SOURCE / room).rglob("*.py")
    ),
    *(_SOURCE / name for name in ("outgoing.py", "package_rules.py")),
    *(
        _SOURCE / name
        for name in (
            "http/app.py",
            "http/routes.py",
            "http/server.py",
            "http/api/monitoring.py",
            "http/api/live.py",
        )
    ),
]
_LATE = (
    *("podman", "urllib3", "package_changes", "prometheus_client"),
    *("asu_builder.http.pages", "asu_builder.http.socket_protocol", "asu_builder.http.routes"),
)
_LOADS = re.compile(r"Late\((?:partial\()?(\w+)|@Late\n\s*def (\w+)")


@pytest.mark.parametrize("path", sorted(_SHARED), ids=lambda path: str(path.relative_to(_SOURCE)))
def test_a_library_that_threads_share_is_loaded_late_only_under_the_one_lock(path: Path) -> None:
    above = function = ""
    # What is given to `Late` is called under the lock.
    locked = {name for found in _LOADS.findall(path.read_text()) for name in found if name}
    for line in path.read_text().splitlines():
        words = line.split()
        function = words[words.index("def") + 1].partition("(")[0] if "def" in words else function
        if line.startswith("    ") and words[:1] in (["from"], ["import"]) and words[1].startswith(_LATE):
            assert above in ("with LOADING:", "if TYPE_CHECKING:") or function in locked, line.strip()
        elif words:
            above = line.strip()


def test_what_is_late_is_made_once_by_the_first_who_asks() -> None:
    made: list[object] = []

    @Late
    def slow() -> object:
        sleep(0.05)
        made.append(object())
        return made[-1]

    assert slow.value is None
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: slow(), range(8)))
    assert len(made) == 1 and set(map(id, found)) == {id(made[0])}
