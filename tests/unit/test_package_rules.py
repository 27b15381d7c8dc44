"""What the rules were, and what they are."""

from pathlib import Path

import pytest

from asu_builder.domain.errors import Unavailable
from asu_builder.package_rules import KnownRules, LocalPackageChanges
from factories import a_request
from rules_text import HEAD, a_rule, rules_of


def renaming(target: str) -> str:
    return a_rule("renames", "versions: [24.10]", f"rename: {{htop: {target}}}")


class Desk:
    """A rules file with a process that reads it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "rules.yaml"
        self.kept = folder / "kept"
        self.write("tmux")
        self.changes = self.opened()

    def opened(self) -> LocalPackageChanges:
        return LocalPackageChanges(self.file, kept=self.kept)

    def write(self, target: str) -> None:
        self.file.write_text(HEAD + renaming(target))

    def reload(self) -> None:
        self.changes._file()._load(self.file)

    def packages(self, digest: str = "") -> tuple[str, ...]:
        request = a_request(version="24.10.4", packages=("htop",))
        return self.changes.apply(request, default_packages=(), baseline=None, digest=digest).packages


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_was_named_by_former_rules_is_built_by_them(desk: Desk) -> None:
    matching, former = desk.changes.digests(a_request(version="24.10.4"))
    assert matching and former and matching != former
    desk.write("nano")
    desk.reload()
    present = desk.changes.digests(a_request(version="24.10.4"))[1]
    assert desk.packages() == desk.packages(present) == ("nano",)
    assert desk.packages(former) == ("tmux",)
    assert set(desk.changes.known()) == {former, present}


def test_former_rules_outlive_the_process(desk: Desk) -> None:
    former = desk.changes.digests(a_request())[1]
    desk.changes.close()
    desk.write("nano")
    desk.changes = desk.opened()
    assert former in desk.changes.known() and desk.packages(former) == ("tmux",)
    assert desk.packages() == ("nano",)


def test_rules_that_were_never_here_are_not_known(desk: Desk) -> None:
    assert len(desk.changes.known()) == 1
    with pytest.raises(Unavailable, match="are not known here"):
        desk.packages("f" * 64)


@pytest.mark.parametrize("text", ["", "\0", "format: 1\nrules: []\n", HEAD + renaming("vim")])
def test_a_kept_file_that_is_not_what_its_name_says_is_left_out(desk: Desk, text: str) -> None:
    desk.kept.mkdir()
    (desk.kept / f"{'a' * 64}.yaml").write_text(text)
    assert len(desk.changes.known()) == 1


def test_only_some_are_kept_and_the_latest_of_them(tmp_path: Path) -> None:
    history = KnownRules(tmp_path)
    digests = [history.note(rules_of(renaming(f"package-{number}"))).digest for number in range(12)]
    assert history.digests() == tuple(digests[-8:])
    assert {path.stem for path in tmp_path.glob("*.yaml")} == set(digests[-8:])
    assert set(KnownRules(tmp_path).digests()) == set(digests[-8:])


def test_a_folder_that_takes_no_file_costs_only_what_a_restart_would_find(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    history = KnownRules(tmp_path / "file" / "rules")
    digest = history.note(rules_of(renaming("tmux"))).digest
    assert history.digests() == (digest,)
    assert "cannot be kept" in caplog.text
