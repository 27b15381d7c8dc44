"""`make house`: the figures of the house, beside those at the start of issue 15 (docs/architecture.md).

Counts modules, code lines, importers, private names and old words in `src`, and the hops of two ways: how
many functions of ours are entered from a POST to the finished build, and by a poll answered from memory.
`--limits` fails when a target is broken, `--words` prints where the old words stand, `--hops` which functions
were entered, `--names` which modules and private names were counted.
"""

import argparse
import ast
import io
import re
import sqlite3
import sys
import tempfile
import threading
import time
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
SMALL_MODULE = 60
FULL_FOLDER = 20
LONGEST_ROUND_SECONDS = 11
"""An idle service looks at its components every ten seconds; that is no part of a build."""

# Counted by this script on the tree that the issue met (commit f1db436).
AT_THE_START = {
    "modules": 326,
    "code lines": 28_574,
    "modules with a single importer": 129,
    "of them small, importer in their folder": 37,
    "functions": 2_733,
    "private names referenced once": 665,
    "folders above 20 modules": 6,
    "basenames that repeat": 33,
    "old words": 1_941,
    "hops from POST to done": 307,
    "hops of a poll from memory": 10,
}
LIMITS = {
    "modules": 165,
    "code lines": 25_074,
    "private names referenced once": 250,
    "folders above 20 modules": 0,
    "hops from POST to done": 153,
    "hops of a poll from memory": 8,
    "old words": 0,
}

