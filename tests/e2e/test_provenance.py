"""Statements of where images came from: for everybody to check, without what is not for everybody."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer._key import SSlibKey

from e2e.conftest import Make
from e2e.service import READ_TOKENS, Client, Service, run
from e2e.test_builds import a_body
from factories import eventually
from podman_service import APK_VERSION, OPKG_VERSION

pytestmark = pytest.mark.long

BUILDER = "https://asu.example.org"


def a_provenance_key(service: Service, name: str = "provenance.key") -> Path:
    """The file of a new key."""
    path = service.directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    made = run(service, "keys", "new", "--provenance", str(path))
    assert made.returncode == 0, made.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def stating(path: Path) -> dict[str, Any]:
    """The settings of a server that states where images came from."""
    return {"provenance_key": f"file:{path}", "provenance_builder": BUILDER}


def statement_of(client: Client, done: dict[str, Any]) -> dict[str, Any]:
    """What the server states, after all has been checked that everybody can check."""
    (name,) = (name for name in client.get("/keys").json["files"] if name.endswith(".pem"))
    public = client.get(f"/keys/{name}").body
    directory = f"/store/{done['bin_dir']}"
    text = client.get(f"{directory}/{done['provenance']}").body
    assert text.count(b"\n") == 1
    envelope = Envelope.from_dict(json.loads(text))
    key_id = hashlib.sha256(public).hexdigest()
    assert key_id.startswith(name.removesuffix(".pem"))
    envelope.verify([SSlibKey.from_crypto(load_pem_public_key(public), keyid=key_id)], 1)
    statement: dict[str, Any] = json.loads(envelope.payload)
    digests = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    for file, digest in digests.items():
        assert hashlib.sha256(client.get(f"{directory}/{file}").body).hexdigest() == digest, file
    images = {image["name"]: image for image in done["images"]}
    assert {*images, "sha256sums", *done["sbom"].values()} <= digests.keys()
    assert done["provenance"] not in digests
    assert done["provenance"] not in client.get(f"{directory}/sha256sums").body.decode()
    for subject in statement["subject"]:
        if subject["name"] in images:
            unsigned = images[subject["name"]]["sha256_unsigned"]
            assert subject["annotations"] == {"sha256_unsigned": unsigned}
    return statement


def without_times(statement: dict[str, Any]) -> dict[str, Any]:
    """All of the statement but its times."""
    times = statement["predicate"]["runDetails"].pop("metadata")
    assert set(times) == {"startedOn", "finishedOn"}
    return statement


@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
def test_everybody_can_check_where_an_image_came_from(make_local: Make, version: str) -> None:
    service = make_local(api_tokens=READ_TOKENS)
    path = a_provenance_key(service)
    made = run(service, "keys", "new", str(service.directory / "signing.key"))
    assert made.returncode == 0
    stated = make_local(
        **stating(path),
        signing_key=f"file:{service.directory / 'signing.key'}",
        signing_required=True,
        allow_defaults=True,
        api_tokens=READ_TOKENS,
    )
    body = a_body(version=version, defaults="uci set wireless.key=wlan-password")
    with stated.start().client() as client:
        done = client.build(body).json
        statement = statement_of(client, done)
        assert "sha256sums.sig" in {subject["name"] for subject in statement["subject"]}
        text = json.dumps(statement)
        assert "wlan-password" not in text and done["request_hash"] not in text
        assert str(stated.directory) not in text
        definition = statement["predicate"]["buildDefinition"]
        assert definition["externalParameters"]["request"]["profile"] == done["id"]
        assert definition["internalParameters"]["packages"] == done["build_cmd_packages"]
        assert statement["predicate"]["runDetails"]["builder"]["id"] == BUILDER
        packages = {entry["name"]: entry for entry in definition["resolvedDependencies"]}
        assert done["manifest"].keys() <= packages.keys()
        indexed = [packages[name] for name in done["manifest"] if "annotations" in packages[name]]
        assert indexed, "no package was found in an index"
        for entry in indexed:
            is_file = "digest" in entry
            assert is_file is (version == OPKG_VERSION)
            assert ("apk_metadata_digest" in entry["annotations"]) is not is_file
        indexes = [entry for name, entry in packages.items() if name.startswith("package index ")]
        assert indexes
        assert all(len(entry["digest"]["sha256"]) == 64 for entry in indexes)
        assert client.health()["parts"]["provenance"]["status"] == "ok"
        # Once more, by the same indexes: but for times the same statement.
        assert run(stated, "jobs", "purge", done["request_hash"]).stdout == "purged\n"
        assert eventually(lambda: client.look(done["request_hash"]).status == 404)
        again = client.build(body).json
        assert again["enqueued_at"] != done["enqueued_at"]
        assert without_times(statement_of(client, again)) == without_times(statement)
    stated.stop()
    secret = path.read_bytes().splitlines()[1]
    for file in stated.directory.rglob("*"):
        if file.is_file() and file != path:
            assert secret not in file.read_bytes(), file


def test_what_was_kept_without_a_statement_is_built_again_where_one_is_required(make_local: Make) -> None:
    service = make_local()
    path = a_provenance_key(service)
    with service.start().client() as client:
        former = client.build(a_body()).json
        assert "provenance" not in former
    service.stop()
    requiring = make_local(**stating(path), signing_required=True)
    with requiring.start().client() as client:
        again = client.build(a_body()).json
        assert again["request_hash"] == former["request_hash"]
        statement_of(client, again)
        assert "signed_by" not in again, "there is no key for that"
        once_more = client.build(a_body()).json
        assert once_more["enqueued_at"] == again["enqueued_at"], "a result that states it is kept"


def test_what_containers_built_names_the_container_image(make_podman: Make) -> None:
    made = make_podman()
    service = make_podman(**stating(a_provenance_key(made)), signing_required=False)
    with service.start().client() as client:
        statement = statement_of(client, client.build(a_body()).json)
    definition = statement["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["isolation"] == "container"
    image = definition["resolvedDependencies"][0]
    assert image["name"] == "container image" and image["uri"].startswith("docker://")
    assert len(image["digest"]["sha256"]) == 64


def test_the_commands_of_the_documentation_check_a_statement(make_local: Make, tmp_path: Path) -> None:
    made = make_local()
    path = a_provenance_key(made)
    page = (Path(__file__).resolve().parents[2] / "docs/provenance.md").read_text()
    commands = page.split("## Check it")[1].split("```sh operator\n")[2].split("```")[0]
    assert "openssl" in commands and "sha256sum" in commands
    service = make_local(**stating(path))
    with service.start().client() as client:
        address = f"http://127.0.0.1:{service.port}"
        done = client.build(a_body()).json
        statement_of(client, done)
        page = client.get(f"/build/{done['request_hash']}").body.decode()
        assert done["provenance"] in page and "Where this image came from" in page
        checked_there = run(made, "verify-provenance", done["request_hash"], "--server", address)
        assert checked_there.returncode == 0, checked_there.stderr
        image = done["images"][0]["name"]
        for name in (done["provenance"], image):
            (tmp_path / name).write_bytes(client.get(f"/store/{done['bin_dir']}/{name}").body)
    shutil.copy(f"{path}.pub", tmp_path / "KEY.pem")
    commands = commands.replace("FILE", done["provenance"])
    given = ("verify-provenance", str(tmp_path / done["provenance"]), "--key", str(tmp_path / "KEY.pem"))
    ours = run(made, *given)
    assert ours.returncode == 0 and f"built by {BUILDER}" in ours.stdout, ours.stderr

    def checked() -> tuple[int, str]:
        ended = subprocess.run(
            ["bash", "-ec", f"set -o pipefail\n{commands}"], cwd=tmp_path, capture_output=True, text=True
        )
        return ended.returncode, ended.stdout

    code, printed = checked()
    assert code == 0 and "Signature Verified Successfully" in printed and f"{image}: OK" in printed
    with (tmp_path / image).open("ab") as file:
        file.write(b"x")
    code, printed = checked()
    assert code != 0 and f"{image}: FAILED" in printed
    ours = run(made, *given)
    assert (ours.returncode, ours.stdout) == (5, "")
    assert f"{image} is another file than the one that was built." in ours.stderr
    other = a_provenance_key(made, "other.key")
    shutil.copy(f"{other}.pub", tmp_path / "KEY.pem")
    code, printed = checked()
    assert code != 0 and "Signature Verification Failure" in printed
    ours = run(made, *given)
    assert ours.returncode == 5 and "The statement is not signed by key" in ours.stderr


@pytest.mark.parametrize("program", ["sleep 0", "false"])
def test_without_a_signature_there_is_no_statement(make_local: Make, program: str) -> None:
    made = make_local()
    path = a_provenance_key(made)
    chosen = {
        "provenance_key": f"exec:{program}",
        "provenance_public_key": f"{path}.pub",
        "provenance_builder": BUILDER,
    }
    with make_local(**chosen, api_tokens=READ_TOKENS).start().client() as client:
        done = client.build(a_body()).json
        assert "provenance" not in done
        assert done["warnings"][-1].startswith("It is not stated where the images came from.")
        assert str(path.parent) not in json.dumps(done["warnings"])
        sums = client.get(f"/store/{done['bin_dir']}/sha256sums").body.decode()
        assert "intoto" not in sums
        assert eventually(lambda: client.health()["parts"]["provenance"]["status"] == "degraded")


def test_a_key_that_cannot_be_used_stops_the_start_where_signatures_are_required(make_local: Make) -> None:
    made = make_local()
    path = a_provenance_key(made)
    signing = run(made, "keys", "new", str(made.directory / "signing.key"))
    assert signing.returncode == 0
    path.chmod(0o644)
    key = f"file:{made.directory / 'signing.key'}"
    service = make_local(**stating(path), signing_key=key, signing_required=True)
    service.launch()
    assert service.wait() == 2
    assert "provenance_key: The provenance key" in service.stderr()
    assert f"others may read it (mode 0644): chmod 600 {path}" in service.stderr()
    checked = run(service, "doctor", "--json")
    found = {check["name"]: check for check in json.loads(checked.stdout)["checks"]}
    assert found["provenance"]["status"] == "error"
