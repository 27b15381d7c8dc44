"""What the README tells people to type works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import require_tool

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Every line of every shell block."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_the_readme_shows_how_to_try_and_how_to_test() -> None:
    texts = [command.partition("#")[0].strip() for command in commands()]
    assert "make demo" in texts
    assert "make test" in texts


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z]+)\b", README))))
def test_a_make_target_that_the_readme_names_exists(target: str) -> None:
    if not any(command.startswith(f"make {target}") for command in commands()):
        pytest.skip("prose, no command")
    require_tool("make")
    result = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_nothing_in_the_readme_waits_to_be_filled_in() -> None:
    assert re.findall(r"^[A-Z_]{4,}$|TODO|FIXME|XXX|TBD", README, re.MULTILINE) == []


@pytest.mark.timeout(300)
def test_the_demo_builds_downloads_and_verifies_an_image(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASU_")}
    environment |= {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    environment.pop("CONTAINER_HOST", None)
    result = subprocess.run(
        [sys.executable, "-m", "asu_builder", "demo"],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "SHA-256 verified" in result.stdout
    assert "DIFFERS" not in result.stdout and "Traceback" not in result.stderr
    assert "flashes nothing" in result.stdout
    assert list(tmp_path.iterdir()) == [], "it cleans up behind itself"