# style.md, §6, and what it says of prose. These are wrong anywhere: in prose and within identifiers.
OLD_WORDS = (
    "askers?|sunk|is_asked_anew|anew|suspects|suspicion|overheard|heard|hush|require_life|ledger|wishes"
    "|complain|patiently|nobody|whoever|doubtful|of its own"
)
# These are wrong as identifiers, with or without a leading `_`; in prose they may be right.
OLD_NAMES = (
    "give_up_idle|asked_at|Interest|note_interest|Patience|Keeping|keep_for|kept_for|keep_failure_for|keep_until"
    "|alone|Crowds?|Gathering|Bell|ring|Recording|World|reach|doors|Life|FrontDoor|Passage|see_through"
    "|Kept|Asked|recall|Memory|Remembered|Together|Shared|covering|strike|Witness|Trial|UNSEEN|LATE|BESIDE"
    "|FAR|BACK|hold_lease|turn|Act|Answer|Reply|Heard|Place|Verdict|Finding|well|Laps|Gauges|Measures"
    "|Exposition|Scrapes|Wishes|told|who|opening|keeping|here"
)
_WORD = re.compile(rf"(?<![A-Za-z])(?:{OLD_WORDS})(?![A-Za-z])", re.IGNORECASE)
_NAME = re.compile(rf"(?<!\w)(?:_?(?:{OLD_NAMES})|_tell)(?!\w)")
_CODE_IN_PROSE = re.compile(r"`[^`\n]+`")
_DOTTED = re.compile(r"[A-Za-z_][\w.]*(?::\w+)?")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A module of the program."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        """Its source."""
        return self.path.read_text()

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return ast.parse(self.text)

    @cached_property
    def code_lines(self) -> int:
        """Lines that hold code: no blank line, comment or docstring."""
        skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in skipped and token.type != tokenize.ENDMARKER:
                lines.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            # A docstring, also one below an attribute.
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and node.value.value != ...
            ):
                lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        return len(lines)

    @property
    def functions(self) -> Iterator[Function]:
        """Functions and methods, nested ones too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))

    def private_once(self) -> list[str]:
        """Private functions, methods and classes that the module refers to once."""
        references = Counter(
            node.id if isinstance(node, ast.Name) else node.attr
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Name | ast.Attribute)
        )
        return [
            node.name
            for node in ast.walk(self.tree)
            if isinstance(node, Function | ast.ClassDef)
            and node.name.startswith("_")
            and not node.name.endswith("__")
            and references[node.name] == 1
        ]

    def imports(self) -> Iterator[str]:
        """Every name that may be a module it imports, also those in texts, for late imports."""
        package = self.name.split(".") if self.path.name == "__init__.py" else self.name.split(".")[:-1]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                yield source
                yield from (f"{source}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Constant) and _DOTTED.fullmatch(str(node.value)):
                yield str(node.value).partition(":")[0]


def read_modules() -> dict[str, Module]:
    """All modules below `src` by their dotted names; a package's docstring alone is none."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        module = Module(name, path)
        if module.code_lines:
            found[name] = module
    return found


def find_importers(modules: dict[str, Module]) -> dict[str, set[str]]:
    """Who imports each module."""
    importers: dict[str, set[str]] = {name: set() for name in modules}
    for module in modules.values():
        for name in module.imports():
            if name in importers and name != module.name:
                importers[name].add(module.name)
    return importers


def old_words() -> Iterator[tuple[str, int, str]]:
    """File, line and word for each old word in `src` and in docs outside of decisions."""
    for path in sorted(SOURCE.rglob("*")):
        if path.suffix == ".py":
            yield from _old_words_of_code(path)
        elif path.suffix in (".html", ".js", ".yaml"):
            yield from _old_words_of_prose(path)
    decisions = ROOT / "docs" / "decisions"
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        if decisions not in path.parents:
            yield from _old_words_of_prose(path)


def _old_words_of_code(path: Path) -> Iterator[tuple[str, int, str]]:
    relative = str(path.relative_to(ROOT))
    text = path.read_text()
    for number, line in enumerate(text.splitlines(), start=1):
        yield from ((relative, number, match[0]) for match in _WORD.finditer(line))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and _NAME.fullmatch(token.string):
            yield relative, token.start[0], token.string


def _old_words_of_prose(path: Path) -> Iterator[tuple[str, int, str]]:
    relative = str(path.relative_to(ROOT))
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        yield from ((relative, number, match[0]) for match in _WORD.finditer(line))
        for code in _CODE_IN_PROSE.findall(line) if path.suffix == ".md" else ():
            yield from ((relative, number, match[0]) for match in _NAME.finditer(code))


@dataclass(frozen=True)
class Longest:
    """The longest module or function."""

    lines: int
    name: str

    def __str__(self) -> str:
        return f"{self.lines} ({self.name})"


def measure_source(modules: dict[str, Module]) -> dict[str, int | Longest]:
    """Every figure that the source alone tells."""
    importers = find_importers(modules)
    single = [name for name, found in importers.items() if len(found) == 1]
    folders = Counter(module.path.parent for module in modules.values())
    basenames = Counter(
        module.path.name
        for module in modules.values()
        if module.path.name not in ("__init__.py", "__main__.py")
    )
    functions = [(module, function) for module in modules.values() for function in module.functions]
    return {
        "modules": len(modules),
        "code lines": sum(module.code_lines for module in modules.values()),
        "modules with a single importer": len(single),
        "of them small, importer in their folder": len(find_small(modules, importers)),
        "functions": len(functions),
        "private names referenced once": sum(len(module.private_once()) for module in modules.values()),
        f"folders above {FULL_FOLDER} modules": sum(count > FULL_FOLDER for count in folders.values()),
        "basenames that repeat": sum(count > 1 for count in basenames.values()),
        "old words": sum(1 for _ in old_words()),
        "longest module": max(
            (Longest(len(module.text.splitlines()), module.name) for module in modules.values()),
            key=lambda longest: longest.lines,
        ),
        "longest function": max(
            (
                Longest((function.end_lineno or 0) - function.lineno + 1, f"{module.name}:{function.name}")
                for module, function in functions
            ),
            key=lambda longest: longest.lines,
        ),
    }


def find_small(modules: dict[str, Module], importers: dict[str, set[str]]) -> list[str]:
    """Modules under 60 code lines that one module of the same folder imports."""
    return [
        name
        for name, found in importers.items()
        if len(found) == 1
        and modules[name].code_lines < SMALL_MODULE
        and modules[name].path.parent == modules[next(iter(found))].path.parent
    ]


class Profiler:
    """Notes which functions of ours are entered, in all threads."""

    def __init__(self, modules: Iterable[Module]) -> None:
        self._paths = {
            str(module.path): module for module in modules if not module.name.startswith("asu_sample")
        }
        self._properties = {
            (str(module.path), function.name)
            for module in self._paths.values()
            for function in module.functions
            if any("property" in ast.unparse(decorator) for decorator in function.decorator_list)
        }
        self._entered: set[CodeType] = set()

    def __enter__(self) -> "Profiler":
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def entered_during(self, action: Callable[[], object]) -> set[str]:
        """The functions entered while an action runs."""
        entered: set[CodeType] = set()
        self._entered = entered
        action()
        self._entered = set()
        return {
            f"{self._paths[code.co_filename].name}:{code.co_qualname}"
            for code in entered
            if code.co_filename in self._paths and self._counts(code)
        }

    def _counts(self, code: CodeType) -> bool:
        """Left out: comprehensions and lambdas (`<…>`), class bodies, properties."""
        return (
            not code.co_name.startswith("<")
            and bool(code.co_flags & CO_OPTIMIZED)
            and (code.co_filename, code.co_name) not in self._properties
        )

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            self._entered.add(frame.f_code)


def measure_hops(modules: dict[str, Module]) -> dict[str, set[str]]:
    """The functions on the way of a POST and of a poll, without what an idle service does meanwhile."""
    from asgi_client import AsgiClient
    from asu_builder.app import assemble
    from asu_builder.settings import Settings
    from asu_sample.distribution import write_distribution
    from asu_sample.server import DownloadServer
    from factories import eventually

    with tempfile.TemporaryDirectory() as folder, Profiler(modules.values()) as profiler:
        root = Path(folder)
        world = write_distribution(root / "sample")
        with DownloadServer(world.downloads) as server:
            settings = Settings(
                database_path=root / "data" / "a.db",
                public_path=root / "public",
                upstream_url=server.url,
                container_runtime="local",
                imagebuilder_path=world.template,
                allow_unsandboxed=True,
            )
            with AsgiClient(assemble(settings).app) as client:
                # A first build fetches the documents and loads what is loaded late.
                build(client, settings.database_path, "luci")
                idle = profiler.entered_during(lambda: time.sleep(LONGEST_ROUND_SECONDS))
                done: list[str] = []
                post = profiler.entered_during(
                    lambda: done.append(build(client, settings.database_path, "luci", "tmux"))
                )
                target = f"/api/v1/build/{done[0]}"
                for _ in range(2):
                    assert eventually(lambda: bool(client.get(target).status == 200))
                poll = profiler.entered_during(lambda: client.get(target))
                idle |= profiler.entered_during(lambda: time.sleep(LONGEST_ROUND_SECONDS))
    return {"hops from POST to done": post - idle, "hops of a poll from memory": poll - idle}


def build(client: Any, database_path: Path, *packages: str) -> str:
    """Asks for a build and waits until the database says it is done; its request hash."""
    body = {
        "version": "25.12.0",
        "target": "pico/nine",
        "profile": "acme,widget-5",
        "packages": packages,
        "client": "house/1",
    }
    answer = client.post("/api/v1/build", body)
    assert answer.status == 202, answer.body
    database = sqlite3.connect(database_path)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        rows = database.execute("SELECT state FROM build_jobs ORDER BY id DESC LIMIT 1").fetchall()
        if rows == [("completed",)]:
            # The worker still records what it did.
            time.sleep(0.5)
            break
        assert rows[0][0] in ("pending", "building"), rows
        time.sleep(0.02)
    database.close()
    return str(answer.json["request_hash"])


def main() -> int:
    """Prints every figure; with `--limits` 1 when a target is broken."""
    parser = argparse.ArgumentParser(prog="make house", description=__doc__)
    for option in ("limits", "words", "hops", "names"):
        parser.add_argument(f"--{option}", action="store_true")
    parser.add_argument("--source-only", action="store_true", help="run no build")
    options = parser.parse_args()
    modules = read_modules()
    figures: dict[str, int | Longest] = measure_source(modules)
    ways = {} if options.source_only else measure_hops(modules)
    figures |= {name: len(entered) for name, entered in ways.items()}
    if options.names:
        print_names(modules)
    if options.words:
        print("".join(f"{file}:{number}: {word}\n" for file, number, word in old_words()), end="")
    if options.hops:
        print("".join(f"{way}: {name}\n" for way, names in ways.items() for name in sorted(names)), end="")
    return 1 if print_table(figures) and options.limits else 0


def print_table(figures: dict[str, int | Longest]) -> bool:
    """Prints the figures beside the former ones and the targets; whether a target is broken."""
    broken = False
    print(f"{'':42}{'at the start':>14}{'now':>14}{'target':>10}")
    for name, figure in figures.items():
        start, limit = AT_THE_START.get(name), LIMITS.get(name)
        misses = isinstance(figure, int) and limit is not None and figure > limit
        broken = broken or misses
        cells = (
            "" if start is None else f"{start:,}",
            f"{figure:,}" if isinstance(figure, int) else str(figure),
            "" if limit is None else f"≤ {limit:,}",
        )
        print(f"{name:42}{cells[0]:>14}{cells[1]:>14}{cells[2]:>10}{'  broken' if misses else ''}".rstrip())
    return broken


def print_names(modules: dict[str, Module]) -> None:
    """Prints the small modules and the private names that were counted."""
    importers = find_importers(modules)
    for name in find_small(modules, importers):
        print(f"small: {name}, imported by {next(iter(importers[name]))}")
    for module in modules.values():
        for private in module.private_once():
            print(f"private once: {module.name}:{private}")


if __name__ == "__main__":
    sys.exit(main())
