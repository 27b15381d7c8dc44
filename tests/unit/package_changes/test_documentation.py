import re
from pathlib import Path

from asu_builder.http.rules_service import ServiceSettings, read_settings
from package_changes.files import check_examples
from package_changes.rules import parse_rules

PAGE = (Path(__file__).resolve().parents[3] / "docs/package-changes.md").read_text(encoding="utf-8")


def test_the_example_in_the_documentation_works() -> None:
    found = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert found
    assert check_examples(parse_rules(found[1], source="docs")) == []


def test_the_variables_are_documented_with_their_defaults() -> None:
    defaults = dict(re.findall(r"\| `(PACKAGE_CHANGES_\w+)` \| `?([^`|]*?)`? \|", PAGE))
    assert defaults == {
        "PACKAGE_CHANGES_PATH": "–",
        "PACKAGE_CHANGES_HOST": "127.0.0.1",
        "PACKAGE_CHANGES_PORT": "8081",
    }
    del defaults["PACKAGE_CHANGES_PATH"]
    assert read_settings(defaults) == ServiceSettings()
