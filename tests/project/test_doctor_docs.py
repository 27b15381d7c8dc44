"""The doctor's page names each check, and nothing else."""

import re
from pathlib import Path

from asu_builder.doctor.report import NAMES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "doctor.md"


def test_the_doctors_page_names_every_check_in_order_and_no_other() -> None:
    table = PAGE.read_text().partition("## Checks")[2].partition("## At the start")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", table, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(NAMES)
    assert all(len(when) > 10 and len(remedy) > 10 for _, when, remedy in rows)
