"""A build that waits says for what: by every poll, by its repeated request, and on its page."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from asgi_client import AsgiClient
from asu_builder.app import assemble
from asu_builder.app.background import Rounds
from asu_builder.domain.access import digest_of
from asu_builder.domain.health import CheckResult
from asu_builder.http.pages.words import STATES, WAITING_FOR
from asu_builder.ports import Runtime
from asu_builder.settings import Settings
from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from factories import eventually

_BODY = {"version": "25.12.0", "target": "pico/nine", "profile": "acme_small"}
_OPERATOR = {"Authorization": "Bearer secret"}
_SCRIPT = Path(__file__).parents[2] / "src/asu_builder/http/static/build_page.js"


class _Engine:
    """A runtime that works when the test says so."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.result = CheckResult("ok", "It works.")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def check(self) -> CheckResult:
        """What the test says."""
        return self.result


@dataclass
class House:
    """The assembled service with a build that waits, because there are no workers."""

    client: AsgiClient
    public: Path
    engines: list[_Engine]
    name: str = field(default="")

    def wait_until(self, hindrance: str | None) -> None:
        """Returns when polls, the repeated request and the page all say this."""
        assert eventually(lambda: self._told() == hindrance), self._told()
        again = self.client.post("/api/v1/build", _BODY)
        assert (again.status, again.json.get("waiting_for")) == (202, hindrance)
        sentence = WAITING_FOR[hindrance] if hindrance else "Next in the queue"
        page = self.client.get(f"/build/{self.name}")
        assert page.status == 200
        assert f"{sentence}." in re.sub(r"\s+", " ", page.body.decode()), sentence

    def _told(self) -> str | None:
        answer = self.client.get(f"/api/v1/build/{self.name}")
        assert answer.status == 202, "whatever is wrong, it waits"
        told: str | None = answer.json.get("waiting_for")
        return told


@pytest.fixture
def house(tmp_path: Path, sample_world: Distribution) -> Iterator[House]:
    engines: list[_Engine] = []

    def watch(runtime: Runtime) -> Runtime:
        engines.append(_Engine(runtime))
        return engines[0]

    with DownloadServer(sample_world.downloads) as upstream:
        settings = Settings(
            database_path=tmp_path / "data" / "a.db",
            public_path=tmp_path / "public",
            upstream_url=upstream.url,
            container_runtime="local",
            imagebuilder_path="/nowhere",
            allow_unsandboxed=True,
            worker_concurrent=0,
            api_tokens=({"name": "op", "digest": digest_of("secret"), "rights": ["read", "operate"]},),
        )
        rounds = Rounds(health=0.05, disks=0.05)
        with AsgiClient(assemble(settings, watch=watch, rounds=rounds).app) as client:
            taken = client.post("/api/v1/build", _BODY)
            assert taken.status == 202
            house = House(client, tmp_path / "public", engines, taken.json["request_hash"])
            house.wait_until(None)
            # The runtime is made when health is looked at for the first time.
            assert eventually(lambda: bool(engines))
            yield house


def test_for_the_engine(house: House) -> None:
    house.engines[0].result = CheckResult("error", "Podman hangs.")
    house.wait_until("engine")
    house.engines[0].result = CheckResult("ok", "It works.")
    house.wait_until(None)


def test_for_the_operator(house: House) -> None:
    assert house.client.post("/api/v1/workers/pause", b"", _OPERATOR).status == 200
    house.wait_until("paused")
    assert house.client.post("/api/v1/workers/resume", b"", _OPERATOR).status == 200
    house.wait_until(None)


def test_for_the_store_whose_disk_has_gone(house: House) -> None:
    away = house.public.with_name("away")
    house.public.rename(away)
    house.public.write_text("a file, so that it is not made anew")
    house.wait_until("store")
    house.public.unlink()
    away.rename(house.public)
    house.wait_until(None)


def test_for_room(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr("asu_builder.store.scratch.ScratchSpace._free", lambda _: 0)
        house.wait_until("disk_full")
    house.wait_until(None)


def test_the_script_takes_its_words_from_the_page(house: House) -> None:
    house.wait_until(None)
    page = house.client.get(f"/build/{house.name}").body.decode()
    words = re.search(r"data-words='(.*?)'", page)
    assert words is not None
    assert json.loads(words[1]) == {"states": STATES, "waiting_for": WAITING_FOR}
    assert "JSON.parse(page.dataset.words)" in _SCRIPT.read_text()
