"""Scripts and keys of requests under a secrets key, as operator and client see them."""

import base64
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import Make
from e2e.service import READ_TOKENS, Service, run
from e2e.test_builds import a_body
from factories import eventually

PASSWORD = "correct horse battery staple"


def _with_script(name: str) -> dict[str, Any]:
    return a_body(defaults=f"uci set wireless.radio0.key='{PASSWORD}'  # {name}")


def _a_key(service: Service, name: str) -> Path:
    path = service.directory / name
    service.directory.mkdir(parents=True, exist_ok=True)
    made = run(service, "keys", "new-secrets", str(path))
    assert made.returncode == 0 and "--step rewrap" in made.stdout, made.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def _refused(service: Service) -> str:
    """What a start says that ends at once, with the code of a wrong setting."""
    ended = run(service, "serve")
    assert ended.returncode == 2, (ended.stdout, ended.stderr)
    return ended.stderr


def test_a_script_is_built_and_echoed_and_lies_nowhere_in_plain_text(make_local: Make) -> None:
    path = _a_key(make_local(), "secrets.key")
    service = make_local(secrets_key=path, api_tokens=READ_TOKENS)
    with service.start().client() as client:
        body = _with_script("a")
        built = client.build(body)
        assert built.status == 200 and built.json["request"]["defaults"] == body["defaults"], built.body
        assert client.post(body).json["request"]["defaults"] == body["defaults"]
        assert client.health()["parts"]["secrets"]["status"] == "ok"
        rotated = run(service, "keys", "rotate-secrets")
        assert rotated.returncode == 0 and "1 data keys were wrapped again" in rotated.stdout, rotated.stderr
        again = client.build(_with_script("b"))
        assert again.status == 200, again.body
        saved = run(service, "backup", str(service.directory / "backup.db"))
        assert saved.returncode == 0, saved.stderr
        key = base64.b64decode(path.read_bytes().splitlines()[1].split()[1])
        for file in service.directory.rglob("*.db*"):
            content = file.read_bytes()
            assert PASSWORD.encode() not in content and key not in content, file
    service.stop()
    with service.start().client() as client:
        for answer, name in ((built, "a"), (again, "b")):
            found = client.get(f"/api/v1/build/{answer.json['request_hash']}")
            assert found.json["request"]["defaults"] == _with_script(name)["defaults"]
    service.stop()
    assert PASSWORD not in service.stderr()


@pytest.mark.long
def test_a_lost_key_ends_the_start_with_what_to_do(make_local: Make) -> None:
    path = _a_key(make_local(), "secrets.key")
    service = make_local(secrets_key=path)
    with service.start().client() as client:
        built = client.build(_with_script("a"))
        assert built.status == 200, built.body
    service.stop()
    assert "1 requests are encrypted under the secrets key" in _refused(make_local())
    kept = path.read_bytes()
    path.unlink()
    assert f"secrets_key: {path} cannot be used: it cannot be read: No such file" in _refused(service)
    other = _a_key(make_local(), "secrets.key")
    assert f"{other} does not have it" in _refused(service)
    path.write_bytes(kept)
    path.chmod(0o644)
    assert "others may read it (mode 0644)" in _refused(service)
    path.unlink()
    _a_key(make_local(), "secrets.key")
    given_up = run(service, "keys", "rotate-secrets", "--step", "rewrap", "--discard", "--yes")
    assert given_up.returncode == 0 and "1 requests were given up" in given_up.stdout, given_up.stderr
    with service.start().client() as client:
        assert client.get(f"/api/v1/build/{built.json['request_hash']}").status == 404
        assert client.build(_with_script("a")).status == 200


@pytest.mark.long
def test_a_request_whose_key_is_gone_is_unavailable_until_it_is_sent_again(make_local: Make) -> None:
    path = _a_key(make_local(), "secrets.key")
    service = make_local(secrets_key=path, api_tokens=READ_TOKENS)
    with service.start().client() as client:
        built, plain = client.build(_with_script("a")), client.build(a_body())
        assert (built.status, plain.status) == (200, 200)
    service.stop()
    kept = path.read_bytes()
    with service.start().client() as client:
        path.unlink()
        _a_key(make_local(), "secrets.key")
        address = f"/api/v1/build/{built.json['request_hash']}"
        answer = client.ask("GET", address)
        assert answer.status == 503 and "Send the whole request again" in answer.json["detail"], answer.body
        assert client.get(f"/api/v1/build/{plain.json['request_hash']}").status == 200
        assert eventually(lambda: "does not have it" in client.health()["parts"]["secrets"]["sentence"])
        assert client.post(_with_script("a")).status == 200
        assert client.get(address).status == 200
        path.write_bytes(kept)
