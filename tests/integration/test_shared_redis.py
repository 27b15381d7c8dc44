"""A Redis that is gone, slow, foreign or hostile: limits hold all the same, and nobody waits for it."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as library

from asu_builder.domain.access import parse_rates
from asu_builder.rate_limits import MemoryWindows
from asu_builder.shared.copies import LIFE_SECONDS, RedisCopies
from asu_builder.shared.redis import DEADLINE_SECONDS, SharedRedis
from asu_builder.shared.windows import SharedWindows
from redis_server import RedisServer, own_prefix, shared_redis

RATES = parse_rates("4/minute")


class Seconds:
    at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """One of this test's own, not started."""
    made = RedisServer(tmp_path / "redis")
    yield made
    made.kill()


def admitted(windows: SharedWindows, tries: int = 6, key: str = "a") -> int:
    """How many of so many tries."""
    return sum(windows.admit(key, RATES) is None for _ in range(tries))


def windows_of(redis: SharedRedis, clock: Seconds) -> SharedWindows:
    return SharedWindows(redis, "builds", MemoryWindows(clock))


def test_one_that_is_killed_costs_warmth_and_is_used_again_when_it_is_back(server: RedisServer) -> None:
    server.start()
    clock = Seconds()
    redis = SharedRedis(server.url, prefix=own_prefix(), clock=clock)
    assert redis.check().status == "ok"
    first, second = windows_of(redis, clock), windows_of(redis, clock)
    assert admitted(first, 1) + admitted(second, 1) + admitted(first, 6) == 4, "together"
    server.kill()
    assert admitted(first) == admitted(second) == 2, "each its half"
    result = redis.check()
    assert result.status == "warning" and "counts its share of the rate limits alone" in result.sentence
    server.start()
    assert not redis.is_usable(), "not before the breaker tries again"
    clock.at += 10
    assert redis.check().status == "ok"
    assert admitted(first, 3) + admitted(second, 3) == 4, "together again"


@pytest.mark.parametrize(
    "options",
    [
        ["--requirepass", "secret"],
        ["--replicaof", "127.0.0.1 1", "--replica-read-only", "yes"],
        ["--maxmemory", "1", "--maxmemory-policy", "noeviction"],
        ["--rename-command", "EVALSHA", "", "--rename-command", "EVAL", "", "--rename-command", "SET", ""],
    ],
    ids=["password", "replica", "full", "forbidden"],
)
def test_one_that_refuses_is_told_and_gone_without(server: RedisServer, options: list[str]) -> None:
    server.start(*options)
    clock = Seconds()
    redis = SharedRedis(server.url, prefix=own_prefix(), clock=clock)
    result = redis.check()
    assert result.status == "warning" and "secret" not in result.sentence, result
    assert admitted(windows_of(redis, clock)) == 4


def test_one_that_stands_still_makes_one_caller_wait_for_the_deadline_and_no_other(
    server: RedisServer,
) -> None:
    server.start()
    clock = Seconds()
    redis = SharedRedis(server.url, prefix=own_prefix(), clock=clock)
    assert redis.check().status == "ok"
    windows = windows_of(redis, clock)
    windows.admit("a", RATES)
    server.send(signal.SIGSTOP)
    try:
        before = time.monotonic()
        assert admitted(windows, 50, "b") == 4
        took = time.monotonic() - before
        # Were each try to wait, it would be fifty times the deadline.
        waited = took / DEADLINE_SECONDS
        assert waited <= 25, took
        assert not redis.is_usable()
    finally:
        server.send(signal.SIGCONT)


@pytest.mark.parametrize("kind", ["text", "list", "future", "huge"])
def test_what_others_have_put_under_our_names_refuses_nobody(kind: str) -> None:
    clock, prefix = Seconds(), own_prefix()
    redis = SharedRedis(shared_redis().url, prefix=prefix, clock=clock)
    assert redis.check().status == "ok"
    with library.Redis.from_url(shared_redis().url) as client:
        for name in ("limit:builds:a", "nodes:builds"):
            key = f"{prefix}:{name}"
            if kind == "text":
                client.set(key, b"\xff\x00 garbage")
            elif kind == "list":
                client.rpush(key, "x")
            else:
                client.zadd(key, {"x": 1e300 if kind == "huge" else (time.time() + 1e6) * 1e6})
    assert admitted(windows_of(redis, clock)) == 4
    assert redis.check().status == "ok" and redis.is_usable()
    redis.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\n",
        b"*3\r\n:1\r\n:9\r\n$1\r\n5\r\n",
        b"*3\r\n:0\r\n:0\r\n:0\r\n",
        b"*3\r\n:1\r\n:1\r\n$4\r\n-500\r\n",
        b"*3\r\n:1\r\n:1\r\n$20\r\n99999999999999999999\r\n",
        b"$-1\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\xff" * 99,
        b"$999999999999\r\nx",
        b":1\r\n" * 9,
        b"",
    ],
)
def test_answers_that_make_no_sense_are_no_answers(answer: bytes) -> None:
    clock = Seconds()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    while b"EVAL" not in (asked := connection.recv(65536)) and asked:
                        connection.sendall(b"+OK\r\n")
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        redis = SharedRedis(f"redis://127.0.0.1:{listener.getsockname()[1]}", prefix="x", clock=clock)
        assert redis.check().status == "ok"
        assert redis.is_usable()
        assert admitted(windows_of(redis, clock)) == 4, "by its own count"
        assert redis.check().status == "warning"
        redis.close()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_it_is_not_asked_before_it_is_loaded() -> None:
    redis = SharedRedis("redis://127.0.0.1:1", prefix="x")
    assert not redis.is_usable()
    assert admitted(SharedWindows(redis, "builds", MemoryWindows())) == 4
    redis.close()


