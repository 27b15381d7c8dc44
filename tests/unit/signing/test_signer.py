"""Images signed in place: what is refused, what stays as it was, what it costs."""

import hashlib
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from asu_builder.domain.errors import BuildFailed, FailureReason, SigningUnavailable
from asu_builder.domain.job import Image
from asu_builder.signing import fwtool, ucert, usign
from asu_builder.signing.holders import FileKey, ProgramKey
from asu_builder.signing.signer import Signing
from signed_images import KeyInMemory, an_image

NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def key(tmp_path: Path) -> usign.SecretKey:
    """Its secret half is in `signing.key`."""
    key = usign.make_key()
    path = tmp_path / "signing.key"
    path.write_text(key.text())
    path.chmod(0o600)
    return key


def a_signing(
    tmp_path: Path, chain: bytes = b"", *, key: usign.SecretKey | None = None, now: datetime = NOW
) -> Signing:
    """With the key in its file, or with `key` in memory."""
    certificate = tmp_path / "chain.ucert"
    if chain:
        certificate.write_bytes(chain)
    return Signing(
        KeyInMemory(key) if key else FileKey(tmp_path / "signing.key"),
        certificate=certificate if chain else None,
        offered=tmp_path / "keys",
        now=lambda: now,
    )


def certify(
    key: usign.SecretKey, *, by: usign.SecretKey | None = None, days: int = 365, comment: str = ""
) -> bytes:
    start = int(NOW.timestamp())
    return ucert.certify(
        key.public, (by or key).sign, valid_from=start, expires_at=start + days * 86400, comment=comment
    )


def image_of(path: Path) -> Image:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Image(path.name, "sysupgrade", digest, digest, len(content))


def test_an_image_is_signed_in_place_and_signed_again_to_the_same_bytes(
    tmp_path: Path, key: usign.SecretKey
) -> None:
    signing, path = a_signing(tmp_path, certify(key), key=key), tmp_path / "image.bin"
    image = an_image(os.urandom(5000))
    former = usign.make_key()
    path.write_bytes(image)
    for _ in range(2):
        chunk = fwtool.signature_chunk(
            ucert.of_message(former.sign(path.read_bytes())), fwtool.read_trailers(path.read_bytes()).crc
        )
        path.write_bytes(path.read_bytes() + (chunk if _ == 0 else b""))
    told = image_of(path)
    signed = signing.sign_image(told, path)
    content = path.read_bytes()
    assert content.startswith(image) and len(content) == signed.size
    assert signed.sha256 == hashlib.sha256(content).hexdigest()
    assert signed.sha256_unsigned == hashlib.sha256(image).hexdigest()
    message, container = fwtool.split_signed(content)
    trusted = {key.public.key_id: key.public}
    assert message == image and ucert.is_image_signed(message, container, trusted, now=NOW.timestamp())
    again = signing.sign_image(signed, path)
    assert (again, path.read_bytes()) == (signed, content)
    assert not path.with_name("image.bin.sig").exists()


def test_a_file_without_metadata_is_signed_beside_it(tmp_path: Path, key: usign.SecretKey) -> None:
    signing, path = a_signing(tmp_path, key=key), tmp_path / "factory.bin"
    path.write_bytes(b"factory" * 100)
    told = image_of(path)
    assert signing.sign_image(told, path) == told
    signature = usign.parse_signature((tmp_path / "factory.bin.sig").read_bytes())
    assert usign.is_signed(path.read_bytes(), signature, key.public)


@pytest.mark.parametrize("content", [b"", an_image()[:-1] + b"\0", b"x" + an_image()])
def test_an_image_that_cannot_be_signed_fails_the_build_and_stays(
    tmp_path: Path, key: usign.SecretKey, content: bytes
) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(content)
    with pytest.raises(BuildFailed, match=r"image\.bin cannot be signed") as failed:
        a_signing(tmp_path).sign_image(image_of(path), path)
    assert failed.value.reason is FailureReason.INCOMPLETE_OUTPUT
    assert path.read_bytes() == content


