"""Which long tests a change concerns."""

from pathlib import Path

import pytest

from long_tests import ROOT, concerned, imports_of, long_tests

pytestmark = pytest.mark.long


def names(*changed: str) -> set[str]:
    """Stems of the long test files that these changed files concern."""
    return {path.stem for path in concerned([ROOT / name for name in changed], long_tests())}


def test_what_people_read_concerns_the_tests_of_the_documentation() -> None:
    concerned_by_pages = names("README.md", "docs/performance.md", "docs/screenshots/overview.png")
    assert concerned_by_pages == {"test_site", "test_documented_commands"}


def test_what_only_contributors_use_concerns_no_test() -> None:
    assert names(".github/workflows/ci.yml", ".devcontainer/Containerfile", ".editorconfig") == set()


def test_a_module_concerns_what_imports_it_and_what_starts_the_service() -> None:
    concerned_by_rules = names("src/package_changes/rules.py")
    assert {"test_properties", "test_chaos", "test_single_file", "test_fuzz"} <= concerned_by_rules
    assert "test_breaker" not in concerned_by_rules


def test_what_is_made_or_installed_concerns_packaging() -> None:
    for name in ("Containerfile", "locks/runtime.txt", "Makefile", "pyproject.toml"):
        assert {"test_single_file", "test_container_image"} <= names(name), name
        assert "test_properties" not in names(name), name


def test_a_test_concerns_itself_and_a_shared_fixture_all() -> None:
    assert names("tests/unit/domain/test_request.py") == {"test_request"}
    assert names("tests/conftest.py") == {path.stem for path in long_tests()}
    assert names("tests/chaos/run.py") == {"test_chaos"}


@pytest.mark.parametrize(
    ("test", "imported"),
    [
        ("tests/unit/package_changes/test_properties.py", "src/package_changes/model.py"),
        ("tests/contract/test_queue_model.py", "tests/queue_model.py"),
        ("tests/e2e/test_fuzz.py", "tests/podman_service.py"),
    ],
)
def test_imports_are_followed_through_packages_conftests_and_plugins(test: str, imported: str) -> None:
    assert ROOT / imported in imports_of(ROOT / test)


def test_every_file_with_a_long_test_is_known() -> None:
    marked = {path for path in Path(ROOT, "tests").rglob("test_*.py") if "mark.long" in path.read_text()}
    assert marked - {Path(__file__)} <= set(long_tests())
