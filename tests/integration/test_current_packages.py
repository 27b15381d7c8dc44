"""`on_missing: drop` and `as_of` through the whole service and the sample's package manager."""

import gzip
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asgi_client import AsgiClient
from asu_builder.app import assemble
from asu_builder.app.background import Rounds
from asu_builder.settings import Settings
from asu_sample.distribution import write_distribution
from asu_sample.server import DownloadServer
from factories import eventually

PLACE = {"version": "24.10.5", "target": "pico/nine", "profile": "acme_widget-5"}
FEED = "releases/24.10.5/packages/pico_9kc/packages"


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """The download server's files, which a test may change; ImageBuilders install from there."""
    folder = tmp_path / "world" / "downloads"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def client(tmp_path: Path, downloads: Path) -> Iterator[AsgiClient]:
    with DownloadServer(downloads) as server:
        world = write_distribution(downloads.parent, repositories_url=server.url, archives=False)
        settings = Settings(
            database_path=tmp_path / "data" / "a.db",
            public_path=tmp_path / "public",
            upstream_url=server.url,
            container_runtime="local",
            imagebuilder_path=world.template,
            allow_unsandboxed=True,
            worker_concurrent=1,
        )
        with AsgiClient(assemble(settings, rounds=Rounds(tidy=0.3)).app) as running:
            yield running


def build(client: AsgiClient, **fields: Any) -> dict[str, Any]:
    """The answer once the build has ended."""
    answer = client.post("/api/v1/build", PLACE | fields)
    if answer.status == 202:
        poll = f"/api/v1/build/{answer.json['request_hash']}"
        assert eventually(lambda: client.get(poll).status != 202)
        answer = client.get(poll)
    return dict(answer.json)


def offer(downloads: Path, name: str, *, like: str) -> None:
    """From now on the feed has one package more, which is another one under another name."""
    folder = downloads / FEED
    listed = (folder / "Packages").read_text()
    paragraph = next(text for text in listed.split("\n\n") if text.startswith(f"Package: {like}\n"))
    more = f"{listed.rstrip()}\n\n{paragraph.replace(f'Package: {like}', f'Package: {name}')}\n"
    for file, content in (("Packages", more.encode()), ("Packages.gz", gzip.compress(more.encode()))):
        (folder / file).unlink()  # it may be a second name of a file of others
        (folder / file).write_bytes(content)


@pytest.fixture
def short_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of upstream are asked for again after half a second."""
    for module in ("memory", "documents"):
        monkeypatch.setattr(f"asu_builder.upstream.{module}.FRESH_FOR", timedelta(seconds=0.5))


@pytest.mark.long
def test_names_that_exist_nowhere_are_left_out_and_told(
    short_lived: None, client: AsgiClient, downloads: Path
) -> None:
    build(client, packages=["tmux"])  # shows what the ImageBuilder carries
    asked = {"packages": ["vim", "tmuxx", "base-files"], "on_missing": "drop"}
    first = build(client, **asked)
    assert first["status"] == 200 and "vim" in first["manifest"]
    assert first["dropped"] == {"tmuxx": "tmux"}
    assert first["request"]["on_missing"] == "drop" and first["request"]["packages"] == ["vim", "base-files"]
    assert first["request_hash"] != build(client, packages=["vim", "base-files"])["request_hash"]
    again = client.post("/api/v1/build", PLACE | asked).json
    assert (again["request_hash"], again["dropped"]) == (first["request_hash"], {"tmuxx": "tmux"})

    offer(downloads, "tmuxx", like="vim")
    poll = f"/api/v1/build/{first['request_hash']}"
    assert eventually(lambda: client.get(poll).status == 404), "what was missing may be there by now"
    # Now it is there, so that nothing is left out: it is the same as without the field.
    later = client.post("/api/v1/build", PLACE | asked).json
    assert "dropped" not in later and later["request"]["packages"] == asked["packages"]
    plain = client.post("/api/v1/build", PLACE | {"packages": asked["packages"]}).json
    assert plain["request_hash"] == later["request_hash"]


@pytest.mark.long
def test_nothing_is_left_out_that_is_not_surely_missing(client: AsgiClient) -> None:
    # No build has shown yet what the ImageBuilder itself carries.
    first = build(client, packages=["tmuxx"], on_missing="drop")
    assert first["status"] == 500 and "dropped" not in first
    assert first["request"]["packages"] == ["tmuxx"]
    conflict = build(client, packages=["sample-conflict-a", "sample-conflict-b"], on_missing="drop")
    assert conflict["status"] == 500 and "dropped" not in conflict
    known = build(client, packages=["vim"], on_missing="drop")
    assert known["status"] == 200 and "dropped" not in known


@pytest.mark.long
def test_a_stranger_has_only_so_many_selections_looked_at(client: AsgiClient) -> None:
    build(client, packages=["tmux"])

    def drop(number: int) -> Any:
        packages = ["sample-conflict-a", "sample-conflict-b", f"gone-{number}"]
        return client.post("/api/v1/build", PLACE | {"packages": packages, "on_missing": "drop"})

    refused = next(answer for number in range(70) if (answer := drop(number)).status == 429)
    assert "the packages of this moment are limited" in refused.json["detail"]
    assert int(dict(refused.headers)["retry-after"]) > 0
    # What nothing has to be worked out for is answered.
    assert client.post("/api/v1/build", PLACE | {"packages": ["tmux"]}).status == 200


def test_all_who_ask_for_todays_packages_share_one_build(
    short_lived: None, client: AsgiClient, downloads: Path
) -> None:
    first = build(client, packages=["vim"], as_of="today")
    assert first["status"] == 200 and first["indexes"] == first["request"]["as_of"]
    for as_of in ("today", first["indexes"]):
        again = client.post("/api/v1/build", PLACE | {"packages": ["vim"], "as_of": as_of}).json
        assert (again["request_hash"], again["unchanged"]) == (first["request_hash"], True)
    assert "unchanged" not in client.get(f"/api/v1/build/{first['request_hash']}").json

    offer(downloads, "vim-of-another", like="vim")
    answers: list[dict[str, Any]] = []

    def has_moved() -> bool:
        answers.append(
            dict(client.post("/api/v1/build", PLACE | {"packages": ["vim"], "as_of": "today"}).json)
        )
        return bool(answers[-1]["request"].get("as_of") != first["indexes"])

    assert eventually(has_moved)
    gone = client.post("/api/v1/build", PLACE | {"packages": ["tmux"], "as_of": first["indexes"]})
    assert gone.status == 400 and "as_of" in gone.json["detail"]
    kept = client.post("/api/v1/build", PLACE | {"packages": ["vim"], "as_of": first["indexes"]})
    assert kept.json["request_hash"] == first["request_hash"]


@pytest.mark.long
def test_a_result_of_other_packages_than_todays_is_not_built_again_where_its_own_are_the_same(
    short_lived: None, client: AsgiClient, downloads: Path
) -> None:
    plain = build(client, packages=["vim"])
    today = client.post("/api/v1/build", PLACE | {"packages": ["vim"], "as_of": "today"}).json
    assert (today["request_hash"], today["unchanged"]) == (plain["request_hash"], True)
    offer(downloads, "of-no-concern", like="vim")
    for _ in range(3):
        today = client.post("/api/v1/build", PLACE | {"packages": ["vim"], "as_of": "today"}).json
        assert (today["request_hash"], today["unchanged"]) == (plain["request_hash"], True)
