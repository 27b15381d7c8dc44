"""Images that a service signs, as devices check them, and what becomes of them when the key changes."""

import base64
import hashlib
import json
import time
from pathlib import Path

import pytest

from e2e.conftest import Make
from e2e.service import READ_TOKENS, Client, Service, run
from e2e.test_builds import a_body
from podman_service import APK_VERSION, OPKG_VERSION, PodmanService
from signed_images import Device, is_signed, public_bytes


def _a_key(service: Service, name: str) -> tuple[Path, str]:
    """The file of a new key, and its name."""
    path = service.directory / name
    service.directory.mkdir(parents=True, exist_ok=True)
    made = run(service, "keys", "new", str(path))
    assert made.returncode == 0, made.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    return path, made.stdout.split()[1]


def require_signed(client: Client, done: dict[str, object], key_id: str, *, root: str = "") -> None:
    """What a device with the key of this server says to each file."""
    public = public_bytes(client.get(f"/keys/{key_id}").body)
    assert done["signed_by"] == key_id
    device = Device({key_id: public}, int(time.time()))
    directory = f"/store/{done['request_hash']}"
    assert isinstance(done["images"], list)
    sums = client.get(f"{directory}/sha256sums").body
    listed = {line.split(" *")[1]: line[:64] for line in sums.decode().splitlines()}
    assert is_signed(sums, client.get(f"{directory}/sha256sums.sig").body, public)
    described = json.loads(client.get(f"{directory}/profiles.json").body)
    told = {entry["name"]: entry for entry in described["profiles"][str(done["id"])]["images"]}
    for image in done["images"]:
        content = client.get(f"{directory}/{image['name']}").body
        assert (image["size"], image["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert listed[image["name"]] == image["sha256"]
        if image["name"] in told:
            assert told[image["name"]]["sha256"] == image["sha256"]
        beside = client.get(f"{directory}/{image['name']}.sig")
        if beside.status == 200:
            assert is_signed(content, beside.body, public)
        else:
            assert device.takes(content), image["name"]
            size = int.from_bytes(content[-4:], "big")
            assert hashlib.sha256(content[:-size]).hexdigest() == image["sha256_unsigned"]
            assert device.metadata(content[:-size])
    for name, digest in listed.items():
        assert hashlib.sha256(client.get(f"{directory}/{name}").body).hexdigest() == digest


def test_signed_images_are_taken_by_devices_and_the_key_is_nowhere_else(make_local: Make) -> None:
    service = make_local(api_tokens=READ_TOKENS)
    path, key_id = _a_key(service, "signing.key")
    certificate = service.directory / "signing.ucert"
    certified = run(service, "keys", "certify", str(certificate), "--key", str(path))
    assert certified.returncode == 0, certified.stderr
    chosen = {"signing_key": f"file:{path}", "signing_certificate": certificate, "signing_required": True}
    signing = make_local(**chosen, api_tokens=READ_TOKENS, install_signing_key=True)
    with signing.start().client() as client:
        for version in (APK_VERSION, OPKG_VERSION):
            answer = client.build(a_body(version=version))
            assert answer.status == 200, answer.body
            require_signed(client, answer.json, key_id)
            assert "ucert" in answer.json["manifest"]
        assert client.get("/keys").json == {"files": [key_id, f"{key_id}.ucert"]}
        assert client.get(f"/keys/{key_id}.ucert").body == certificate.read_bytes()
        assert client.get("/keys/signing.key").status == 404
        assert client.health()["parts"]["signing"]["status"] == "ok"
        page = client.get(f"/build/{answer.json['request_hash']}").body.decode()
        assert f'Signed by key <a href="/keys/{key_id}">' in page
        shown = run(signing, "keys", "show")
        assert key_id in shown.stdout and "of 1024 bytes in an image" in shown.stdout, shown.stderr
        saved = run(signing, "backup", str(signing.directory / "backup.db"))
        assert saved.returncode == 0, saved.stderr
    signing.stop()
    line = path.read_bytes().splitlines()[1]
    seed = base64.b64decode(line)[40:72]
    for file in signing.directory.rglob("*"):
        if file.is_file() and file not in (path,):
            content = file.read_bytes()
            assert seed not in content and line not in content and seed.hex().encode() not in content, file


@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
def test_what_containers_built_is_signed_and_none_of_them_sees_the_key(
    make_podman: Make, podman_service: PodmanService, version: str
) -> None:
    made = make_podman()
    path, key_id = _a_key(made, "signing.key")
    line = path.read_bytes().splitlines()[1]
    seed = base64.b64decode(line)[40:72]
    service = make_podman(signing_key=f"file:{path}", signing_required=True)
    with service.start().client() as client:
        held = client.started(a_body(version=version, packages=["sample-slow-5"]))
        # What lies on the disks of all containers while one of them runs.
        for file in podman_service.directory.rglob("*"):
            if file.is_file() and not file.is_symlink():
                content = file.read_bytes()
                assert line not in content and seed not in content, file
        require_signed(client, client.wait(held).json, key_id)


@pytest.mark.long
def test_a_result_of_another_key_or_of_none_is_built_again(make_local: Make) -> None:
    plain = make_local()
    first, first_id = _a_key(plain, "first.key")
    second, second_id = _a_key(plain, "second.key")
    with plain.start().client() as client:
        unsigned = client.build(a_body()).json
        assert "signed_by" not in unsigned
        assert client.get(f"/store/{unsigned['request_hash']}/sha256sums").status == 200
    plain.stop()
    for path, key_id in ((first, first_id), (second, second_id)):
        service = make_local(signing_key=f"file:{path}", signing_required=True)
        with service.start().client() as client:
            assert client.look(unsigned["request_hash"]).status == 404
            assert client.post(a_body()).status == 202
            done = client.build(a_body()).json
            assert done["request_hash"] == unsigned["request_hash"]
            assert {image["sha256_unsigned"] for image in done["images"]} == {
                image["sha256_unsigned"] for image in unsigned["images"]
            }
            require_signed(client, done, key_id)
        service.stop()
    service = make_local(signing_key=f"file:{second}", signing_required=True)
    with service.start().client() as client:
        for _ in range(3):
            # From memory, both.
            assert client.look(unsigned["request_hash"]).status == 200
            assert client.post(a_body()).status == 200
        revoked = run(service, "keys", "revoke", "--yes")
        assert revoked.returncode == 0, revoked.stderr
        assert "1 results that it signed" in revoked.stdout
        # The very next answers of the other process.
        assert client.look(unsigned["request_hash"]).status == 404
        assert client.post(a_body()).status == 202
        assert client.get("/keys").json == {"files": [f"{second_id}.revoke"]}
        assert client.look(unsigned["request_hash"]).status == 202, "never published unsigned"
    service.stop()
    with make_local(signing_key=f"file:{second}").start().client() as client:
        done = client.build(a_body()).json
        assert "signed_by" not in done and "Not all images are signed." in done["warnings"][-2]


@pytest.mark.parametrize("program", ["sleep 0", "false"])
def test_what_must_be_signed_and_cannot_be_is_never_published(
    make_local: Make, tmp_path: Path, program: str
) -> None:
    made = make_local()
    path, _ = _a_key(made, "signing.key")
    service = make_local(
        signing_key=f"exec:{program}", signing_public_key=f"{path}.pub", signing_required=True
    )
    with service.start().client() as client:
        request_hash = client.post(a_body()).json["request_hash"]
        waits = client.wait_until(request_hash, lambda answer: "tried again" in service.stderr(), seconds=60)
        assert waits.status == 202
        assert not list(service.store.glob("[0-9a-f]*"))


def test_a_key_that_cannot_be_used_stops_the_start(make_local: Make) -> None:
    service = make_local()
    path, _ = _a_key(service, "signing.key")
    path.chmod(0o640)
    refused = run(make_local(signing_key=f"file:{path}", signing_required=True), "jobs")
    service = make_local(signing_key=f"file:{path}", signing_required=True)
    service.launch()
    assert service.wait() == 2
    assert f"others may read it (mode 0640): chmod 600 {path}" in service.stderr()
    assert refused.returncode == 2
