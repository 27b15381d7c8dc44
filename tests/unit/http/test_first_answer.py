"""A start pays for what its first answer needs; the router comes after it, or with the first who needs it."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bench.sample import FINISHED, seed
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asu_builder.database.secrets import make_key, write_keys
from asu_builder.domain.job import StoredFiles
from asu_builder.http.app import LateRouter
from asu_builder.http.threads import Threads
from asu_builder.loading import Late

_FIRST_ANSWER = """
import asyncio, sys
from pathlib import Path
import asu_builder.cli.serving
from asu_builder.app import assemble
from asu_builder.settings import Settings

folder = Path(sys.argv[1])
settings = Settings(
    database_path=folder / "bench.db",
    public_path=folder / "public",
    upstream_url="http://127.0.0.1:9",
    redis_url="redis://127.0.0.1:9",
    secrets_key=sys.argv[4],
    container_runtime="podman",
    store_url=sys.argv[3],
)
app = assemble(settings, only_answers=True).app

async def start_and_poll():
    to_app, from_app, answer = asyncio.Queue(), asyncio.Queue(), []
    life = asyncio.create_task(app({"type": "lifespan"}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"

    async def send(message):
        answer.append(message)

    poll = {"type": "http", "method": "GET", "path": sys.argv[2], "headers": [], "client": ("127.0.0.1", 1)}
    await app(poll, to_app.get, send)
    loaded = sorted(sys.modules)
    await to_app.put({"type": "lifespan.shutdown"})
    await life
    print(answer[0]["status"], *loaded)

asyncio.run(start_and_poll())
"""


@pytest.mark.process
@pytest.mark.parametrize("store_url", ["", "s3://images/asu"])
def test_a_poll_is_answered_before_the_router_and_its_libraries_are_loaded(
    tmp_path: Path, store_url: str
) -> None:
    files = StoredFiles("ours.1", {"x.bin": 1}, datetime.now(UTC)) if store_url else None
    seed(tmp_path, files=files)
    key = tmp_path / "secrets.key"
    write_keys(key, [make_key()], new=True)
    poll = f"/api/v1/build/{FINISHED}"
    result = subprocess.run(
        [sys.executable, "-c", _FIRST_ANSWER, str(tmp_path), poll, store_url, str(key)],
        check=True,
        capture_output=True,
        text=True,
    )
    status, *loaded = result.stdout.split()
    assert status == "200" and "asu_builder.http.fast_path" in loaded
    late = {"starlette", "anyio", "html", "podman", "urllib3", "yaml", "package_changes", "obstore"}
    late |= {"redis", "cryptography"}
    late |= {"psycopg", "psycopg_pool"}
    assert {name.partition(".")[0] for name in loaded} & late == set()
    assert {"asu_builder.http.routes", "asu_builder.http.representations", "http.client"} & {*loaded} == set()
    # OpenSSL's hashes, the terminal, and what only the router shows.
    assert {"_hashlib", "getpass", "asu_builder.http.api.monitoring"} & {*loaded} == set()
    assert {"asu_builder.core.statistics", "asu_builder.core.comparison"} & {*loaded} == set()


class Router:
    """Counts how often it is made, and can be told to fail then."""

    def __init__(self) -> None:
        self.made = 0
        self.fails = False

    def make(self) -> ASGIApp:
        self.made += 1
        if self.fails:
            raise OSError("too many open files")

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})

        return answer


@contextlib.asynccontextmanager
async def living(router: Router) -> AsyncIterator[LateRouter]:
    """A late router between its start and its end."""
    threads = Threads(2, name="test")

    @contextlib.asynccontextmanager
    async def life() -> AsyncIterator[None]:
        yield
        threads.close()

    late = LateRouter(Late(router.make), threads, life)
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    lives = asyncio.ensure_future(late({"type": "lifespan"}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert await from_app.get() == {"type": "lifespan.startup.complete"}
    yield late
    await to_app.put({"type": "lifespan.shutdown"})
    assert await from_app.get() == {"type": "lifespan.shutdown.complete"}
    await lives


async def ask(late: LateRouter) -> int:
    """The status of an answer."""
    sent: asyncio.Queue[Message] = asyncio.Queue()
    await late({"type": "http"}, sent.get, sent.put)
    return int((await sent.get())["status"])


def test_the_router_is_made_once_for_all_who_are_first() -> None:
    router = Router()

    async def test() -> list[int]:
        async with living(router) as late:
            assert router.made == 0
            return await asyncio.gather(*(ask(late) for _ in range(8)))

    assert asyncio.run(test()) == [200] * 8 and router.made == 1


def test_the_router_is_loaded_soon_after_the_start_though_nobody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = Router()
    monkeypatch.setattr("asu_builder.http.app._ROUTER_AFTER_SECONDS", 0.0)

    async def test() -> None:
        async with living(router):
            async with asyncio.timeout(10):
                while not router.made:
                    await asyncio.sleep(0.001)

    asyncio.run(test())


def test_a_router_that_cannot_be_loaded_is_loaded_by_the_next_request() -> None:
    router = Router()
    router.fails = True

    async def test() -> int:
        async with living(router) as late:
            with pytest.raises(OSError, match="too many open files"):
                await ask(late)
            router.fails = False
            return await ask(late)

    assert asyncio.run(test()) == 200


def test_a_request_that_leaves_takes_the_router_from_nobody() -> None:
    router = Router()

    async def test() -> int:
        async with living(router) as late:
            leaves = asyncio.ensure_future(ask(late))
            await asyncio.sleep(0)
            stays = asyncio.ensure_future(ask(late))
            await asyncio.sleep(0)
            leaves.cancel()
            return await stays

    assert asyncio.run(test()) == 200 and router.made == 1
