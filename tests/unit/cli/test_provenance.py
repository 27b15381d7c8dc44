"""Files checked by a statement, also by one of others or one that somebody has tampered with."""

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from click.testing import CliRunner

from asu_builder.cli import main
from asu_builder.signing import pem, usign
from asu_builder.signing.attestation import PAYLOAD_TYPE, to_be_signed

KEY, OTHER = pem.make_key(), pem.make_key()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command runs: the key is in `key.pem`, and an image in `a.bin`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key.pem").write_text(KEY.public.text())
    (tmp_path / "a.bin").write_bytes(b"image")
    return tmp_path


def a_statement(names: Sequence[str] = ("a.bin",), *, digest: str = "") -> dict[str, object]:
    digest = digest or hashlib.sha256(b"image").hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://slsa.dev/provenance/v1",
        "subject": [{"name": name, "digest": {"sha256": digest}} for name in names],
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:x",
                "externalParameters": {"request": {"version": "24.10.4", "profile": "\x1b[31mred"}},
            },
            "runDetails": {"builder": {"id": "https://asu.example.org"}},
        },
    }


def an_envelope(
    statement: object, keys: Sequence[pem.SecretKey] = (KEY,), *, kind: str = PAYLOAD_TYPE
) -> dict[str, object]:
    payload = json.dumps(statement).encode()
    signatures = [key.sign(to_be_signed(payload, kind)).raw for key in keys]
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind,
        "signatures": [{"sig": base64.b64encode(raw).decode()} for raw in signatures],
    }


def verified(envelope: object, *arguments: str) -> tuple[int, str]:
    """Exit code, and what was printed."""
    text = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
    Path("a.intoto.jsonl").write_bytes(text)
    return ran("a.intoto.jsonl", *(arguments or ("--key", "key.pem")))


def ran(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(main, ["verify-provenance", *arguments])
    return ended.exit_code, ended.output


def test_a_statement_says_whose_it_is_without_what_a_terminal_would_obey(folder: Path) -> None:
    code, printed = verified(an_envelope(a_statement()))
    assert code == 0 and "1 of 1 files are what was built" in printed and KEY.public.key_id in printed
    assert "built by https://asu.example.org" in printed and "\x1b" not in printed


@pytest.mark.parametrize("keys", [(OTHER, KEY), (KEY, OTHER), (KEY, KEY)])
def test_one_good_signature_of_several_is_enough(folder: Path, keys: Sequence[pem.SecretKey]) -> None:
    assert verified(an_envelope(a_statement(), keys))[0] == 0


@pytest.mark.parametrize(
    ("envelope", "said"),
    [
        (an_envelope(a_statement(), ()), "not signed by key"),
        (an_envelope(a_statement(), (OTHER,)), "not signed by key"),
        (an_envelope(a_statement(), kind="text/plain"), "around something else than an in-toto statement"),
        (an_envelope({"_type": "x"}), "holds no in-toto statement"),
        (an_envelope(a_statement() | {"predicateType": "https://slsa.dev/provenance/v0.2"}), "another kind"),
        (an_envelope(a_statement(())), "it names no file"),
        (an_envelope(a_statement() | {"subject": [{"name": "a.bin", "digest": {"md5": "0"}}]}), "no SHA-256"),
        (an_envelope([]), "holds no in-toto statement"),
        (b"", "no DSSE envelope"),
        (b"no json", "no DSSE envelope"),
        (b"[" * 100_000, "no DSSE envelope"),
        (an_envelope(a_statement(digest="0" * 64)), "a.bin is another file than the one that was built"),
        (an_envelope(a_statement(["b.bin"])), "None of the files that the statement names is beside it"),
    ],
)
def test_what_does_not_hold_is_told_in_a_sentence(folder: Path, envelope: object, said: str) -> None:
    code, printed = verified(envelope)
    assert code == 5 and said in printed


def test_a_file_stated_twice_with_two_digests_is_refused(folder: Path) -> None:
    twice = a_statement()
    twice["subject"] = [*_subjects(a_statement(digest="0" * 64)), *_subjects(a_statement())]
    code, printed = verified(an_envelope(twice))
    assert code == 5 and "it names a file twice" in printed


def _subjects(statement: Mapping[str, object]) -> Sequence[object]:
    subjects = statement["subject"]
    assert isinstance(subjects, list)
    return subjects


@pytest.mark.parametrize(
    "name", ["../a.bin", "..", "/etc/passwd", "", ".", "x/../a.bin", "a\0b", "a\nb", "x" * 5000]
)
def test_a_name_that_is_no_plain_one_is_never_opened(folder: Path, name: str) -> None:
    (folder / "below").mkdir()
    os.chdir(folder / "below")
    (folder / "below/key.pem").write_text(KEY.public.text())
    # Its digest is another one: who read the file would say so.
    code, printed = verified(an_envelope(a_statement([name], digest="0" * 64)))
    assert code == 5 and printed.count("None of the files") == 1 and "another file" not in printed


def test_a_pipe_or_a_folder_beside_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "below").mkdir()
    code, printed = verified(an_envelope(a_statement(["pipe", "below"])))
    assert code == 5 and "None of the files" in printed
    for name in ("pipe", "below"):
        code, printed = ran(name, "--key", "key.pem")
        assert code == 2 and "is no plain file" in printed
        code, printed = verified(an_envelope(a_statement()), "--key", name)
        assert code == 2 and "it is no plain file" in printed


def test_what_is_enormous_or_not_there_or_no_key_is_a_sentence(folder: Path) -> None:
    with (folder / "huge.jsonl").open("wb") as file:
        file.truncate((64 << 20) + 1)
    code, printed = ran("huge.jsonl", "--key", "key.pem")
    assert code == 2 and "has more than 64 MiB" in printed
    code, printed = ran("absent.jsonl", "--key", "key.pem")
    assert code == 2 and "absent.jsonl cannot be read: No such file" in printed
    for text, said in (
        (KEY.text(), "it is a secret key"),
        (usign.make_key().public.text(), "it is a key of usign"),
        ("", "no key in PEM"),
    ):
        (folder / "bad.pem").write_text(text)
        code, printed = verified(an_envelope(a_statement()), "--key", "bad.pem")
        assert code == 2 and said in printed


class _Server(BaseHTTPRequestHandler):
    """Offers what a test wants it to."""

    files: ClassVar[Mapping[str, bytes]] = {}

    def do_GET(self) -> None:
        content = self.files.get(self.path)
        if self.path == "/keys":
            content = json.dumps({"files": [path.removeprefix("/keys/") for path in self.files]}).encode()
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is told."""


@pytest.fixture
def server() -> Iterator[str]:
    """Its address."""
    with HTTPServer(("127.0.0.1", 0), _Server) as listening:
        thread = Thread(target=listening.serve_forever, args=[0.05])
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        ({f"/keys/{KEY.public.key_id[:16]}.pem": KEY.public.text().encode()}, 0, "are what was built"),
        ({f"/keys/{'0' * 16}.pem": OTHER.public.text().encode()}, 5, "not signed by key"),
        ({f"/keys/{'0' * 16}.pem": b"no key"}, 5, "offers a key that cannot be used"),
        ({}, 3, "offers no key for statements"),
        ({"/keys/0123456789abcdef": b"of images", "/keys/../x.pem": b"x"}, 3, "offers no key for statements"),
    ],
)
def test_the_key_of_a_server_is_used_where_none_is_given(
    folder: Path, server: str, files: Mapping[str, bytes], code: int, said: str
) -> None:
    _Server.files = files
    ended, printed = verified(an_envelope(a_statement()), "--server", server)
    assert ended == code and said in printed
