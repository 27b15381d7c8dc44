"""What kept packages are worth: builds whose packages come from a server that is slow, with and without."""

import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from asu_builder.engines.local.sandbox import bubblewrap_works
from asu_builder.settings import Size
from asu_sample.distribution import write_distribution
from asu_sample.server import DownloadServer
from bench.builds import build, finished_at, serving
from bench.figures import Figure, Yardstick

_DELAY = timedelta(milliseconds=50)
_BYTES_PER_SECOND = 2_000_000
_USUAL = (
    *("luci-ssl", "luci-app-attendedsysupgrade", "luci-proto-wireguard", "owut", "vim", "nano", "curl"),
    *("tcpdump", "kmod-fs-vfat", "kmod-igb", "kmod-e1000e"),
)
_FIRST, _SECOND = (*_USUAL, "tmux"), (*_USUAL, "htop")
_TIMES_FASTER = 3


class SlowServer(DownloadServer):
    """Waits before each answer, and then as long as so many bytes take."""

    def locate(self, path: str) -> Path | None:
        """The file, once its bytes would have come."""
        file = super().locate(path)
        if file is not None:
            time.sleep(file.stat().st_size / _BYTES_PER_SECOND)
        return file


def building_again(*, rounds: int) -> Iterator[Figure]:
    """The second build of a fresh service, of another package list than the first, with a cache and without.

    Packages and indexes come through the proxy of builds. The bare calls of make are in both.
    """
    if not bubblewrap_works():
        print("not measured with packages from a server: bubblewrap may not create its sandbox here")
        return
    kept: list[float] = []
    fetched: list[float] = []
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name:
        root = Path(name)
        (root / "world" / "downloads").mkdir(parents=True)
        with SlowServer(root / "world" / "downloads") as server:
            world = write_distribution(root / "world", repositories_url=server.url, archives=False)
            server.delay = _DELAY
            for number in range(rounds):
                for size, seconds in ((Size(2 << 30), kept), (Size(0), fetched)):
                    place = root / f"{number}-{int(size)}"
                    chosen: dict[str, object] = {
                        "container_runtime": "local",
                        "imagebuilder_path": world.template,
                        "build_network": "proxy",
                        "package_cache_size": size,
                    }
                    with serving(place, server.url, chosen) as (port, _):
                        build(port, packages=_FIRST)
                        posted = time.time()
                        build(port, packages=_SECOND)
                        seconds.append(finished_at(place) - posted)
    yield Figure(
        "second build, 50 ms a request and 2 MB/s, packages kept",
        "s",
        kept,
        round(1 / _TIMES_FASTER, 3),
        Yardstick("all fetched", fetched),
    )
