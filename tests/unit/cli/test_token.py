"""A token for an operator: what it may do is said, and asked for."""

import os
import pty
import re
import sys

import pytest
from click.testing import CliRunner

from asu_builder.cli import main


def made(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    ended = CliRunner().invoke(main, ["token", *arguments])
    return ended.exit_code, ended.stdout, ended.stderr


@pytest.mark.parametrize(
    ("options", "rights", "said"),
    [
        (
            (),
            "",
            "Rights: none. Its holder requests builds without a limit, nothing else.\nFor more: --right read",
        ),
        (("--right", "none"), "", "Rights: none. Its holder requests"),
        (("--right", "read"), "    rights: [read]\n", "Rights: read. Its holder sees every job"),
        (
            ("--right", "operate"),
            "    rights: [operate]\n",
            "Rights: operate. Its holder sees all that, and cancels",
        ),
        (
            ("--right", "operate", "--right", "read", "--right", "read"),
            "    rights: [operate, read]\n",
            "Rights: operate, read. Its holder sees all that, and cancels",
        ),
    ],
)
def test_a_token_says_which_rights_it_has(options: tuple[str, ...], rights: str, said: str) -> None:
    code, out, _ = made("ann", *options)
    assert code == 0
    assert re.search(
        rf"  - name: ann\n    digest: [0-9a-f]{{64}}\n    priority: normal\n{re.escape(rights)}\n", out
    )
    assert said in out


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a" * 65, "ann: x"])
def test_a_name_that_the_settings_would_refuse_is_refused(name: str) -> None:
    code, out, err = made(name)
    assert (code, out) == (2, "")
    assert "NAME: expected letters, digits and . _ -" in err


@pytest.mark.process
def test_at_a_terminal_the_right_is_asked_for() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "asu_builder", "token", "ann"])
    os.write(terminal, b"operate\n")
    text = b""
    try:
        while chunk := os.read(terminal, 65536):
            text += chunk
    except OSError:  # the other side is closed
        pass
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, text
    shown = text.decode()
    assert "Which right (none, read, operate) [none]:" in shown
    assert "rights: [operate]" in shown
