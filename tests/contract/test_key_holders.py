"""What every holder of a key must do: a file, a program, and the one that tests use."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asu_builder.domain.errors import SigningUnavailable
from asu_builder.ports import KeyHolder
from asu_builder.signing import usign
from asu_builder.signing.signer import FileKey, ProgramKey
from signed_images import KeyInMemory

_PROGRAM = """
import sys
sys.path[:0] = sys.argv[2:]
from asu_builder.signing import usign
sys.stdout.write(usign.read_secret_key(sys.argv[1]).sign(sys.stdin.buffer.read()).text())
"""


def _file(folder: Path, _: usign.SecretKey) -> KeyHolder:
    return FileKey(folder / "signing.key")


def _program(folder: Path, key: usign.SecretKey) -> KeyHolder:
    program, public = folder / "sign.py", folder / "signing.key.pub"
    program.write_text(_PROGRAM)
    public.write_text(key.public.text())
    paths = " ".join(f"'{path}'" for path in sys.path if path)
    return ProgramKey(f"'{sys.executable}' '{program}' '{folder / 'signing.key'}' {paths}", public)


def _fake(_: Path, key: usign.SecretKey) -> KeyHolder:
    return KeyInMemory(key)


@pytest.fixture
def key(tmp_path: Path) -> usign.SecretKey:
    made = usign.make_key()
    path = tmp_path / "signing.key"
    path.write_text(made.text("of the tests"))
    path.chmod(0o600)
    return made


@pytest.fixture(params=[_file, _program, _fake], ids=["file", "exec", "fake"])
def holder(request: pytest.FixtureRequest, tmp_path: Path, key: usign.SecretKey) -> KeyHolder:
    make: Callable[[Path, usign.SecretKey], KeyHolder] = request.param
    return make(tmp_path, key)


def test_its_public_half_is_two_lines_that_stay_the_same(holder: KeyHolder, key: usign.SecretKey) -> None:
    assert holder.public_key() == holder.public_key() == key.public.text()


@pytest.mark.parametrize("size", [1, 4096, 3_000_001])
def test_it_signs_a_whole_file_as_usign_does(
    holder: KeyHolder, key: usign.SecretKey, tmp_path: Path, size: int
) -> None:
    # A name that a protocol of lines or words would break.
    message = tmp_path / "an image\n- of 'two' lines.bin"
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    message.write_bytes(content)
    signature = holder.sign(message)
    assert signature == key.sign(content).raw == holder.sign(message), "the same bytes for the same file"
    assert usign.is_signed(content, usign.Signature(key.public.key_id, signature), key.public)
    assert message.read_bytes() == content


def test_a_file_that_is_not_there_is_the_infrastructures_and_tells_nothing_of_the_key(
    holder: KeyHolder, key: usign.SecretKey, tmp_path: Path
) -> None:
    with pytest.raises(SigningUnavailable) as refused:
        holder.sign(tmp_path / "nothing")
    assert key.text().splitlines()[1][40:] not in str(refused.value)
    good = tmp_path / "good"
    good.write_bytes(b"x")
    assert holder.sign(good) == key.sign(b"x").raw, "and the next is signed"


def test_it_is_safe_for_many_threads(holder: KeyHolder, key: usign.SecretKey, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    messages = [tmp_path / f"{number}.bin" for number in range(6)]
    for message in messages:
        message.write_bytes(message.name.encode() * 1000)
    with ThreadPoolExecutor(3) as threads:
        signatures = list(threads.map(holder.sign, messages))
    assert signatures == [key.sign(message.read_bytes()).raw for message in messages]
