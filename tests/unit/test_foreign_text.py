"""No text that a container, a mirror or a client writes keeps the process busy, however hostile it is."""

import ast
import contextlib
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from asu_builder.domain.errors import AsuError
from foreign_text import COVERED, NOT_FOREIGN, PARSERS
from yardstick import fresh_yardstick, grows_in_proportion, yardstick

SOURCE = Path(__file__).parents[2] / "src"
MIB = 1 << 20
READ = (
    *(
        f"asu_builder/{name}"
        for name in (
            "domain",
            "database",
            "engines",
            "store",
            "upstream",
            "client",
            "http",
            "core",
            "cli",
            "signing",
        )
    ),
    "package_changes",
)
"""Packages that read text of others; the rest reads the operator's settings and this machine's files."""
DECODERS = {
    *("parse_qs", "parse_qsl", "SimpleCookie", "b64decode", "signature_length"),
    *("loads", "decode_object", "raw_decode", "convert", "safe_load"),
}
"""What reads text for others, of libraries and of our own."""
SEEDS = (
    "a",
    " ",
    "A-1[",
    "is too big: 1",
    "Package a wants to install file ",
    "  a (no such package):",
    "    required by: a-1[b]",
    "ERROR: a: trying to overwrite ",
    "WARNING: opening https://",
    " * opkg_install_cmd: Cannot install package a-1-1-1",
    "postinst script ",
    "-1",
    "a:",
    "Package: a",
    '{"a":',
    "[",
    "%",
    "\u001b[",
    "",
)


def shapes(seed: str, size: int) -> Iterator[str]:
    """The seed in one line, in many lines, and with carriage returns alone."""
    for end in ("", "\n", "\r"):
        piece = seed + end or "\n"
        yield (piece * (size // len(piece) + 1))[:size]


def read(name: str, text: str) -> None:
    """Gives a parser a text; that it may refuse it is not what is asked."""
    with contextlib.suppress(AsuError, msgspec.MsgspecError, ValueError, KeyError, RecursionError):
        PARSERS[name](text)


def seconds(name: str, text: str) -> float:
    """How long this thread's processor is busy with a text: the best of some tries, for others share it."""
    best = 9.0
    for _ in range(3):
        began = time.thread_time()
        read(name, text)
        best = min(best, time.thread_time() - began)
        if best < 0.03:
            break
    return best


def is_quick(name: str, text: str, yardsticks: float = 5.0) -> bool:
    """Whether a text takes at most so many yardsticks of CPU: 50 ms on a machine whose yardstick is 10 ms.

    The machine may have become slower since the yardstick was measured, so both are measured again.
    """
    if seconds(name, text) <= yardsticks * max(yardstick(), 0.01):
        return True
    return any(seconds(name, text) <= yardsticks * max(fresh_yardstick(), 0.01) for _ in range(4))


@pytest.mark.timed
@pytest.mark.parametrize("name", PARSERS)
def test_a_mebibyte_of_hostile_text_takes_no_time(name: str) -> None:
    slow = []
    for seed in SEEDS:
        for whole, half in zip(shapes(seed, MIB), shapes(seed, MIB // 2), strict=True):
            took = seconds(name, whole)
            assert took <= 5 * max(yardstick(), 0.01) or is_quick(name, whole), (seed, whole[:40], took)
            if took > 0.02:
                slow.append((took, whole, half))
    # What grows faster than its text is among the slowest of a mebibyte, and at each doubling.
    for _, whole, half in sorted(slow)[-3:]:
        twice, large, small = (partial(read, name, text) for text in (whole + whole, whole, half))
        assert any(
            grows_in_proportion(large, small, least=0.01) or grows_in_proportion(twice, large, least=0.01)
            for _ in range(3)
        ), whole[:40]


@pytest.mark.timed
@pytest.mark.parametrize("name", PARSERS)
def test_forty_thousand_characters_without_a_line_break_take_no_time(name: str) -> None:
    for end in ("", " is too big: 5 > 4", "[", ":", " owned by b."):
        assert is_quick(name, "a" * 40_000 + end, yardsticks=2)


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Every function, methods with their class."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}.{inner.name}", inner


def patterns_of(tree: ast.Module) -> set[str]:
    """The names of patterns and decoders that a module makes."""
    return {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and re.search(r"re\.compile|Decoder\(", ast.unparse(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    } | {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and "_opkg(" in ast.unparse(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def readers() -> Iterator[str]:
    """Every function that is named like a parser, looks for a pattern, or decodes."""
    for package in READ:
        for path in sorted((SOURCE / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            parts = path.relative_to(SOURCE).with_suffix("").parts
            module = ".".join(parts).removesuffix(".__init__").removeprefix("asu_builder.")
            patterns = patterns_of(tree)
            for name, node in functions(tree):
                parses = re.match(r"_?(parse|explain|lift)(_|$|ed)", name.rpartition(".")[2])
                names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
                names |= {
                    inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)
                } & DECODERS
                if parses or names & (patterns | DECODERS | {"re"}):
                    yield f"{module}.{name}"


def test_every_reader_of_foreign_text_is_listed() -> None:
    listed = {*PARSERS, *COVERED, *NOT_FOREIGN}
    assert set(readers()) - listed == set(), "list it in tests/foreign_text.py"
    assert set(COVERED.values()) <= set(PARSERS)