class Micros:
    """The time that nodes agree on."""

    at = 1_700_000_000_000_000

    def __call__(self) -> int:
        return self.at


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is not about the deadline, on a busy machine."""
    monkeypatch.setattr("asu_builder.shared.redis.DEADLINE_SECONDS", 10.0)


def copies_of(redis: SharedRedis, now: Micros, secret: str = "installation") -> RedisCopies:
    """What one node shares."""
    return RedisCopies(redis, secret, now=now)


def checked(server: RedisServer, prefix: str, clock: Seconds | None = None) -> SharedRedis:
    """A connection that may be used."""
    redis = SharedRedis(server.url, prefix=prefix, clock=clock or Seconds())
    assert redis.check().status == "ok"
    return redis


@pytest.mark.usefixtures("patient")
def test_a_copy_is_read_by_others_for_a_minute_at_most() -> None:
    prefix, now = own_prefix(), Micros()
    redis = checked(shared_redis(), prefix)
    first, second = copies_of(redis, now), copies_of(checked(shared_redis(), prefix), now)
    first.put("answer:a", b"told", since=first.mark())
    assert second.get("answer:a") == b"told" and second.get("answer:b") is None
    with library.Redis.from_url(shared_redis().url) as client:
        left = client.pttl(f"{prefix}:answer:a")
    assert 0 < left <= LIFE_SECONDS * 1000
    now.at += (LIFE_SECONDS + 1) * 1_000_000
    assert second.get("answer:a") is None, "whatever Redis says of its age"
    now.at -= (LIFE_SECONDS + 10) * 1_000_000
    assert second.get("answer:a") is None, "from the future"
    assert second.reads()["answer", "hit"] == 1 and second.reads()["answer", "miss"] == 3


@pytest.mark.usefixtures("patient")
def test_what_is_not_sealed_by_a_node_is_not_read() -> None:
    prefix, now = own_prefix(), Micros()
    redis = checked(shared_redis(), prefix)
    copies = copies_of(redis, now)
    copies.put("answer:a", b"told", since=copies.mark())
    assert copies_of(redis, now, "another installation").get("answer:a") is None
    with library.Redis.from_url(shared_redis().url) as client:
        sealed = client.get(f"{prefix}:answer:a")
        client.set(f"{prefix}:answer:b", sealed)
        assert copies.get("answer:b") is None, "sealed under another name"
        for number in range(len(sealed)):
            client.set(
                f"{prefix}:answer:a", sealed[:number] + bytes([sealed[number] ^ 1]) + sealed[number + 1 :]
            )
            assert copies.get("answer:a") is None, number
        for foreign in (b"", b"x", b"\xff" * 100, sealed[:20], sealed + b"x"):
            client.set(f"{prefix}:answer:a", foreign)
            assert copies.get("answer:a") is None, foreign
        client.delete(f"{prefix}:answer:a")
        client.rpush(f"{prefix}:answer:a", "x")
        assert copies.get("answer:a") is None and not client.exists(f"{prefix}:answer:a")
    copies.put("answer:a", b"again", since=copies.mark())
    assert copies.get("answer:a") == b"again" and redis.is_usable()


@pytest.mark.usefixtures("patient")
def test_what_could_not_be_deleted_is_deleted_before_anything_is_read() -> None:
    clock, prefix, now = Seconds(), own_prefix(), Micros()
    redis = checked(shared_redis(), prefix, clock)
    copies = copies_of(redis, now)
    for name in ("answer:a", "answer:b"):
        copies.put(name, b"told", since=copies.mark())
    redis.failed("It is away")
    copies.forget("answer:a")
    copies.tidy()
    assert copies.get("answer:b") is None and copies.reads()["answer", "failed"] == 1
    clock.at += 60
    with library.Redis.from_url(shared_redis().url) as client:
        assert client.exists(f"{prefix}:answer:a")
        assert copies.get("answer:b") == b"told"
        assert not client.exists(f"{prefix}:answer:a")


@pytest.mark.usefixtures("patient")
def test_tidying_deletes_what_nobody_asks_for() -> None:
    prefix, now = own_prefix(), Micros()
    copies = copies_of(checked(shared_redis(), prefix), now)
    for number in range(1200):
        copies.put(f"answer:{number}", b"told", since=copies.mark())
    for number in range(1200):
        copies.forget(f"answer:{number}")
    copies.tidy()
    with library.Redis.from_url(shared_redis().url) as client:
        assert not list(client.scan_iter(f"{prefix}:answer:*"))


@pytest.mark.usefixtures("patient")
def test_what_was_taken_back_while_it_was_read_is_not_put() -> None:
    prefix, now = own_prefix(), Micros()
    copies = copies_of(checked(shared_redis(), prefix), now)
    since = copies.mark()
    copies.forget("answer:a")
    copies.put("answer:a", b"told", since=since)
    assert copies.get("answer:a") is None
    copies.put("answer:a", b"x" * (2 << 20), since=copies.mark())
    assert copies.get("answer:a") is None, "too large"
