"""Rules of the house that a tool can check: layers, sizes, names."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MODULE_LINES, FUNCTION_LINES = 500, 80
BANNED_WORDS = {
    *("util", "utils", "helper", "helpers", "common", "misc", "manager", "handler", "processor"),
}
BANNED_ALONE = {"data", "info", "utils"}
# The field's own words, and what a library asks for by name.
_ALLOWED = re.compile(r"PackageManager|package_manager|_manager|do_(GET|HEAD)|info")


def in_all(broken: Callable[[Path], list[str]]) -> list[str]:
    """What breaks a rule, in all files of the program."""
    return [f"{source.relative_to(ROOT)}: {fault}" for source in SOURCES for fault in broken(source)]


@cache
def parsed(source: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(source.read_text())


def definitions(source: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Every function and class in a file."""
    for node in ast.walk(parsed(source)):
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


def test_a_module_can_be_read_in_one_sitting() -> None:
    def too_long(source: Path) -> list[str]:
        lines = len(source.read_text().splitlines())
        return [f"{lines} lines"] if lines > MODULE_LINES else []

    assert in_all(too_long) == []


def test_a_function_fits_on_a_screen() -> None:
    def too_long(source: Path) -> list[str]:
        return [
            f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
            for node in definitions(source)
            if not isinstance(node, ast.ClassDef)
            and node.end_lineno is not None
            and node.end_lineno - node.lineno >= FUNCTION_LINES
        ]

    assert in_all(too_long) == []


def test_a_name_says_what_a_thing_is() -> None:
    def vague(source: Path) -> list[str]:
        return [
            name
            for name in (source.stem, *(node.name for node in definitions(source)))
            if not _ALLOWED.fullmatch(name)
            and (
                words_of(name) & BANNED_WORDS
                or name in BANNED_ALONE
                or name.lstrip("_").startswith(("do_", "process_"))
            )
        ]

    assert in_all(vague) == []


def test_a_module_and_what_it_offers_are_explained() -> None:
    def unexplained(source: Path) -> list[str]:
        public = [
            node
            for node in parsed(source).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
        ]
        module = [] if source.stat().st_size == 0 or ast.get_docstring(parsed(source)) else ["the module"]
        return module + [node.name for node in public if not ast.get_docstring(node)]

    assert in_all(unexplained) == []


def test_names_are_split_into_their_words() -> None:
    assert words_of("PackageManager") == {"package", "manager"}
    assert words_of("_read_HTTPHandler2") == {"read", "http", "handler2"}
    assert words_of("common_headers") == {"common", "headers"}


def test_no_struct_is_described_to_msgspec_while_threads_run() -> None:
    """Two threads that decode a struct for the first time crash the process (values-are-structs.md)."""

    def described_late(source: Path) -> list[str]:
        calls = [node for node in ast.walk(parsed(source)) if isinstance(node, ast.Call)]
        decodes = [
            call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "decode"
        ]
        late = [call for call in decodes if any(keyword.arg == "type" for keyword in call.keywords)]
        return [f"line {call.lineno}" for call in late]

    assert in_all(described_late) == []
