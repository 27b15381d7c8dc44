import logging
import os
from pathlib import Path

import pytest

from factories import eventually
from package_changes.files import BUILT_IN, RulesFile
from rules_text import HEAD, HEAD_LINES, a_rule

GOOD = HEAD + a_rule("one", "add: [x]")
BETTER = GOOD + a_rule("two", "add: [y]")
BAD = HEAD + a_rule("one", "ad: [x]")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A rules file with one rule."""
    found = tmp_path / "rules.yaml"
    found.write_text(GOOD)
    return found


def look(file: RulesFile) -> None:
    """Looks until a change has rested."""
    file.look()
    file.look()


def test_without_a_file_there_are_the_built_in_rules() -> None:
    file = RulesFile()
    look(file)
    assert file.current().source == BUILT_IN
    assert file.current().count > 20
    assert file.problem is None


def test_a_change_is_taken_over(path: Path) -> None:
    file = RulesFile(path)
    first = file.loaded_at
    assert (file.current().count, file.current().source) == (1, str(path))
    path.write_text(BETTER)
    look(file)
    assert file.current().count == 2
    assert file.loaded_at > first


def test_a_file_is_read_only_when_it_has_rested(path: Path) -> None:
    file = RulesFile(path)
    path.write_text(BETTER)
    file.look()
    path.write_text(BETTER + a_rule("three", "add: [z]"))
    file.look()
    assert file.current().count == 1
    file.look()
    assert file.current().count == 3


def test_a_bad_edit_keeps_the_last_good_rules_and_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = RulesFile(path)
    path.write_text(BAD)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            look(file)
    line = f"{path}, line {HEAD_LINES + 4}: unknown key 'ad'"
    assert [record.getMessage().count(line) for record in caplog.records] == [1]
    assert (file.problem or "").startswith(line)
    assert file.current().count == 1
    path.write_text(BETTER)
    look(file)
    assert file.problem is None
    assert file.current().count == 2


def test_a_file_that_was_never_good_leaves_the_built_in_rules(path: Path) -> None:
    path.write_text(BAD)
    file = RulesFile(path)
    assert file.problem is not None
    assert file.current().source == BUILT_IN


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty"),
        (b"\x7fELF\x00\x01\xff", "no text in UTF-8"),
        (b"a: b\nc: \xff\n", "line 2: no text in UTF-8"),
        (b"\x00" * 64, "no YAML"),
        (b"#" * 50_000_000, "50000000 bytes are too many"),
        (GOOD.encode()[:-12], "line"),
    ],
    ids=["empty", "binary", "one byte", "zeros", "50 MB", "half"],
)
def test_a_file_that_is_none_keeps_the_last_good_rules(path: Path, content: bytes, sentence: str) -> None:
    file = RulesFile(path)
    path.write_bytes(content)
    look(file)
    assert sentence in (file.problem or "")
    assert file.current().count == 1


def test_a_file_that_goes_keeps_its_rules_and_may_come_back(path: Path) -> None:
    file = RulesFile(path)
    path.unlink()
    look(file)
    assert "cannot be read: No such file" in (file.problem or "")
    path.mkdir()
    look(file)
    assert "not a file" in (file.problem or "")
    path.rmdir()
    os.mkfifo(path)
    look(file)
    assert "not a file" in (file.problem or "")
    path.unlink()
    path.write_text(GOOD)
    look(file)
    assert (file.problem, file.current().count) == (None, 1)


def test_an_unreadable_file_is_a_problem(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    file = RulesFile(path)
    assert file.problem == f"{path}: cannot be read: Permission denied"


def test_watching_takes_a_change_over_by_itself(path: Path) -> None:
    file = RulesFile(path)
    file.start()
    try:
        path.write_text(BETTER)
        assert eventually(lambda: file.current().count == 2)
    finally:
        file.stop()
