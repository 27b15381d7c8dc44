"""Which long tests a change concerns: `python tests/long_tests.py BASE` prints their files.

A test is concerned when a file has changed since BASE that it imports, directly or not, or that is
part of what it starts. A test that starts the service or a target of the Makefile starts everything.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_ROOTS = (ROOT / "src", ROOT / "tests", ROOT)
_STARTERS = {"subprocess", "multiprocessing"}
_PAGES = (".md", ".png", ".svg")
"""Endings of files that only tests of the documentation read, which import `documents`."""
_NO_PRODUCT = ("tests", "docs", ".ci", ".devcontainer", ".github", ".editorconfig", ".pre-commit-config.yaml")
"""What lies at the top and is neither started nor made: tests, and what only contributors use."""


def concerned(changed: Iterable[Path], tests: Iterable[Path]) -> list[Path]:
    """The tests among `tests` that import or start one of the changed files (absolute paths)."""
    found = []
    changed = set(changed)
    files = {path for path in changed if path.suffix not in _PAGES}
    for test in tests:
        needed = imports_of(test)
        started = {path for path in files if _is_product(path)} if _starts_processes(needed) else set()
        read = files < changed and ROOT / "tests/documents.py" in needed
        if files & needed or started or read:
            found.append(test)
    return found


def long_tests() -> list[Path]:
    """Files of tests that hold a test marked `long`, or a property, which runs longer there."""
    marks = ("pytest.mark.long", "pytest.mark.hypothesis", "from hypothesis import")
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [path for path in files if any(mark in path.read_text() for mark in marks)]


def imports_of(path: Path) -> set[Path]:
    """The file, the conftest files above it, and all files of this project that they import."""
    waiting = [path, *(folder / "conftest.py" for folder in path.parents if ROOT in folder.parents)]
    found: set[Path] = set()
    while waiting:
        if (one := waiting.pop()) not in found and one.is_file():
            found.add(one)
            waiting.extend(_imported(one))
    return found


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    return tuple(file for name in _names(path) for file in _files_of(name, path))


def _names(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever it does; `pytest_plugins` counts."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "." * node.level + (node.module or "")
            yield package
            yield from (f"{package.rstrip('.')}.{alias.name}" for alias in node.names if package.strip("."))
            if not package.strip("."):
                yield from (f"{package}{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytest_plugins":
            yield from ast.literal_eval(node.value)


def _files_of(name: str, importer: Path) -> Iterator[Path]:
    """The module of that name and the packages above it."""
    level = len(name) - len(name.lstrip("."))
    roots: Iterable[Path] = _ROOTS if not level else (importer.parents[level - 1],)
    parts = [part for part in name.split(".") if part]
    for root in roots:
        for end in range(1, len(parts) + 1):
            place = root.joinpath(*parts[:end])
            yield from (file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file())


@cache
def _starts(path: Path) -> bool:
    return any(name.partition(".")[0] in _STARTERS for name in _names(path))


def _starts_processes(files: set[Path]) -> bool:
    """The fixtures that all tests share do not count: few tests use them, and those import more."""
    return any(_starts(path) for path in files - _shared() if ROOT / "tests" in path.parents)


@cache
def _shared() -> frozenset[Path]:
    return frozenset(imports_of(ROOT / "tests/conftest.py"))


def _is_product(path: Path) -> bool:
    """Whether a file is part of what is started or made."""
    return path.relative_to(ROOT).parts[0] not in _NO_PRODUCT


def _changed_since(base: str) -> list[Path]:
    names = subprocess.run(
        ["git", "diff", "--name-only", "-z", base], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [ROOT / name for name in names.stdout.split("\0") if name]


if __name__ == "__main__":
    sys.stdout.write(
        " ".join(str(path.relative_to(ROOT)) for path in concerned(_changed_since(sys.argv[1]), long_tests()))
    )
