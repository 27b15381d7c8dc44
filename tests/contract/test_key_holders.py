"""What every holder of a key of either kind must do: a file, a program, and the one that tests use."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from asu_builder.domain.errors import SigningUnavailable
from asu_builder.ports import KeyHolder
from asu_builder.signing import pem, usign
from asu_builder.signing.holders import IMAGES, PROVENANCE, FileKey, KeyKind, ProgramKey, PublicHalf
from signed_images import KeyInMemory

_PROGRAM = """
import sys
sys.path[:0] = sys.argv[2:]
from asu_builder.signing import {module}
sys.stdout.buffer.write({module}.read_secret_key(sys.argv[1]).sign(sys.stdin.buffer.read()).{answer})
"""
_ANSWERS = {IMAGES: "text().encode()", PROVENANCE: "raw"}


class Held(NamedTuple):
    """A key of one kind in a file, and where its holder may put files of its own."""

    kind: KeyKind
    key: usign.SecretKey | pem.SecretKey
    path: Path


def _file(held: Held) -> KeyHolder:
    return FileKey(held.path, held.kind)


def _program(held: Held) -> KeyHolder:
    program, public = held.path.with_name("sign.py"), held.path.with_name("signing.key.pub")
    program.write_text(_PROGRAM.format(module=held.kind.name, answer=_ANSWERS[held.kind]))
    public.write_text(held.key.public.text())
    paths = " ".join(f"'{path}'" for path in sys.path if path)
    return ProgramKey(f"'{sys.executable}' '{program}' '{held.path}' {paths}", public, held.kind)


def _fake(held: Held) -> KeyHolder:
    return KeyInMemory(held.key)


@pytest.fixture(params=[(IMAGES, usign.make_key), (PROVENANCE, pem.make_key)], ids=["usign", "pem"])
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Held:
    kind, make = request.param
    held = Held(kind, make(), tmp_path / "signing.key")
    held.path.write_text(held.key.text())
    held.path.chmod(0o600)
    return held


@pytest.fixture(params=[_file, _program, _fake], ids=["file", "exec", "fake"])
def holder(request: pytest.FixtureRequest, held: Held) -> KeyHolder:
    make: Callable[[Held], KeyHolder] = request.param
    return make(held)


def test_its_public_half_is_a_text_that_stays_the_same(holder: KeyHolder, held: Held) -> None:
    assert holder.public_key() == holder.public_key() == held.key.public.text()
    holder.examine()


@pytest.mark.parametrize("size", [1, 4096, 3_000_001])
def test_it_signs_a_whole_file(holder: KeyHolder, held: Held, tmp_path: Path, size: int) -> None:
    # A name that a protocol of lines or words would break.
    message = tmp_path / "an image\n- of 'two' lines.bin"
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    message.write_bytes(content)
    signature = holder.sign(message)
    assert signature == held.key.sign(content).raw == holder.sign(message), "the same bytes for the same file"
    Ed25519PublicKey.from_public_bytes(held.key.public.raw).verify(signature, content)
    assert message.read_bytes() == content


def test_a_file_that_is_not_there_is_the_infrastructures_and_tells_nothing_of_the_key(
    holder: KeyHolder, held: Held, tmp_path: Path
) -> None:
    with pytest.raises(SigningUnavailable) as refused:
        holder.sign(tmp_path / "nothing")
    assert held.key.text().splitlines()[1][40:] not in str(refused.value)
    good = tmp_path / "good"
    good.write_bytes(b"x")
    assert holder.sign(good) == held.key.sign(b"x").raw, "and the next is signed"


def test_it_is_safe_for_many_threads(holder: KeyHolder, held: Held, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    messages = [tmp_path / f"{number}.bin" for number in range(6)]
    for message in messages:
        message.write_bytes(message.name.encode() * 1000)
    with ThreadPoolExecutor(3) as threads:
        signatures = list(threads.map(holder.sign, messages))
    assert signatures == [held.key.sign(message.read_bytes()).raw for message in messages]


@pytest.mark.parametrize("make", [_file, _program], ids=["file", "exec"])
def test_what_is_lacking_is_found_without_signing(make: Callable[[Held], KeyHolder], held: Held) -> None:
    holder = make(held)
    for path in list(held.path.parent.glob("signing.key*")):
        path.unlink()
    with pytest.raises(SigningUnavailable, match="No such file"):
        holder.examine()


def test_the_public_half_alone_signs_nothing(held: Held, tmp_path: Path) -> None:
    path = tmp_path / "public"
    path.write_text(held.key.public.text())
    half = PublicHalf(path, held.kind)
    half.examine()
    assert half.public_key() == held.key.public.text()
    with pytest.raises(SigningUnavailable, match=f"Only the public half of the {held.kind.title} is here"):
        half.sign(path)
    path.write_text(held.key.text())
    with pytest.raises(SigningUnavailable, match="it is a secret key"):
        half.public_key()
