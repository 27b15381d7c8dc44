"""What the documentation tells people to type works: run with the sample distribution, or at least read."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import click
import pytest
import yaml

from asu_builder.cli import main
from asu_builder.settings import SETTING_NAMES, load_settings
from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from documents import BACKGROUND, DOCS, OPERATOR, ROOT, RUN, Block, blocks_of, pages, shell_blocks
from e2e.conftest import local_settings
from ports import free_port
from tools import require_tool

ELSEWHERE = {"backup.md": "tests/unit/database/test_backup.py"}
"""Pages whose commands another test runs."""
SESSIONS = sorted({block.page for block in shell_blocks() if block.kind != OPERATOR} - {*ELSEWHERE})
SAMPLE = {
    # The sample has no such device, and answers at an address of its own.
    "ath79/generic": "pico/nine",
    "tplink_archer-c7-v5": "acme_widget-5",
    "archer+c7": "widget",
    "archer c7": "widget",
    "wireguard": "tmux",
}
_ASKED_BEFORE = """
ask() {{
  asked=$((${{asked:-100}} + 1))
  command curl --silent --fail-with-body --retry 10 {address}/api/v1/build -o "$HOME/asked.json" \\
    -H 'Content-Type: application/json' -d '{{"version": "24.10.4", "target": "pico/nine",
      "profile": "acme_small", "packages": ["sample-slow-1"], "rootfs_size_mb": '"$asked"'}}'
  request_hash=$(cut -d'"' -f4 <<< "$(grep -o '"request_hash":"[^"]*"' "$HOME/asked.json")")
  cancel_token=$(cut -d'"' -f4 <<< "$(grep -o '"cancel_token":"[^"]*"' "$HOME/asked.json")")
}}
"""
"""Gives a block that is about a build a build of its own."""
SHOWN = ("/", "/queue", "/build", "/build/$request_hash")
"""Pages that the tutorial opens in a browser."""
_PREAMBLE = """
set -euo pipefail
# A failure fails, and "come back in a moment" is not one: the service has just met its upstream.
curl() {{ command curl --fail-with-body --retry 20 "$@"; }}
wait_for_it() {{
  for _ in $(seq 200); do
    if command curl --silent --output /dev/null {address}/api/v1/stats; then return; fi
    sleep 0.1
  done
  echo "the service does not answer" >&2; exit 1
}}
"""


@pytest.fixture(scope="module")
def upstream(sample_world: Distribution) -> Iterator[DownloadServer]:
    with DownloadServer(sample_world.downloads) as server:
        yield server


class Reader:
    """Somebody who follows a page in a clone of the source, at home nowhere else."""

    def __init__(self, folder: Path, world: Distribution, upstream_url: str, page: Path) -> None:
        self.clone = folder / "clone"
        self.home = folder / "home"
        self.home.mkdir()
        self._page = page
        self._port = free_port()
        self._make_clone()
        configuration = "".join(block.text for block in blocks_of(page) if block.language == "yaml")
        (self.clone / "config.yaml").write_text(configuration)
        settings = local_settings(world, upstream_url) | {
            "server_port": self._port,
            "server_host": "127.0.0.1",
            "upstream_url": upstream_url,
        }
        kept = ("PATH", "LANG", "LC_ALL", "TMPDIR")
        self._environment = {name: os.environ[name] for name in kept if name in os.environ}
        self._environment |= {f"ASU_{name.upper()}": str(value) for name, value in settings.items()}
        self._environment |= {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home)}
        self._environment["PATH"] = f"{self.clone}/.venv/bin:{self._environment['PATH']}"

    def _make_clone(self) -> None:
        """What `git clone` gives, and an environment in which nothing has to be installed any more."""
        self.clone.mkdir()
        for name in ("Makefile", "pyproject.toml", "deploy", "locks", "compose.yaml", "src"):
            (self.clone / name).symlink_to(ROOT / name)
        programs = self.clone / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, more in (("python", ""), ("asu-builder", " -m asu_builder")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}/src" exec "{sys.executable}"{more} "$@"\n')
            program.chmod(0o755)
        for stamp in ("runtime", "dev"):
            (self.clone / ".venv" / stamp).touch()

    def script(self) -> str:
        """The whole page as one script; blocks share variables and directory, as in one terminal."""
        address = f"http://127.0.0.1:{self._port}"
        blocks = [block for block in blocks_of(self._page) if block.language == "sh"]
        told = [block for block in blocks if block.kind in (RUN, BACKGROUND)]
        lines = [_PREAMBLE.format(address=address), _ASKED_BEFORE.format(address=address)]
        asks = any("//127.0.0.1:8080" in block.text or "//asu.example.org" in block.text for block in told)
        if asks and not any(block.kind == BACKGROUND for block in told):
            lines.append("asu-builder > service.log 2>&1 &\nwait_for_it")
        known: set[str] = set()
        for block in told:
            used = set(re.findall(r"\$(request_hash|cancel_token)", block.text)) - known
            set_here = set(re.findall(r"^(\w+)=", block.text, re.MULTILINE))
            known |= set_here
            if used - set_here:
                lines.append("ask")
            if block.kind == BACKGROUND:
                lines.append(f"{block.text.strip()} > service.log 2>&1 &\nwait_for_it")
            else:
                lines.append(f"echo '## {block.text.splitlines()[0].split()[0]}'\n{block.text}")
        if self._page.name == "tutorial.md":
            lines += [f'curl --silent --output /dev/null "{address}{path}"' for path in SHOWN]
        text = "\n".join(lines)
        for there in ("http://127.0.0.1:8080", "https://asu.example.org"):
            text = text.replace(there, address)
        for real, sample in SAMPLE.items():
            text = text.replace(real, sample)
        return text

    def follow(self) -> subprocess.CompletedProcess[str]:
        """Types it all; whatever was started is ended."""
        process = subprocess.Popen(
            ["bash", "-c", self.script()],
            cwd=self.clone,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with (self.home / "output").open("w+") as output:
            try:
                # The service outlives the script and holds its output, so that is not waited for.
                assert process.stdout is not None
                status = process.wait(360)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                output.write(process.communicate()[0])
        return subprocess.CompletedProcess([], status, (self.home / "output").read_text())


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SESSIONS)
def test_the_commands_of_a_page_work_one_after_another(
    name: str, tmp_path: Path, sample_world: Distribution, upstream: DownloadServer
) -> None:
    require_tool("curl")
    reader = Reader(tmp_path, sample_world, upstream.url, DOCS / name)
    done = reader.follow()
    log = reader.clone / "service.log"
    said = log.read_text() if log.exists() else ""
    assert done.returncode == 0, f"{done.stdout}\n{said}"
    assert "Traceback" not in done.stdout + said
    if name == "tutorial.md":
        for path in SHOWN[1:]:
            assert f"`{path.replace('$request_hash', 'HASH')}`" in (DOCS / name).read_text()
        assert "SHA-256 verified" in done.stdout
        assert "-- completed" in done.stdout
        assert done.stdout.count(": OK") == 3
        assert '"can_build":true' in done.stdout


def test_each_block_of_commands_says_how_it_is_tested() -> None:
    blocks = list(shell_blocks())
    assert {block.language for block in blocks} == {"sh"}, "write ```sh, with what makes it special behind"
    assert {block.kind for block in blocks} <= {RUN, BACKGROUND, OPERATOR}
    for page, test in ELSEWHERE.items():
        assert page.removesuffix(".md") in (ROOT / test).read_text()
    assert {"tutorial.md", "api.md", "how-to/install.md", "how-to/monitoring.md"} <= set(SESSIONS)


def commands_in(block: Block) -> list[list[str]]:
    """Each command of a block as words, without sudo and variables in front."""
    text = block.text.replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        while words and (words[0] == "sudo" or re.fullmatch(r"\w+=.*", words[0])):
            words = words[1:]
        if words:
            found.append(words)
    return found


OPERATORS = [block for block in shell_blocks() if block.kind == OPERATOR]


@pytest.mark.parametrize("block", OPERATORS, ids=lambda block: f"{block.page}:{block.text.split()[0]}")
def test_commands_for_the_operators_machine_are_well_formed_and_name_what_exists(block: Block) -> None:
    assert subprocess.run(["bash", "-n", "-c", block.text], check=False).returncode == 0
    for program, *arguments in commands_in(block):
        if program == "asu-builder":
            require_known(arguments)
        elif program == "make":
            assert subprocess.run(
                ["make", "--dry-run", *arguments], cwd=ROOT, check=False, capture_output=True
            ).returncode in (0,)
        for word in arguments:
            if word.startswith("deploy/"):
                assert (ROOT / word).exists(), word
    for variable in re.findall(r"\bASU_([A-Z_]+)=", block.text):
        assert variable.lower() in SETTING_NAMES


def require_known(arguments: Sequence[str]) -> None:
    """Fails unless the program has such a command with such options."""
    command: click.Command = main
    context = click.Context(main)
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        below = command.get_command(context, rest.pop(0))
        assert below is not None, arguments
        command = below
    known = {option for parameter in command.get_params(context) for option in parameter.opts}
    for word in rest:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{word} in {arguments}"


RULES = "package-changes.md"
"""Its YAML is package rules and no settings; `tests/unit/package_changes` looks at that."""
CONFIGURATIONS = [
    block for page in pages() for block in blocks_of(page) if block.language == "yaml" and block.page != RULES
]


@pytest.mark.parametrize(
    "block", CONFIGURATIONS, ids=lambda block: f"{block.page}:{block.text.split(':')[0]}"
)
def test_a_piece_of_configuration_is_taken_as_it_stands(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(block.text)
    settings = load_settings({}, (file,))
    usual = load_settings({}, ())
    changed = [name for name in yaml.safe_load(block.text) if getattr(settings, name) != getattr(usual, name)]
    assert changed, "it changes something"


def test_the_guides_show_configuration() -> None:
    assert {block.page for block in CONFIGURATIONS} >= {
        "how-to/imagebuilders.md",
        "how-to/repositories.md",
        "how-to/reverse-proxy.md",
    }
