"""Hooks, dev container, editor and forge use what the project has: its make targets, its list of packages."""

import configparser
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github/workflows/ci.yml"
FORMS = ROOT / ".github/ISSUE_TEMPLATE"
HOOKS = ROOT / ".pre-commit-config.yaml"
DEV_CONTAINER = ROOT / ".devcontainer/devcontainer.json"
PACKAGES = ROOT / ".ci/packages"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def read_yaml(path: Path) -> Any:
    """The document in a file."""
    return yaml.safe_load(path.read_text())


def make_targets() -> set[str]:
    """Targets of the Makefile that people type."""
    (names,) = re.findall(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return set(names.split())


def targets_in(*commands: str) -> set[str]:
    """What these commands make; each must be make with targets and nothing else."""
    words = [command.split() for command in commands]
    assert [command for command in words if command[0] != "make" or len(command) < 2] == []
    return set(chain.from_iterable(command[1:] for command in words))


def hooks() -> Iterator[Mapping[str, Any]]:
    """Every hook that git runs."""
    for repository in read_yaml(HOOKS)["repos"]:
        assert repository["repo"] == "local", "nothing is fetched from elsewhere"
        yield from repository["hooks"]


def dev_container_parts() -> tuple[Mapping[str, Any], Path, str]:
    """Its description, the folder that its build sees, and its Containerfile without comments."""
    described = json.loads(DEV_CONTAINER.read_text())
    build = described["build"]
    text = (DEV_CONTAINER.parent / build["dockerfile"]).read_text()
    context = (DEV_CONTAINER.parent / build["context"]).resolve()
    return described, context, re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)


def base_image() -> str:
    """The image that the dev container begins with when nobody chooses."""
    _, _, containerfile = dev_container_parts()
    (image,) = re.findall(r"^ARG BASE=(\S+)\nFROM \$\{BASE\}$", containerfile, re.MULTILINE)
    return str(image)


def editor_rules() -> configparser.ConfigParser:
    """What editors are told; `root`, which stands above all sections, is in one of that name."""
    rules = configparser.ConfigParser()
    rules.read_string("[root]\n" + (ROOT / ".editorconfig").read_text())
    return rules


def test_the_workflow_checks_out_and_runs_what_contributors_run() -> None:
    workflow = read_yaml(WORKFLOW)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        checkout, run = job["steps"]
        assert checkout["uses"].startswith("actions/checkout@")
        assert checkout["with"]["persist-credentials"] is False
        assert run == {"run": ".ci/run"}
        assert job["timeout-minutes"] == 90
        assert job["container"]["image"] == base_image()


def test_each_form_asks_for_something_and_shows_no_field_twice() -> None:
    forms = sorted(path for path in FORMS.glob("*.yml") if path.name != "config.yml")
    assert {path.stem for path in forms} == {"bug", "feature"}
    assert "blank_issues_enabled" in read_yaml(FORMS / "config.yml")
    for path in forms:
        form = read_yaml(path)
        assert form["name"] and form["description"], path
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert all(field["attributes"]["label"] for field in fields), path
        names = [field["id"] for field in fields]
        assert len(names) == len(set(names)), path
        assert any(field.get("validations", {}).get("required") for field in fields), path


def test_a_pull_request_is_asked_for_what_a_change_needs() -> None:
    text = (ROOT / ".github/pull_request_template.md").read_text()
    commands = re.findall(r"`(make [a-z -]+)`", text)
    assert targets_in(*commands) == {"check", "test-fast"}
    assert "`CHANGELOG.md`" in text


def test_the_hooks_of_git_call_make() -> None:
    by_stage = {stage: hook["entry"] for hook in hooks() for stage in hook["stages"]}
    assert by_stage == {"pre-commit": "make check", "pre-push": "make test-fast"}
    assert set(by_stage) == set(read_yaml(HOOKS)["default_install_hook_types"])
    assert targets_in(*by_stage.values()) <= make_targets()
    for hook in hooks():
        assert hook["language"] == "system" and hook["pass_filenames"] is False, hook["id"]


def test_the_dev_container_installs_what_ci_installs_from_one_list() -> None:
    described, context, containerfile = dev_container_parts()
    lines = [line.split(" ") for line in PACKAGES.read_text().splitlines()]
    assert [line for line in lines if len(line) != 2] == []
    packages = {package for _, package in lines}
    assert len(packages) == len(lines) > 10
    assert "done < .ci/packages\n" in (ROOT / ".ci/run").read_text()
    (copied, copy) = re.findall(r"^COPY (\S+) (\S+)$", containerfile, re.MULTILINE)[0]
    assert context / copied == PACKAGES
    assert f"$(cut -d ' ' -f 2 {copy})" in containerfile
    for text in (containerfile, (ROOT / ".ci/run").read_text()):
        (installing,) = re.findall(r"apt-get install (.*)", text)
        assert packages & set(installing.split()) == set(), "it is on the list already"
        assert "python3-venv" in text
    assert targets_in(described["postCreateCommand"]) <= make_targets()


def test_no_file_of_a_container_names_a_registry() -> None:
    assert re.fullmatch(r"[a-z]+:[0-9.]+", base_image())


def test_editors_follow_the_formatter() -> None:
    rules = editor_rules()
    every, python = rules["*"], rules["*.py"]
    assert rules["root"]["root"] == "true"
    assert int(python["max_line_length"]) == PYPROJECT["tool"]["ruff"]["line-length"]
    assert (every["indent_style"], python["indent_size"]) == ("space", "4")
    assert (every["end_of_line"], every["insert_final_newline"]) == ("lf", "true")
    assert rules["{Caddyfile,Makefile}"]["indent_style"] == "tab"


def test_an_archive_of_the_source_holds_nothing_that_is_of_use_only_in_a_clone() -> None:
    left_out = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["exclude"]
    assert [name for name in left_out if not (ROOT / name.lstrip("/")).exists()] == []
    of_a_clone = {path.relative_to(ROOT).parts[0] for path in (WORKFLOW, HOOKS, DEV_CONTAINER)}
    assert {f"/{name}" for name in (*of_a_clone, ".editorconfig")} <= set(left_out)
    assert (ROOT / ".containerignore").read_text().splitlines()[0] == "*", "nor does the container image"


def test_vulnerabilities_are_reported_in_private() -> None:
    policy = (ROOT / "SECURITY.md").read_text()
    assert "Report a vulnerability" in policy and "docs/security.md" in policy
    assert "@" not in policy, "there is no mail address"
    assert "SECURITY.md" in (FORMS / "bug.yml").read_text()