def test_each_fault_of_key_and_certificate_is_a_sentence(tmp_path: Path, key: usign.SecretKey) -> None:
    other = usign.make_key()
    good = certify(key)
    two = certify(other, comment="x" * 200) + certify(key, by=other, comment="x" * 200)

    def why(chain: bytes = b"", *, now: datetime = NOW) -> str:
        signing = a_signing(tmp_path, chain, now=now)
        with pytest.raises(SigningUnavailable) as refused:
            signing.require()
        assert signing.check().status == "error" and str(refused.value) in signing.check().sentence
        assert refused.value.public == "This server cannot sign images now. Try again later."
        assert key.text().splitlines()[1] not in str(refused.value)
        return str(refused.value)

    a_signing(tmp_path, good).require()
    assert "certifies the key" in why(certify(other))
    assert "has expired" in why(good, now=NOW + timedelta(days=365))
    assert "not valid yet" in why(good, now=NOW - timedelta(seconds=1))
    assert "longer than 1024 bytes" in why(two)
    assert "no container" in why(good[:-4])
    path = tmp_path / "signing.key"
    path.chmod(0o644)
    assert "others may read it (mode 0644)" in why()
    path.write_text(key.public.text())
    path.chmod(0o600)
    assert "it is a public key" in why()
    path.unlink()
    assert "No such file" in why()
    path.write_text(key.text())
    path.chmod(0o600)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / f"{key.public.key_id}.revoke").write_bytes(b"x")
    assert "is revoked" in why()


def test_a_chain_of_1024_bytes_with_a_signature_is_the_longest(tmp_path: Path, key: usign.SecretKey) -> None:
    other, path = usign.make_key(), tmp_path / "image.bin"
    chain = b""
    for extra in range(400):
        chain = certify(other) + certify(key, by=other, comment="x" * extra)
        if len(chain) + ucert.MESSAGE_BYTES >= ucert.MOST_IN_IMAGE:
            break
    path.write_bytes(an_image())
    a_signing(tmp_path, chain, key=key).sign_image(image_of(path), path)
    _, container = fwtool.split_signed(path.read_bytes())
    assert len(container) == 1024
    longer = certify(other) + certify(key, by=other, comment="x" * (extra + 4))
    assert len(longer) == len(chain) + 4
    signed = path.read_bytes()
    with pytest.raises(SigningUnavailable, match="longer than 1024 bytes"):
        a_signing(tmp_path, longer, key=key).sign_image(image_of(path), path)
    assert path.read_bytes() == signed


def test_a_certificate_that_expires_while_the_service_runs_is_noticed_and_so_is_its_successor(
    tmp_path: Path, key: usign.SecretKey
) -> None:
    certificate, path, clock = tmp_path / "chain.ucert", tmp_path / "image.bin", [NOW]
    certificate.write_bytes(certify(key, days=30))
    signing = Signing(
        KeyInMemory(key), certificate=certificate, offered=tmp_path / "keys", now=lambda: clock[0]
    )
    path.write_bytes(an_image())
    signed = signing.sign_image(image_of(path), path)
    clock[0] = NOW + timedelta(days=30)
    with pytest.raises(SigningUnavailable, match="has expired"):
        signing.sign_image(signed, path)
    assert signing.check().status == "error"
    clock[0] = datetime(1970, 1, 1, tzinfo=UTC)  # a machine without a clock
    with pytest.raises(SigningUnavailable, match="the clock of this machine is wrong"):
        signing.require()
    clock[0] = NOW + timedelta(days=30)
    certificate.write_bytes(certify(key, days=400))
    again = signing.sign_image(signed, path)
    assert again.sha256 != signed.sha256 and again.sha256_unsigned == signed.sha256_unsigned
    assert signing.check().status == "ok"


@pytest.mark.parametrize("size", [1, 15, 16])
def test_an_image_smaller_than_a_trailer_is_signed_beside_it(
    tmp_path: Path, key: usign.SecretKey, size: int
) -> None:
    path = tmp_path / "tiny.bin"
    path.write_bytes(b"x" * size)
    told = image_of(path)
    assert a_signing(tmp_path, key=key).sign_image(told, path) == told
    signature = usign.parse_signature((tmp_path / "tiny.bin.sig").read_bytes())
    assert usign.is_signed(b"x" * size, signature, key.public)


