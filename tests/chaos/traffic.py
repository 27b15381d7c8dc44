"""The clients: they ask for new builds, poll, download, ask again, and believe nothing."""

import hashlib
import http.client
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from time import monotonic

from chaos.ledger import Asked, Ledger
from chaos.servers import Server, Servers
from e2e.service import Answer, Client
from podman_service import SAMPLE_TARGET

_POLLERS = 2
_WAITING = 8
"""How many young requests the feeder keeps under way."""
_YOUNG_SECONDS = 12.0
_MOST_LIVE = 20
_PATIENCE_SECONDS = 60.0
"""Without an answer for so long from a server left in peace, something hangs; slowness is no reason."""
_PAUSE_SECONDS = 0.25
_BAD_EVERY = 12
_SLOW_EVERY = 3
"""Of these `make image` sleeps a second, so that containers can be found and broken."""
_NAMES = (
    "vim",
    "tmux",
    "htop",
    "nano",
    "curl",
    "owut",
    "tcpdump",
    "iwinfo",
    "auc",
    "sample-note",
    "terminfo",
)
_COLD = (
    *(
        f"/json/v1/{version}/targets/{target}/{profile}.json"
        for version in ("releases/24.10.4", "releases/24.10.5", "releases/25.12.0-rc1", "releases/25.12.0")
        for target, profile in (("pico/nine", "acme_small"), ("x86/64", "generic"))
    ),
    "/json/v1/branches.json",
    "/json/v1/releases/25.12.0/packages/pico_9kc-index.json",
)
"""Documents that make the server ask upstream."""


def bodies(seed: int, versions: tuple[str, ...]) -> Iterator[tuple[dict[str, object], bool]]:
    """Requests that differ in their packages, and whether each can be built; without end for our purpose."""
    selections = [list(names) for count in (1, 2, 3, 4, 5) for names in itertools.combinations(_NAMES, count)]
    random.Random(f"{seed}/bodies").shuffle(selections)
    for number, packages in enumerate(selections):
        is_good = number % _BAD_EVERY != _BAD_EVERY - 1
        slow = ["sample-slow-1"] if number % _SLOW_EVERY == 0 else []
        body: dict[str, object] = {
            "version": versions[number % len(versions)],
            "target": SAMPLE_TARGET,
            "profile": "acme_small",
            "packages": [*packages, *slow, *([] if is_good else ["sample-broken-dep"])],
        }
        yield body, is_good


