"""The documentation names everything there is, with the values it has."""

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import NODEFAULT
from msgspec.structs import fields

from asu_builder import __version__
from asu_builder.domain.errors import FailureReason
from asu_builder.domain.job import Stage
from asu_builder.settings import SETTING_NAMES, Settings, Size, load_settings, parse_duration, parse_size
from asu_builder.web.documents import HealthDocument, ImageDocument, Problem
from asu_builder.web.operations import OPERATIONS
from asu_builder.web.setting_meanings import MEANINGS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
EXAMPLE = ROOT / "config.example.yaml"
LOCKS = sorted((ROOT / "locks").glob("*.txt"))


def table_of(document: Path) -> Mapping[str, list[str]]:
    """Rows of all tables in a document, by their first cell in backticks; the other cells."""
    rows = {}
    lines = document.read_text().splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if below.startswith("|---"):
            continue
        if match := re.match(r"\| `([^`]+)` \|(.*)\|$", line):
            rows[match[1]] = [cell.strip() for cell in match[2].split(" | ")]
    return rows


def default_of(name: str) -> object:
    """What a setting is when nobody chooses."""
    (field,) = [field for field in fields(Settings) if field.name == name]
    if field.default_factory is dict:
        return {}
    return None if field.default is NODEFAULT else field.default


def means(cell: str, value: object) -> bool:
    """Whether a documented default is the true one."""
    text = cell.strip("`").strip('"')
    if isinstance(value, timedelta):
        return parse_duration(text) == value
    if isinstance(value, Size):
        return parse_size(text) == value
    if isinstance(value, bool):
        return text == str(value).lower()
    if value is None:
        return "`" not in cell
    return text == ("[]" if value == () else str(value))


@pytest.mark.parametrize("name", SETTING_NAMES)
def test_a_setting_is_explained_with_its_true_default(name: str) -> None:
    rows = table_of(DOCS / "settings.md")
    assert name in rows
    default, meaning = rows[name][0], rows[name][1]
    assert means(default, default_of(name)), (default, default_of(name))
    assert len(meaning) > 10


def test_no_setting_is_explained_that_does_not_exist() -> None:
    assert set(table_of(DOCS / "settings.md")) == set(SETTING_NAMES)


@pytest.mark.parametrize("name", SETTING_NAMES)
def test_the_configuration_page_explains_a_setting_in_the_same_words(name: str) -> None:
    documented = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", table_of(DOCS / "settings.md")[name][1])
    assert MEANINGS[name] == documented


@pytest.mark.parametrize("name", SETTING_NAMES)
def test_a_setting_is_in_the_example(name: str) -> None:
    assert re.search(rf"^(# ?)?{name}:", EXAMPLE.read_text(), re.MULTILINE)


def test_the_example_loads_and_says_the_defaults() -> None:
    assert load_settings({}, (EXAMPLE,)) == Settings()


@pytest.mark.parametrize("reason", list(FailureReason))
def test_a_reason_to_fail_is_explained_with_its_side(reason: FailureReason) -> None:
    rows = table_of(DOCS / "errors.md")
    assert reason in rows
    expected = f"{reason.fault}, retried" if reason.retried else str(reason.fault)
    assert rows[reason][0] == expected
    assert len(rows[reason][1]) > 10


def test_no_reason_is_explained_that_does_not_exist() -> None:
    reasons = [name for name in table_of(DOCS / "errors.md") if re.fullmatch("[a-z_]+", name)]
    assert set(reasons) == set(FailureReason)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.path)
def test_an_address_is_in_the_description_of_the_interface(operation: object) -> None:
    address = getattr(operation, "address")  # noqa: B009 - the type is the web layer's own
    assert f"`{address}`" in _addresses() or f" {address}`" in _addresses()


def _addresses() -> str:
    return (DOCS / "api.md").read_text()


@pytest.mark.parametrize("stage", list(Stage))
def test_a_stage_that_clients_see_is_explained(stage: Stage) -> None:
    assert f"`{stage}`" in _addresses()


@pytest.mark.parametrize(
    "field", [field for kind in (ImageDocument, HealthDocument, Problem) for field in kind.__struct_fields__]
)
def test_a_field_that_clients_read_is_named(field: str) -> None:
    assert re.search(rf"[`\"]{field}[`\"]", _addresses() + (DOCS / "errors.md").read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_file_names_no_registry_and_pins_everything_by_hash(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text and "index-url" not in text and "find-links" not in text
    requirements = re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).strip())
    assert len(requirements) > 10
    for requirement in requirements:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


def test_there_are_lock_files_for_running_and_for_developing() -> None:
    assert {"runtime.txt", "dev.txt"} <= {lock.name for lock in LOCKS}


def test_the_changelog_starts_with_what_this_version_is() -> None:
    (newest, *_) = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest in (__version__, "Unreleased")


@pytest.mark.parametrize(
    "document", sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")]), ids=lambda path: path.name
)
def test_a_link_in_the_documentation_leads_somewhere(document: Path) -> None:
    text = document.read_text()
    assert text.startswith("# ")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target
