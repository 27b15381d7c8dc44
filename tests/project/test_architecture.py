"""Rules of the house that a tool can check: layers, sizes, names."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MODULE_LINES, FUNCTION_LINES = 300, 60
BANNED_WORDS = {
    *("util", "utils", "helper", "helpers", "common", "misc", "manager", "handler", "processor"),
}
BANNED_ALONE = {"data", "info", "utils"}
# The field's own words, and what a library asks for by name.
_ALLOWED = re.compile(r"PackageManager|package_manager|_manager|do_(GET|HEAD)|info")


def name_of(path: Path) -> str:
    """A file as a test's id."""
    return str(path.relative_to(ROOT))


@pytest.fixture(params=SOURCES, ids=name_of)
def source(request: pytest.FixtureRequest) -> Path:
    """Each file of the program."""
    path: Path = request.param
    return path


def definitions(source: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Every function and class in a file."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def words_of(name: str) -> set[str]:
    """The words an identifier is made of, in small letters."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)}


def test_each_layer_imports_only_what_lies_below_it() -> None:
    command: list[str | Path] = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_a_module_can_be_read_in_one_sitting(source: Path) -> None:
    assert len(source.read_text().splitlines()) <= MODULE_LINES


def test_a_function_fits_on_a_screen(source: Path) -> None:
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in definitions(source)
        if not isinstance(node, ast.ClassDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES
    ]
    assert long == []


def test_a_name_says_what_a_thing_is(source: Path) -> None:
    names = [source.stem, *(node.name for node in definitions(source))]
    vague = [
        name
        for name in names
        if not _ALLOWED.fullmatch(name)
        and (
            words_of(name) & BANNED_WORDS
            or name in BANNED_ALONE
            or name.lstrip("_").startswith(("do_", "process_"))
        )
    ]
    assert vague == []


def test_a_module_and_what_it_offers_are_explained(source: Path) -> None:
    if source.stat().st_size == 0:
        return
    tree = ast.parse(source.read_text())
    assert ast.get_docstring(tree), "the module"
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_names_are_split_into_their_words() -> None:
    assert words_of("PackageManager") == {"package", "manager"}
    assert words_of("_read_HTTPHandler2") == {"read", "http", "handler2"}
    assert words_of("common_headers") == {"common", "headers"}


def test_no_struct_is_described_to_msgspec_while_threads_run(source: Path) -> None:
    """Two threads that decode a struct for the first time crash the process (values-are-structs.md)."""
    calls = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)]
    decodes = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "decode"]
    assert not [call.lineno for call in decodes if any(keyword.arg == "type" for keyword in call.keywords)]
