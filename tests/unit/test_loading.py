"""Libraries that are loaded late, by many threads at once, are loaded whole.

The deadlock itself comes about once in hundreds of starts, so what is held here is the rule against it.
"""

from pathlib import Path

import pytest

_SOURCE = Path(__file__).resolve().parents[2] / "src" / "asu_builder"
_SHARED = [
    *(
        path
        for room in ("database", "engines", "store", "upstream")
        for path in (_SOURCE / room).rglob("*.py")
    ),
    *(_SOURCE / name for name in ("outgoing.py", "package_rules.py")),
    *(_SOURCE / name for name in ("http/app.py", "http/late.py", "http/api/metrics.py")),
]
_LATE = (
    *("podman", "urllib3", "package_changes", "prometheus_client"),
    "asu_builder.http.pages",
)


@pytest.mark.parametrize("path", sorted(_SHARED), ids=lambda path: str(path.relative_to(_SOURCE)))
def test_a_library_that_threads_share_is_loaded_late_only_under_the_one_lock(path: Path) -> None:
    above = ""
    for line in path.read_text().splitlines():
        words = line.split()
        if line.startswith("    ") and words[:1] in (["from"], ["import"]) and words[1].startswith(_LATE):
            assert above in ("with LOADING:", "if TYPE_CHECKING:"), line.strip()
        elif words:
            above = line.strip()