def test_the_last_third_of_a_certificate_is_a_warning(tmp_path: Path, key: usign.SecretKey) -> None:
    chain = certify(key, days=300)
    for days, status in ((0, "ok"), (199, "ok"), (201, "warning"), (301, "error")):
        assert a_signing(tmp_path, chain, now=NOW + timedelta(days=days)).check().status == status
    assert a_signing(tmp_path, chain).expires_at() == NOW + timedelta(days=300)
    assert a_signing(tmp_path).check().status == "ok" and a_signing(tmp_path).expires_at() is None


def a_program(tmp_path: Path, code: str) -> Path:
    path = tmp_path / "sign"
    path.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
    path.chmod(0o755)
    return path


_SIGNS = """
sys.path[:0] = {path!r}
from pathlib import Path
from asu_builder.signing import usign
signature = usign.read_secret_key(Path(sys.argv[1])).sign(sys.stdin.buffer.read())
"""


def with_program(tmp_path: Path, key: usign.SecretKey, code: str, *, seconds: float = 20.0) -> Signing:
    public = tmp_path / "public"
    public.write_text(key.public.text())
    command = f"{a_program(tmp_path, code)} '{tmp_path / 'signing.key'}'"
    holder = ProgramKey(command, public, deadline_seconds=seconds)
    return Signing(holder, certificate=None, offered=tmp_path / "keys", now=lambda: NOW)


@pytest.mark.parametrize(
    "answer", ["sys.stdout.write(signature.text())", "sys.stdout.buffer.write(signature.raw)"]
)
@pytest.mark.process
def test_a_program_signs_what_it_gets(tmp_path: Path, key: usign.SecretKey, answer: str) -> None:
    path, image = tmp_path / "image.bin", an_image(bytes(300_000))
    path.write_bytes(image)
    with_program(tmp_path, key, _SIGNS.format(path=sys.path) + answer).sign_image(image_of(path), path)
    message, container = fwtool.split_signed(path.read_bytes())
    assert ucert.is_image_signed(message, container, {key.public.key_id: key.public}, now=0)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import time; time.sleep(60)", "did not end within 0.5 seconds"),
        ("import os, time; os.close(1); os.close(2); time.sleep(60)", "did not end within 0.5 seconds"),
        ("print('the token is away', file=sys.stderr); sys.exit(3)", "ended with 3: the token is away"),
        ("print('x' * 100)", "answered with no signature"),
        ("sys.stdout.write('x' * 10_000_000)", "answered with no signature"),
        ("sys.stdout.write('x' * 64)", "made a signature that key"),
    ],
)
@pytest.mark.process
def test_a_program_that_fails_leaves_the_image_as_it_was(
    tmp_path: Path, key: usign.SecretKey, code: str, sentence: str
) -> None:
    path = tmp_path / "image.bin"
    image = an_image(bytes(300_000))
    content = image + fwtool.signature_chunk(b"x" * 40, fwtool.read_trailers(image).crc)
    path.write_bytes(content)
    waits = "0.5 seconds" in sentence
    signing = with_program(tmp_path, key, code, seconds=0.5 if waits else 20.0)
    with pytest.raises(SigningUnavailable, match=sentence) as refused:
        signing.sign_image(image_of(path), path)
    # What it prints may be a secret: it is for the log, and for operators.
    assert refused.value.public == "This server cannot sign images now. Try again later."
    assert path.read_bytes() == content
    assert signing.check().status == "warning"


@pytest.mark.process
def test_a_program_that_is_not_there_is_a_sentence(tmp_path: Path, key: usign.SecretKey) -> None:
    signing = with_program(tmp_path, key, "")
    (tmp_path / "sign").unlink()
    path = tmp_path / "x"
    path.write_bytes(b"x")
    with pytest.raises(SigningUnavailable, match="cannot be started: No such file"):
        signing.sign_file(path)


def test_what_is_offered_is_public(tmp_path: Path, key: usign.SecretKey) -> None:
    chain = certify(key)
    signing = a_signing(tmp_path, chain)
    name = key.public.key_id
    assert signing.offers() == {name: key.public.text().encode(), f"{name}.ucert": chain}
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / f"{name}.revoke").write_bytes(b"revoker")
    (tmp_path / "keys" / "notes.revoke").write_bytes(b"not offered")
    assert signing.offers() == {f"{name}.revoke": b"revoker"}
