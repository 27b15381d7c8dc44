"""What can be built, told from what a place knows of it."""

from typing import Any

import pytest

from asu_builder.cli import search
from asu_builder.cli.search import _branches


class Offers:
    """Tells one list of branches after the other, and then the last again and again."""

    def __init__(self, *told: list[dict[str, Any]]) -> None:
        self.told = list(told)

    def branches(self) -> list[dict[str, Any]]:
        return self.told.pop(0) if len(self.told) > 1 else self.told[0]


def branch(name: str, *versions: str, targets: int = 0, **more: object) -> dict[str, Any]:
    return {
        "name": name,
        "versions": list(versions),
        "targets": {f"t/{n}": "a" for n in range(targets)},
        **more,
    }


@pytest.mark.parametrize(
    "told",
    [
        # A mirror without snapshots, and a server that does not say whether that is all.
        [branch("SNAPSHOT", "SNAPSHOT", complete=True), branch("25.12", "25.12.0", targets=2, complete=True)],
        [branch("SNAPSHOT", "SNAPSHOT"), branch("25.12", "25.12.0", targets=2), branch("23.05")],
        # Announced, and not yet published.
        [branch("25.12", "25.12.0", complete=True)],
    ],
)
def test_what_there_is_is_told_at_once(
    told: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _branches(Offers(told)) == told  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


def test_targets_that_are_on_their_way_are_waited_for() -> None:
    whole = [branch("25.12", "25.12.0", targets=2, complete=True)]
    assert _branches(Offers([branch("25.12", "25.12.0", complete=False)], whole)) == whole  # type: ignore[arg-type]


def test_targets_that_stay_unknown_are_named_and_the_rest_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "_SECONDS_FOR_TARGETS", 0.0)
    told = [branch("25.12", "25.12.0", complete=False), branch("24.10", "24.10.5", targets=1, complete=True)]
    assert _branches(Offers(told)) == told  # type: ignore[arg-type]
    assert "does not tell the targets of 25.12." in capsys.readouterr().err
