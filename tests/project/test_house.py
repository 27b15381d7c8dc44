"""The figures that `make house` prints are counted as it says."""

from pathlib import Path

import pytest
from bench.house import AT_THE_START, LIMITS, Module, find_importers, find_small, measure_source, read_modules


def a_module(folder: Path, name: str, text: str) -> Module:
    path = folder / f"{name}.py"
    path.write_text(text)
    return Module(name, path)


def test_blank_lines_comments_and_docstrings_are_no_code(tmp_path: Path) -> None:
    head = '"""About."""\n\nimport os  # kept\n\n\n# a remark\n'
    text = head + 'def f() -> str:\n    """Says."""\n    return (\n        "a"\n    )\n'
    assert a_module(tmp_path, "m", text).code_lines == 5


def test_a_private_name_counts_when_it_is_referenced_once(tmp_path: Path) -> None:
    text = (
        "def _once(): ...\ndef _twice(): ...\nclass _Never: ...\ndef f():\n    _once()\n    _twice(_twice)\n"
    )
    assert a_module(tmp_path, "m", text).private_once() == ["_once"]


def test_importers_are_found_in_texts_too(tmp_path: Path) -> None:
    modules = [
        a_module(tmp_path, "a", "x = 1\n"),
        a_module(tmp_path, "b", "import a\n"),
        a_module(tmp_path, "c", 'LATE = "b:main"\n'),
    ]
    found = find_importers({module.name: module for module in modules})
    assert found == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert find_small({module.name: module for module in modules}, found) == ["a", "b"]


@pytest.mark.long
def test_every_figure_of_the_start_and_every_target_has_one_of_today() -> None:
    counted = {*measure_source(read_modules()), "hops from POST to done", "hops of a poll from memory"}
    assert {*AT_THE_START, *LIMITS} <= counted
