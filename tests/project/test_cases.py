"""Every input that failed in the field, and every fact found with a real ImageBuilder, has its tests."""

import ast
from pathlib import Path

from factories import CASES

TESTS = Path(__file__).resolve().parents[1]
FACTS = CASES.parent / "facts" / "imagebuilder.md"

OF_CASES = {
    "01": ("unit/domain/test_blame.py", "e2e/test_between_states.py"),
    "02": ("unit/domain/test_blame.py",),
    "04": ("unit/domain/test_blame.py",),
    "06": ("unit/domain/test_blame.py",),
    "08": ("unit/domain/test_make.py", "integration/test_odd_upstream.py"),
    "09": ("unit/domain/test_announced.py", "e2e/test_between_states.py"),
    "11": ("unit/upstream/test_lenient.py", "integration/test_upcoming.py"),
    "12": ("unit/upstream/test_lenient.py",),
    "14": ("integration/test_incomplete.py",),
    "15": ("e2e/test_outgoing_proxy.py",),
    "16": ("unit/http/test_failures_on_the_wire.py",),
    "17": ("unit/core/test_builds.py",),
    "19": ("unit/http/test_failures_on_the_wire.py", "e2e/test_who_reads_what.py"),
    "21": ("unit/domain/test_blame.py",),
}
"""Where a test says `Case NN:` and the right value; by the number in a file's name."""

BLAME, IMAGEBUILDER = "unit/domain/test_blame.py", "unit/core/test_imagebuilder.py"
OF_FACTS = {
    "exit 0 does not mean": {IMAGEBUILDER: "exit 0 does not mean", BLAME: "look at stderr after success too"},
    "a manifest can fail": {IMAGEBUILDER: "without any sentence", BLAME: "without any sentence"},
    "a third case beside": {IMAGEBUILDER: "neither `repositories` nor `repositories.conf`"},
    "apk conflicts also come as": {BLAME: "breaks: x[!y]"},
    "the revision that": {"integration/test_wrong_imagebuilder.py": "right after `make info`"},
    "25.12 calls": {BLAME: "`-small-readers`/`-block-readers`"},
    "on apk releases": {"integration/test_pipeline.py": "`sha256` equals `sha256_unsigned`"},
    "quiet times": {"unit/core/test_metrics.py": "quiet times on two cores"},
    "packages that a removal": {IMAGEBUILDER: "a dependency brought back come without a word"},
}
"""Where a test says `Facts §9:` and these words; by how a bullet of the facts on ImageBuilders begins."""


def docstrings(module: str) -> list[str]:
    """What the tests of a module say of themselves."""
    tree = ast.parse((TESTS / module).read_text())
    tests = (
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )
    return [ast.get_docstring(test) or "" for test in tests]


def test_a_case_has_tests_that_quote_its_right_value() -> None:
    for number, modules in OF_CASES.items():
        for module in modules:
            assert any(said.startswith(f"Case {number}: ") for said in docstrings(module)), (number, module)


def test_a_fact_has_tests_that_quote_it() -> None:
    for fact, quotes in OF_FACTS.items():
        for module, words in quotes.items():
            facts = [" ".join(said.split()) for said in docstrings(module) if said.startswith("Facts §9: ")]
            assert any(words in said for said in facts), (fact, module)


def test_no_case_and_no_fact_is_forgotten() -> None:
    """Where they are at hand; the tests above hold everywhere."""
    numbers = {path.name[:2] for path in CASES.glob("[0-9]*")} if CASES.is_dir() else set(OF_CASES)
    assert numbers == set(OF_CASES)
    if FACTS.is_file():
        section = FACTS.read_text().partition("\n## 9.")[2].partition("\n## ")[0]
        bullets = [line.lstrip("-* ").lower() for line in section.splitlines() if line.startswith("- ")]
        assert len(bullets) == len(OF_FACTS)
        for fact in OF_FACTS:
            assert any(bullet.startswith(fact) for bullet in bullets), fact
