"""Statements in envelopes, as a library of others reads them, and keys in PEM that are good for it or not."""

import base64
import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.dsse import Envelope as ForeignEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import SSlibKey

from asu_builder.domain.errors import SigningUnavailable
from asu_builder.signing import pem, usign
from asu_builder.signing.attestation import (
    Attestation,
    BadEnvelope,
    parse_envelope,
    to_be_signed,
)
from asu_builder.signing.holders import PROVENANCE, FileKey, ProgramKey
from signed_images import KeyInMemory

STATEMENT = b'{"_type":"https://in-toto.io/Statement/v1"}'


def written(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def an_attestation(path: Path) -> Attestation:
    """By a key in a file, which a process of its own reads."""
    return Attestation(FileKey(path, PROVENANCE))


def foreign_key(public: str, key_id: str) -> SSlibKey:
    return SSlibKey.from_crypto(load_pem_public_key(public.encode()), keyid=key_id)


def require_foreign(envelope: bytes, public: str, key_id: str) -> bytes:
    """Passes where securesystemslib takes it; the statement."""
    read = ForeignEnvelope.from_dict(json.loads(envelope))
    read.verify([foreign_key(public, key_id)], 1)
    return read.payload


def test_an_envelope_is_read_by_others_and_no_byte_of_it_can_be_another() -> None:
    key = pem.make_key()
    signed = Attestation(KeyInMemory(key)).sign_statement(STATEMENT)
    assert signed.count(b"\n") == 1 and signed.endswith(b"\n")
    public, key_id = key.public.text(), key.public.key_id
    assert key_id == hashlib.sha256(public.encode()).hexdigest()
    assert require_foreign(signed, public, key_id) == STATEMENT
    envelope = parse_envelope(signed)
    assert envelope.is_signed_by(key.public) and envelope.statement == STATEMENT
    assert not envelope.is_signed_by(pem.make_key().public)
    for at in range(len(STATEMENT)):
        other = bytearray(STATEMENT)
        other[at] ^= 1
        document = json.loads(signed) | {"payload": base64.b64encode(other).decode()}
        forged = json.dumps(document).encode()
        assert not parse_envelope(forged).is_signed_by(key.public)
        if at % 8 == 0:
            with pytest.raises(VerificationError):
                require_foreign(forged, public, key_id)


def test_what_others_have_signed_is_read_too(tmp_path: Path) -> None:
    key = pem.make_key()
    secret = load_pem_private_key(key.text().encode(), None)
    assert isinstance(secret, Ed25519PrivateKey)
    foreign = ForeignEnvelope(STATEMENT, "application/vnd.in-toto+json", {})
    assert foreign.pae() == to_be_signed(STATEMENT)
    signature = base64.urlsafe_b64encode(secret.sign(foreign.pae())).decode()
    document = {
        "payload": base64.urlsafe_b64encode(STATEMENT).decode(),
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"sig": base64.b64encode(bytes(64)).decode()}, {"sig": signature, "more": 1}],
    }
    assert parse_envelope(json.dumps(document).encode()).is_signed_by(key.public)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"payload":"","payloadType":"text/plain","signatures":[]}',
        b'{"payload":1,"payloadType":"application/vnd.in-toto+json","signatures":[]}',
        b"[" * 100_000,
        b'{"payload":"\xff","payloadType":"application/vnd.in-toto+json","signatures":[]}',
    ],
)
def test_what_is_no_envelope_is_refused(text: bytes) -> None:
    with pytest.raises(BadEnvelope):
        parse_envelope(text)


@pytest.mark.parametrize("part", ["payload", "sig"])
def test_what_is_no_base64_is_refused(part: str) -> None:
    text = (
        f'{{"payload":"{"*" if part == "payload" else "AAAA"}","payloadType":"application/vnd.in-toto+json",'
        f'"signatures":[{{"sig":"{"é" if part == "sig" else "AAAA"}"}}]}}'
    )
    with pytest.raises(BadEnvelope, match="no Base64"):
        parse_envelope(text.encode()).is_signed_by(pem.make_key().public)


def _bad_keys() -> dict[str, tuple[bytes, str]]:
    key = pem.make_key()
    secret = load_pem_private_key(key.text().encode(), None)
    locked = secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    curve = ec.generate_private_key(ec.SECP256R1())
    other = curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {
        "empty": (b"", "no key in PEM"),
        "public": (key.public.text().encode(), "it is a public key"),
        "usign": (usign.make_key().text().encode(), "it is a key of usign for images"),
        "locked": (locked, "protected by a password"),
        "other": (other, "of another kind than Ed25519"),
        "half": (key.text().encode()[:70], "damaged"),
        "bytes": (b"\xff\0" * 500, "no key in PEM"),
        "long": (b"-----BEGIN PRIVATE KEY-----\n" * 1000, "no key in PEM"),
    }


