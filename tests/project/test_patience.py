"""No test depends on the speed of the machine: what a test measures and how long it waits."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
LEAST = 30
"""Seconds; who waits for an event waits at least so long."""
_CLOCKS = {"monotonic", "perf_counter", "time", "process_time", "thread_time"}
_WAITS = {"wait", "join", "result", "recv"}
_MAY_MEASURE = {"sooner_than", "eventually"}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of the tests, with where it is."""
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(TESTS)}:{node.lineno} {node.name}", node


def is_timed(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it is one of those that compare with a yardstick and run alone."""
    return any("mark.timed" in ast.unparse(each) for each in function.decorator_list)


def reads_a_clock(node: ast.AST) -> bool:
    """Whether the time is asked for somewhere in it."""
    return any(
        isinstance(each, ast.Call) and ast.unparse(each.func).rpartition(".")[2] in _CLOCKS
        for each in ast.walk(node)
    )


def is_short(node: ast.expr | None) -> bool:
    """Whether it is a number of seconds below the least."""
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and 0 < node.value < LEAST


def test_no_test_asserts_that_something_was_quick() -> None:
    found = [
        f"{where}: {ast.unparse(statement)}"
        for where, function in functions()
        if not is_timed(function) and function.name not in _MAY_MEASURE
        for statement in ast.walk(function)
        if isinstance(statement, ast.Assert)
        for compared in ast.walk(statement.test)
        if isinstance(compared, ast.Compare)
        and any(isinstance(operator, ast.Lt | ast.LtE) for operator in compared.ops)
        and any(isinstance(each, ast.BinOp) and reads_a_clock(each) for each in ast.walk(compared))
    ]
    assert found == []


def test_whoever_waits_for_an_event_waits_long() -> None:
    found = []
    for where, function in functions():
        for statement in ast.walk(function):
            if not isinstance(statement, ast.Assert) or isinstance(statement.test, ast.UnaryOp):
                continue
            for call in ast.walk(statement.test):
                if not isinstance(call, ast.Call):
                    continue
                name = ast.unparse(call.func).rpartition(".")[2]
                named = {each.arg: each.value for each in call.keywords}
                if name == "eventually" and is_short(named.get("seconds")):
                    found.append(f"{where}: {ast.unparse(statement)}")
                if name in _WAITS and is_short(call.args[0] if call.args else named.get("timeout")):
                    found.append(f"{where}: {ast.unparse(statement)}")
    assert found == []
