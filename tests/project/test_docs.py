"""The documentation names everything there is, with the values it has."""

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import fields

from asu_builder import __version__
from asu_builder.domain import reading
from asu_builder.domain.errors import FailureReason
from asu_builder.domain.job import Stage
from asu_builder.http.api.configuration import MEANINGS
from asu_builder.http.api.monitoring import HealthDocument
from asu_builder.http.api.wire import ImageDocument, Problem
from asu_builder.http.routes import OPERATIONS
from asu_builder.settings import SETTING_NAMES, Settings, Size, load_settings, parse_duration, parse_size
from asu_builder.upstream import documents, memory

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
    if isinstance(value, Mapping) or (isinstance(value, tuple) and value):
        return msgspec.json.encode(msgspec.json.decode(cell.strip("`"))) == msgspec.json.encode(
            dict(value) if isinstance(value, Mapping) else value
        )
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


def test_exactly_the_settings_that_exist_are_explained_with_their_true_defaults() -> None:
    rows = table_of(DOCS / "settings.md")
    assert set(rows) == set(SETTING_NAMES)
    documented = {name: rows[name][0] for name in SETTING_NAMES}
    wrong = {name: cell for name, cell in documented.items() if not means(cell, default_of(name))}
    assert wrong == {}
    assert [name for name in SETTING_NAMES if len(rows[name][1]) <= 10] == []


def test_the_configuration_page_explains_the_settings_in_the_same_words() -> None:
    rows = table_of(DOCS / "settings.md")
    documented = {name: re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", rows[name][1]) for name in SETTING_NAMES}
    assert documented == {name: MEANINGS[name] for name in SETTING_NAMES}


def test_every_setting_is_in_the_example() -> None:
    example = EXAMPLE.read_text()
    missing = [name for name in SETTING_NAMES if not re.search(rf"^(# ?)?{name}:", example, re.MULTILINE)]
    assert missing == []


def test_the_example_loads_and_says_the_defaults() -> None:
    assert load_settings({}, (EXAMPLE,)) == Settings()


def test_exactly_the_reasons_to_fail_that_exist_are_explained_with_their_side() -> None:
    rows = {name: row for name, row in table_of(DOCS / "errors.md").items() if re.fullmatch("[a-z_]+", name)}
    sides = {name: row[0] for name, row in rows.items()}
    assert sides == {
        str(reason): f"{reason.fault}, retried" if reason.retried else str(reason.fault)
        for reason in FailureReason
    }
    assert [name for name, row in rows.items() if len(row[1]) <= 10] == []


def test_every_address_is_in_the_description_of_the_interface() -> None:
    text = _addresses()
    addresses = [operation.address for operation in OPERATIONS]
    assert [one for one in addresses if f"`{one}`" not in text and f" {one}`" not in text] == []


def _addresses() -> str:
    return (DOCS / "api.md").read_text()


def test_every_stage_that_clients_see_is_explained() -> None:
    assert [stage for stage in Stage if f"`{stage}`" not in _addresses()] == []


def test_every_field_that_clients_read_is_named() -> None:
    text = _addresses() + (DOCS / "errors.md").read_text()
    fields_read = [
        field for kind in (ImageDocument, HealthDocument, Problem) for field in kind.__struct_fields__
    ]
    assert [field for field in fields_read if not re.search(rf"[`\"]{field}[`\"]", text)] == []


def test_lock_files_name_no_registry_and_pin_everything_by_hash() -> None:
    for lock in LOCKS:
        text = lock.read_text()
        assert "://" not in text and "index-url" not in text and "find-links" not in text, lock
        requirements = re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).strip())
        assert len(requirements) > 10 or lock.stem == "helm", lock
        for requirement in requirements:
            assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==\S+", requirement), requirement
            assert "--hash=sha256:" in requirement, requirement


def test_there_are_lock_files_for_running_and_for_developing() -> None:
    assert {"runtime.txt", "dev.txt"} <= {lock.name for lock in LOCKS}


def test_the_changelog_starts_with_what_this_version_is() -> None:
    (newest, *_) = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest in (__version__, "Unreleased")


def test_every_link_in_the_documentation_leads_somewhere() -> None:
    for document in sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")]):
        text = document.read_text()
        assert text.startswith("# "), document
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            assert "://" in target or (document.parent / target).exists(), f"{document}: {target}"


def test_the_address_of_a_repository_of_apk_is_shown_down_to_its_index() -> None:
    for page in ("how-to/repositories.md", "api.md"):
        text = (DOCS / page).read_text()
        assert "/packages.adb" in text, page
        for address in re.findall(r"https://[^\s\"`]*/25\.12[^\s\"`]*", text):
            assert address.endswith("/packages.adb"), (page, address)


def test_how_long_documents_of_upstream_are_believed_is_as_the_table_says() -> None:
    kinds = {
        "lists": documents.LISTS_STALE,
        "of a release": documents.RELEASE_STALE,
        "of a snapshot": documents.SNAPSHOT_STALE,
    }
    first, again, beside = (
        f"{reading.FIRST_SECONDS:g} s",
        f"{reading.AGAIN_SECONDS:g} s",
        f"{reading.BESIDE_SECONDS:g} s where the answer can do without",
    )
    days = {kind: stale // timedelta(days=1) for kind, stale in kinds.items()}
    assert timedelta(minutes=5) == memory.FRESH_FOR
    text = (DOCS / "api.md").read_text()
    for row in (
        f"| `.versions.json`, `.targets.json`, `.overview.json` | 5 min | {first}; {beside} | {again} | "
        f"{days['lists']} days |",
        "| profiles, indexes and feeds of a release | 5 min "
        f"| {first} | {again} | {days['of a release']} days |",
        "| profiles, indexes and feeds of a snapshot | 5 min "
        f"| {first} | {again} | {days['of a snapshot']} day |",
        f'| "there is no such document" | {memory.MISSING_FOR // timedelta(minutes=1)} min | – | '
        f"{again} | {documents.MISSING_STALE // timedelta(hours=1)} hour |",
    ):
        assert row in text