@pytest.mark.process
@pytest.mark.parametrize("kind", ["empty", "public", "usign", "locked", "other", "half", "bytes", "long"])
def test_a_key_that_cannot_be_used_is_named_by_a_sentence_that_holds_nothing_of_it(
    tmp_path: Path, kind: str
) -> None:
    text, said = _bad_keys()[kind]
    attestation = an_attestation(written(tmp_path / "key", text))
    with pytest.raises(SigningUnavailable, match=said) as caught:
        attestation.require()
    assert str(tmp_path / "key") in str(caught.value) and str(tmp_path) not in caught.value.public
    lines = [line for line in text.splitlines() if len(line) > 20 and b"-----" not in line]
    assert not any(line.decode("latin-1") in str(caught.value) for line in lines)
    assert attestation.check().status == "error" and attestation.offers() == {}


@pytest.mark.process
def test_a_key_that_others_may_read_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "key", pem.make_key().text(), 0o640)
    with pytest.raises(SigningUnavailable, match=r"others may read it \(mode 0640\)"):
        an_attestation(path).require()
    path.chmod(0o600)
    an_attestation(path).require()
    with pytest.raises(SigningUnavailable, match="No such file"):
        an_attestation(tmp_path / "none").require()


def test_the_key_of_images_is_no_key_for_statements(tmp_path: Path) -> None:
    of_images = usign.make_key()
    # The same secret in the other form: what a person could do who wants one key only.
    seed = base64.b64decode(of_images.text().splitlines()[1])[40:72]
    same = pem.SecretKey(Ed25519PrivateKey.from_private_bytes(seed))
    holder = FileKey(written(tmp_path / "images.key", of_images.text()))
    attestation = Attestation(KeyInMemory(same), of_images=holder)
    with pytest.raises(SigningUnavailable, match="statements need another key"):
        attestation.sign_statement(STATEMENT)
    (tmp_path / "images.key").unlink()
    missing = Attestation(KeyInMemory(pem.make_key()), of_images=FileKey(tmp_path / "images.key"))
    assert missing.check().status == "ok"


def test_everybody_may_have_the_public_half_and_nothing_shows_the_other() -> None:
    key = pem.make_key()
    attestation = Attestation(KeyInMemory(key))
    assert attestation.offers() == {f"{key.public.key_id[:16]}.pem": key.public.text().encode()}
    told = f"Where images came from is stated by key {key.public.key_id[:16]}."
    assert attestation.check().sentence == told
    assert key.text().splitlines()[1] not in repr(key)
    with pytest.raises(TypeError):
        import pickle

        pickle.dumps(key)


@pytest.mark.process
def test_openssl_can_hold_the_key(tmp_path: Path) -> None:
    """The command of the documentation, and one that answers with another key's signature."""
    key, other = pem.make_key(), pem.make_key()
    public = written(tmp_path / "key.pub", key.public.text())
    for held, verdict in ((key, "ok"), (other, "warning")):
        secret = written(tmp_path / "key", held.text())
        command = f"openssl pkeyutl -sign -rawin -inkey {secret} -in /dev/stdin"
        attestation = Attestation(ProgramKey(command, public, PROVENANCE))
        if verdict == "ok":
            signed = attestation.sign_statement(STATEMENT)
            assert require_foreign(signed, key.public.text(), key.public.key_id) == STATEMENT
        else:
            with pytest.raises(SigningUnavailable, match=f"{key.public.key_id[:16]} does not have"):
                attestation.sign_statement(STATEMENT)
        assert attestation.check().status == verdict


@pytest.mark.process
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sleep 60", "did not end within 0.5 seconds"),
        ("false", "ended with 1: it said nothing"),
        ("echo garbage", "answered with no signature"),
        ("/nonexistent/sign", "cannot be started"),
    ],
)
def test_a_program_that_does_not_sign_is_named(tmp_path: Path, command: str, said: str) -> None:
    public = written(tmp_path / "key.pub", pem.make_key().public.text())
    holder = ProgramKey(command, public, PROVENANCE, deadline_seconds=0.5)
    attestation = Attestation(holder)
    with pytest.raises(SigningUnavailable, match=said):
        attestation.sign_statement(STATEMENT)
    found = attestation.check()
    assert found.status == "warning" and said in found.sentence


@pytest.mark.process
def test_openssl_reads_our_keys_and_we_read_its(tmp_path: Path) -> None:
    key = pem.make_key()
    secret = written(tmp_path / "key", key.text())
    told = subprocess.run(
        ["openssl", "pkey", "-in", str(secret), "-pubout"], check=True, capture_output=True
    ).stdout
    assert told.decode() == key.public.text()
    made = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519"], check=True, capture_output=True
    ).stdout
    assert an_attestation(written(tmp_path / "made", made)).check().status == "ok"
