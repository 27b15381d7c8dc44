"""docs/architecture.md and CONTRIBUTING.md: rooms, layers and names that they mention exist."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
PAGE = ROOT / "docs/architecture.md"
PAGES = (PAGE, ROOT / "CONTRIBUTING.md")
_NAMED = re.compile(r"`([\w./-]+)::([\w.]+)`")
_FILE = re.compile(r"`([\w-]+(?:/[\w.-]+)+|pyproject\.toml|[A-Z]+\.md)`")
CHANGES = (
    *("request field", "error", "reason why builds fail", "page", "endpoint", "package rule", "engine"),
    *("database", "setting", "metric"),
)
"""What CONTRIBUTING.md says the files of."""


def drawing(heading: str) -> list[str]:
    """The lines of the first drawing below a heading of the page."""
    below = PAGE.read_text().partition(f"\n## {heading}\n")[2]
    return below.split("```")[1].splitlines()[1:]


def drawn_rooms(lines: list[str]) -> Iterator[str]:
    """The paths in a drawn tree, two columns a level; names end at a wide gap or the line's end."""
    above: list[str] = []
    for line in filter(None, lines):
        indented, entry = re.fullmatch(r"( *)(.*)", line).groups()  # type: ignore[union-attr]
        for name in re.split(r" {2,}", entry)[0].split():
            above[len(indented) // 2 :] = [name.rstrip("/")]
            yield "/".join(above)


def parts_of(folder: Path) -> set[str]:
    """The packages and modules in a folder."""
    return {
        found.stem
        for found in folder.iterdir()
        if (found.suffix == ".py" and found.stem != "__init__") or (found / "__init__.py").exists()
    }


def module_of(path: str) -> Path | None:
    """The file of a mentioned path; those of the program are told below src/asu_builder."""
    for base in (SOURCE / "asu_builder", SOURCE, ROOT):
        for file in (base / path, base / f"{path}.py", base / path / "__init__.py"):
            if file.is_file():
                return file
    return None


def exists_inside(path: str) -> bool:
    """Whether a mentioned folder or file is one of the program's."""
    return module_of(path) is not None or (SOURCE / "asu_builder" / path).exists()


def defined(body: list[ast.stmt]) -> Iterator[tuple[str, list[ast.stmt]]]:
    """The names that statements define, each with what is inside."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.body
        elif isinstance(node, ast.Assign):
            yield from ((target.id, []) for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, []


def resolves(path: str, name: str) -> bool:
    """Whether a file defines a name; `Class.method` looks into the class."""
    file = module_of(path)
    if file is None:
        return False
    if file.suffix != ".py":
        return name in file.read_text()
    body = ast.parse(file.read_text()).body
    for part in name.split("."):
        found = dict(defined(body))
        if part not in found:
            return False
        body = found[part]
    return True


def test_the_drawn_layers_are_those_that_the_linter_holds() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    assert [re.split(r" {3,}", line)[0].strip() for line in drawing("Layers")] == layers


def test_the_drawn_rooms_are_those_of_the_tree() -> None:
    drawn = set(drawn_rooms(drawing("Rooms")))
    there = {f"asu_builder/{name}" for name in parts_of(SOURCE / "asu_builder") - {"__main__"}}
    there |= {f"asu_builder/engines/{name}" for name in ("local", "podman")}
    there |= {f"asu_builder/http/{name}" for name in ("api", "pages")}
    assert drawn == there | parts_of(SOURCE) | {"asu_builder"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_name_that_a_page_mentions_exists(page: Path) -> None:
    named = _NAMED.findall(page.read_text())
    assert len(named) >= 10
    assert [f"{path}::{name}" for path, name in named if not resolves(path, name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_that_a_page_mentions_exists(page: Path) -> None:
    named = _FILE.findall(page.read_text())
    assert [file for file in named if not (ROOT / file).exists() and not exists_inside(file)] == []


def test_the_files_of_each_kind_of_change_are_named() -> None:
    rows = re.findall(r"(?m)^\| an? ([a-z ]+) \| (.*) \| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text())
    assert set(CHANGES) <= {change for change, _, _ in rows}
    assert all("`" in files and "`tests/" in held_by for _, files, held_by in rows)


def test_names_are_told_from_what_is_not_there() -> None:
    assert resolves("domain/job", "Job") and resolves("domain/job.py", "JobState.PENDING")
    assert not resolves("domain/job", "Jobs") and not resolves("domain/nothing", "Job")
    assert list(drawn_rooms(["a/  first", "  b c   two", "d"])) == ["a", "a/b", "a/c", "d"]
