"""Rules files: the built-in one, one that is watched, and one whose examples are run.

A file may change at any time and may be wrong at any time: the last good rules stay. A rule that no
example fires is not known to work.
"""

import logging
import stat
import sys
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path

from package_changes.model import Audience, Example, Rule
from package_changes.rules import Rules, parse_rules
from package_changes.schema import MAX_LENGTH, RulesProblem

BUILT_IN = "built-in rules"

_LOOK_EVERY = 0.5
_log = logging.getLogger(__name__)


@cache
def built_in_rules() -> Rules:
    """The rules this package comes with."""
    text = resources.files("package_changes").joinpath("rules.yaml").read_text(encoding="utf-8")
    return parse_rules(text, source=BUILT_IN)


def read_rules_text(path: Path) -> str:
    """The text of a rules file; `RulesProblem` when it is absent, unreadable, too large or no text."""
    source = str(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise RulesProblem(source, 0, "not a file")
        if found.st_size > MAX_LENGTH:
            raise RulesProblem(source, 0, f"{found.st_size} bytes are too many; {MAX_LENGTH} are allowed")
        with path.open("rb") as file:
            content = file.read(MAX_LENGTH + 1)
    except OSError as error:
        raise RulesProblem(source, 0, f"cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_LENGTH:
        raise RulesProblem(source, 0, f"more than {MAX_LENGTH} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RulesProblem(source, line, "no text in UTF-8") from error


@dataclass(frozen=True, slots=True)
class _Loaded:
    rules: Rules
    loaded_at: datetime
    problem: str | None = None


_Mark = tuple[int, ...] | None


class RulesFile:
    """The rules of a file, kept current; with `path` None the built-in ones, which never change.

    It reads once when it is made and never raises: while the file is wrong, `problem` says why and
    the last good rules stay, at first the built-in ones. `look` is the one step of watching; `start`
    and `stop` run it in a thread.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        self._state = _Loaded(built_in_rules(), datetime.now(UTC))
        self._seen: _Mark = None
        self._loaded: _Mark = None
        if self.path is not None:
            self._seen = self._loaded = _mark(self.path)
            self._load(self.path)

    def current(self) -> Rules:
        """The last good rules."""
        return self._state.rules

    @property
    def problem(self) -> str | None:
        """What is wrong with the file now, with its line; None when its rules are the current ones."""
        return self._state.problem

    @property
    def loaded_at(self) -> datetime:
        """When the current rules were read."""
        return self._state.loaded_at

    def look(self) -> None:
        """Reads the file again once it has changed and rested for one look, so as not to read half a file."""
        if self.path is None:
            return
        before, self._seen = self._seen, _mark(self.path)
        if self._seen == before and self._seen != self._loaded:
            self._loaded = self._seen
            self._load(self.path)

    def start(self) -> None:
        """Watches from now on."""
        if self.path is not None and self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="package-rules", daemon=True)
            self._watcher.start()

    def stop(self) -> None:
        """Ends watching, and waits for it."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - a bug in one look must not leave old rules for ever
                _log.exception("Looking at the package rules failed")

    def _load(self, path: Path) -> None:
        try:
            rules = parse_rules(read_rules_text(path), source=str(path))
        except RulesProblem as problem:
            sentence = str(problem)
            if sentence != self._state.problem:
                _log.error("Package rules not loaded, %s stay: %s", self._state.rules.source, sentence)
            self._state = replace(self._state, problem=sentence)
            return
        self._state = _Loaded(rules, datetime.now(UTC))
        _log.info("%d package rules loaded from %s", rules.count, path)


def _mark(path: Path) -> _Mark:
    """What changes when a file does; None for one that cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def check_examples(rules: Rules) -> list[str]:
    """A sentence for every example that does not come true, and for every rule that no example fires."""
    problems = []
    for rule in rules:
        fired = False
        for example in rule.examples:
            sentence, fires = _run(rule, example, rules)
            fired = fired or fires
            if sentence:
                problems.append(f"line {example.line}: {rule.name}: {sentence}")
        if not fired:
            problems.append(f"line {rule.line}: {rule.name}: no example fires this rule")
    return problems


def test_file(path: str | Path) -> int:
    """Prints whether the rules of a file load and their examples come true; 0 when all do."""
    try:
        rules = parse_rules(read_rules_text(Path(path)), source=str(path))
    except RulesProblem as problem:
        _print(f"FAILED  {problem}")
        return 1
    problems = check_examples(rules)
    for sentence in problems:
        _print(f"FAILED  {rules.source}, {sentence}")
    examples = sum(len(rule.examples) for rule in rules)
    _print(
        f"{rules.count} rules, {examples} examples: "
        + (f"{len(problems)} problems" if problems else "every rule fires, every example comes true")
    )
    return 1 if problems else 0


# A name that test collectors would otherwise take for a test.
test_file.__test__ = False  # type: ignore[attr-defined]


def _run(rule: Rule, example: Example, rules: Rules) -> tuple[str, bool]:
    """What is wrong with an example, "" for nothing, and whether the rule fired in it."""
    if rule.audience is Audience.CLIENTS:
        # What clients do themselves: this change alone.
        rules = rules.only(replace(rule, audience=Audience.BOTH))
    selection = rules.apply(example.context)
    fires = any(applied.rule == rule.name for applied in selection.applied)
    if selection.packages != example.becomes:
        expected, found = (" ".join(names) or "nothing" for names in (example.becomes, selection.packages))
        return f"expected {expected}; the rules give {found}", fires
    if fires != example.fires:
        return "this rule fires, but must not" if fires else "this rule does not fire", fires
    return "", fires


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