class Traffic:
    """Threads between `start` and `finish`; everything they see is in the ledger."""

    def __init__(self, servers: Servers, ledger: Ledger, *, seed: int, versions: tuple[str, ...]) -> None:
        self._servers = servers
        self._ledger = ledger
        self._bodies = bodies(seed, versions)
        self._feeding = threading.Event()
        self._polling = threading.Event()
        self._random = random.Random(f"{seed}/traffic")
        works: list[Callable[[], None]] = [self._feed, *(self._poll_part(part) for part in range(_POLLERS))]
        self._threads = [threading.Thread(target=self._guarded(work), daemon=True) for work in works]

    def start(self) -> None:
        """From now on there are clients."""
        self._feeding.set()
        self._polling.set()
        for thread in self._threads:
            thread.start()

    def drain(self, *, seconds: float) -> None:
        """Asks for nothing new; returns when everything has its final answer, or none came for so long."""
        self._feeding.clear()
        finals, ends = self._ledger.finals, monotonic() + seconds
        while self._ledger.live() and monotonic() < ends:
            self._ledger.wait_for_progress(seconds=0.5)
            if self._ledger.finals > finals:
                finals, ends = self._ledger.finals, monotonic() + seconds

    def finish(self) -> None:
        """Ends the threads."""
        self._feeding.clear()
        self._polling.clear()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(2 * _PATIENCE_SECONDS)

    def _guarded(self, work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - a client that died must not pass for silence
                self._ledger.violation(f"a client broke: {error!r}")

        return run

    def ask(self, line: "Line", method: str, target: str, document: object = None) -> Answer | None:
        """One answer, noted; None when none came, which is allowed only while the server is disturbed."""
        before = self._servers.calm_since()
        try:
            client = line.client(self._servers.asked())
            answer = client.post_once(document) if method == "POST" else client.ask("GET", target)
        except (OSError, http.client.HTTPException) as error:
            line.close()
            if before >= 0 and self._servers.calm_since() == before:
                self._ledger.violation(f"{method} {target}: no answer from a server left in peace: {error!r}")
            self._ledger.count("no answer, server disturbed")
            return None
        self._ledger.note(target, answer)
        return answer

    def _feed(self) -> None:
        line = Line()
        while self._feeding.is_set():
            live = self._ledger.live()
            young = [asked for asked in live if monotonic() - asked.posted_at < _YOUNG_SECONDS]
            if len(young) < _WAITING and len(live) < _MOST_LIVE:
                body, is_good = next(self._bodies)
                self._post_until_accepted(line, body, is_good=is_good)
            else:
                self._ledger.wait_for_progress(seconds=_PAUSE_SECONDS)
        line.close()

    def _post_until_accepted(self, line: "Line", body: dict[str, object], *, is_good: bool) -> None:
        while self._feeding.is_set():
            answer = self.ask(line, "POST", "/api/v1/build", body)
            if answer is not None and self._ledger.accepted(body, answer, is_good=is_good):
                return
            if answer is not None and answer.status != 503:
                self._ledger.violation(f"POST {body}: {answer.status}: {answer.body[:300]!r}")
                return
            self._ledger.wait_for_progress(seconds=_PAUSE_SECONDS)

    def _poll_part(self, part: int) -> Callable[[], None]:
        def poll() -> None:
            line = Line()
            while self._polling.is_set():
                everything = self._ledger.all()
                for asked in everything[part::_POLLERS]:
                    if not asked.is_final and not self._poll(line, asked):
                        break  # the server is down: no use in asking for the rest
                if everything:
                    self._look_again(line, self._random.choice(everything))
                self._ledger.wait_for_progress(seconds=_PAUSE_SECONDS)
            line.close()

        return poll

    def _poll(self, line: "Line", asked: Asked) -> bool:
        answer = self.ask(line, "GET", f"/api/v1/build/{asked.request_hash}")
        if answer is not None and self._ledger.seen(asked, answer) and answer.status == 200:
            asked.publication = self._servers.publication(asked.request_hash)
            self.download(line, asked, only=1)
        return answer is not None

    def _look_again(self, line: "Line", asked: Asked) -> None:
        """What is final stays final; who asks again is told the same; documents come from memory."""
        if asked.is_final:
            answer = self.ask(line, "GET", f"/api/v1/build/{asked.request_hash}")
        else:
            answer = self.ask(line, "POST", "/api/v1/build", asked.body)
        if answer is not None and answer.status in (200, 202, 404, 500):
            self._ledger.seen(asked, answer)
        self.ask(line, "GET", self._random.choice(_COLD))

    def download(self, line: "Line", asked: Asked, *, only: int = 1000) -> None:
        """Every listed image (or some) has the listed size and digest."""
        images = list(asked.document["images"])
        self._random.shuffle(images)
        for image in images[:only]:
            target = f"/store/{asked.document['bin_dir']}/{image['name']}"
            answer = self.ask(line, "GET", target)
            if answer is None:
                continue
            if answer.status == 503:
                continue  # in the form that is promised, or it was noted: the bucket is broken
            self._ledger.downloads += 1
            digest = hashlib.sha256(answer.body).hexdigest()
            if (answer.status, len(answer.body), digest) != (200, image["size"], image["sha256"]):
                self._ledger.violation(
                    f"{target}: {answer.status}, {len(answer.body)} bytes of {image['size']}, "
                    f"digest {digest[:12]}"
                )


class Line:
    """A keep-alive connection to each server that was asked."""

    def __init__(self) -> None:
        self._clients: dict[Server, Client] = {}

    def client(self, server: Server) -> Client:
        """The connection to this one."""
        if server not in self._clients:
            self._clients[server] = server.client(timeout=_PATIENCE_SECONDS)
        return self._clients[server]

    def close(self) -> None:
        """Ends the connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
