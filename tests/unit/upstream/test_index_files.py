"""Which package indexes the download server and repositories of requests have, and what is known of them."""

import gzip
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

import adb_writer
from adb_writer import package, packages_text, packed
from asu_builder.database.connection import Database
from asu_builder.domain.errors import UpstreamUnavailable
from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.preflight import PackageIndexes
from asu_builder.domain.reading import Reading, read_whole
from asu_builder.domain.release import parse_release
from asu_builder.upstream import memory
from asu_builder.upstream import server as servers
from asu_builder.upstream.index_files import find_packages
from asu_builder.upstream.lenient import Notes
from asu_builder.upstream.memory import FRESH_FOR, MISSING_FOR
from asu_builder.upstream.offer import HttpUpstream
from asu_builder.upstream.package_index import read_index
from asu_builder.upstream.server import UpstreamServer
from factories import Clock, eventually
from hanging_server import HangingServer
from odd_server import HALF, OddServer, odd_server
from recorded_indexes import index_of, recorded_indexes, recorded_packages

RECORDED = Path(__file__).parents[4] / "shared" / "indexes"
APK, OPKG = PackageManager
NEW, OLD = parse_release("25.12.0"), parse_release("24.10.5")
KERNEL = {"version": "6.12.67", "release": "1", "vermagic": "abc"}
PLACES = {
    "target": "targets/pico/nine/packages",
    "kmods": "targets/pico/nine/kmods/6.12.67-1-abc",
    "base": "packages/pico_9kc/base",
    "luci": "packages/pico_9kc/luci",
}


def an_index(name: str, manager: PackageManager = APK) -> bytes:
    """An index that names one package."""
    if manager is APK:
        return packed(adb_writer.index(package(name=name, version="1-r1")))
    return gzip.compress(packages_text({"Package": name, "Version": "1"}), mtime=0)


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    root = tmp_path / "downloads"
    for release, file, manager in ((NEW, "packages.adb", APK), (OLD, "Packages.gz", OPKG)):
        write(root / release.path / "targets/pico/nine/profiles.json", json.dumps({"linux_kernel": KERNEL}))
        write(root / release.path / "packages/pico_9kc/feeds.conf", "src-git luci x^1\n")
        for name, place in PLACES.items():
            write(root / release.path / place / file, an_index(name, manager))
    return root


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def server(downloads: Path) -> Iterator[HangingServer]:
    with HangingServer(downloads) as running:
        yield running


@pytest.fixture
def odd(downloads: Path) -> Iterator[OddServer]:
    with odd_server(downloads) as running:
        yield running


@pytest.fixture
def from_odd(odd: OddServer, database: Database, clock: Clock) -> Iterator[HttpUpstream]:
    opened = HttpUpstream(odd.url, database, now=clock, clock=lambda: clock().timestamp())
    yield opened
    opened.close()


def known(upstream: HttpUpstream, version: str = "25.12.0", reading: Reading | None = None) -> PackageIndexes:
    release = parse_release(version)
    return read_whole(
        lambda: upstream.package_indexes(release, "pico/nine", "pico_9kc"), reading or Reading("192.0.2.1")
    )


def names_in(found: PackageIndex) -> list[str]:
    body = found.read()
    assert body is not None
    return [package.name for package in read_index(found.manager, body, Notes()).packages]


@pytest.mark.parametrize(
    ("version", "manager", "file"),
    [("25.12.0", APK, "packages.adb"), ("24.10.5", OPKG, "Packages.gz")],
)
def test_the_indexes_of_feeds_and_target_are_those_of_the_manager_that_is_there(
    upstream: HttpUpstream, server: HangingServer, version: str, manager: PackageManager, file: str
) -> None:
    found = known(upstream, version)
    assert (found.manager, found.lacking) == (manager, "")
    assert {index.name for index in found.indexes} == PLACES.keys()
    for index in found.indexes:
        assert index.address == f"{server.url}/releases/{version}/{PLACES[index.name]}/{file}"
        assert (index.manager, index.is_foreign, names_in(index)) == (manager, False, [index.name])
    assert known(upstream, version).digest == found.digest
    # Outside of a reading the thread waits.
    assert upstream.package_indexes(parse_release(version), "pico/nine", "pico_9kc").digest == found.digest


@pytest.mark.skipif(not RECORDED.is_dir(), reason="needs the recorded indexes beside the repository")
@pytest.mark.parametrize(
    ("version", "folder", "file", "count"),
    [("25.12.0", "25.12.0-x86-64", "packages.adb", 2098), ("24.10.5", "24.10.5-x86-64", "Packages.gz", 2003)],
)
def test_recorded_indexes_are_read_as_they_were_sent(
    upstream: HttpUpstream, downloads: Path, version: str, folder: str, file: str, count: int
) -> None:
    release = downloads / "releases" / version
    feeds = []
    for source in sorted((RECORDED / folder).iterdir()):
        name = source.name.removesuffix(".adb").removesuffix(".Packages.gz")
        if name.startswith("feed-"):
            feeds.append(name.removeprefix("feed-"))
            write(release / "packages/pico_9kc" / feeds[-1] / file, source.read_bytes())
        elif name in PLACES:
            write(release / PLACES[name] / file, source.read_bytes())
    write(release / "packages/pico_9kc/feeds.conf", "".join(f"src-git {feed} x^1\n" for feed in feeds))
    found = known(upstream, version)
    assert not found.lacking and len(found.indexes) == 7
    assert sum(len(names_in(entry)) for entry in found.indexes) == count


def test_a_mirror_may_have_the_other_manager_and_no_list_of_feeds(
    upstream: HttpUpstream, server: HangingServer, downloads: Path, clock: Clock
) -> None:
    (downloads / "releases/24.10.5").rename(downloads / "releases/25.12.1")
    for path in (downloads / "releases/25.12.1").rglob("feeds.conf"):
        path.unlink()
    for path in (downloads / "releases/25.12.1").rglob("Packages.gz"):
        write(path.with_name("Packages"), gzip.decompress(path.read_bytes()))
        path.unlink()
    found = known(upstream, "25.12.1")
    assert (found.manager, found.lacking) == (OPKG, "")
    assert {index.name for index in found.indexes} == PLACES.keys()
    assert all(index.address.endswith("/Packages") for index in found.indexes)
    asked = server.requests["/releases/25.12.1/targets/pico/nine/packages/packages.adb"]
    clock.forward(MISSING_FOR * 2)
    assert known(upstream, "25.12.1").manager is OPKG
    assert server.requests["/releases/25.12.1/targets/pico/nine/packages/packages.adb"] == asked == 1


def test_the_indexes_are_fetched_side_by_side_and_wait_five_seconds_at_most(
    upstream: HttpUpstream, server: HangingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexes = [f"/releases/25.12.0/{place}/packages.adb" for place in PLACES.values()]
    upstream.target_profiles(NEW, "pico/nine")
    upstream.architecture_packages(NEW, "pico_9kc")
    server.hang(*indexes)
    monkeypatch.setattr("asu_builder.domain.reading.BESIDE_SECONDS", 0.3)
    found = known(upstream)
    assert not found.indexes
    assert found.lacking == "The package indexes of target and base and luci and kmods did not arrive yet."
    assert eventually(lambda: all(server.requests[path] == 1 for path in indexes)), "none waits for another"
    server.release()
    assert eventually(lambda: not known(upstream).lacking)
    assert not known(upstream).lacking
    assert all(server.requests[path] == 1 for path in indexes), "what was on its way is not asked for again"


def test_a_thread_without_a_reading_has_them_fetched_side_by_side_too(
    upstream: HttpUpstream, server: HangingServer
) -> None:
    later = [f"/releases/25.12.0/{place}/packages.adb" for name, place in PLACES.items() if name != "target"]
    server.hang(*later)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(upstream.package_indexes, NEW, "pico/nine", "pico_9kc")
        assert eventually(lambda: all(server.requests[path] for path in later))
        server.release()
        assert {entry.name for entry in found.result(60).indexes} == PLACES.keys()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (404, "could not be found"),
        (403, "could not be found"),
        (500, "could not be read"),
        (HALF, "could not be read"),
        (b"<html>", "could not be read"),
        (b"ADBd" + gzip.compress(bytes(64 << 20), 1)[10:], "could not be read"),
    ],
)
@pytest.mark.parametrize("version", ["25.12.0", "24.10.5"])
def test_an_index_that_is_not_there_or_broken_is_lacking(
    odd: OddServer, from_odd: HttpUpstream, said: int | bytes, why: str, version: str
) -> None:
    odd.odd["/luci/packages.adb"] = odd.odd["/luci/Packages.gz"] = said
    found = known(from_odd, version)
    assert found.lacking == f"The package index of luci {why}."
    assert {index.name for index in found.indexes} == PLACES.keys() - {"luci"}


def test_a_target_without_a_directory_of_kernel_modules_lacks_nothing(
    odd: OddServer, from_odd: HttpUpstream
) -> None:
    odd.odd["abc/packages.adb"] = 404
    found = known(from_odd)
    assert ({index.name for index in found.indexes}, found.lacking) == (PLACES.keys() - {"kmods"}, "")


def test_nothing_is_known_where_nothing_is_there(odd: OddServer, from_odd: HttpUpstream) -> None:
    assert known(from_odd, "25.12.9").lacking == "The package index of target could not be found."
    odd.odd[".adb"] = odd.odd["Packages.gz"] = odd.odd["Packages"] = 403
    found = known(from_odd)
    assert found.lacking.endswith("could not be found.") and not found.indexes


def test_a_copy_that_could_not_be_asked_for_again_is_told(
    upstream: HttpUpstream, server: HangingServer, downloads: Path, clock: Clock
) -> None:
    before = known(upstream)
    server.broken = True
    clock.forward(FRESH_FOR + timedelta(seconds=1))
    found = known(upstream)
    assert "could not be checked for changes" in found.lacking and "kmods" in found.lacking
    assert found.digest == before.digest and names_in(found.indexes[0])
    server.broken = False
    write(downloads / NEW.path / PLACES["luci"] / "packages.adb", an_index("luci-2"))
    clock.forward(timedelta(minutes=2))
    after = known(upstream)
    assert not after.lacking and after.digest != before.digest
    (luci,) = (index for index in after.indexes if index.name == "luci")
    assert names_in(luci) == ["luci-2"]
    (gone,) = (index for index in before.indexes if index.name == "luci")
    assert gone.read() is None, "other bytes are there by now"


def test_a_reading_sees_the_indexes_change_and_they_are_kept_warm(
    upstream: HttpUpstream, server: HangingServer, clock: Clock
) -> None:
    reading = Reading("192.0.2.1")
    known(upstream, reading=reading)
    assert len(reading.sources) == len(PLACES) + 2
    clock.forward(FRESH_FOR * 0.9)
    for _ in range(3 * len(PLACES)):
        upstream.keep_warm()
    assert eventually(
        lambda: all(
            server.requests[f"/releases/25.12.0/{place}/packages.adb"] == 2 for place in PLACES.values()
        )
    )


def test_in_memory_an_index_is_its_digest(
    upstream: HttpUpstream, downloads: Path, database: Database, server: HangingServer, clock: Clock
) -> None:
    write(
        downloads / NEW.path / PLACES["luci"] / "packages.adb",
        adb_writer.index(*[package(name=f"p{number}", version=str(number) * 40) for number in range(20_000)]),
    )
    found = known(upstream)
    documents = upstream._documents._memory
    assert documents._size < 20_000, "two megabytes are not counted, for they are not kept"
    again = HttpUpstream(server.url, database, now=clock, clock=lambda: clock().timestamp())
    asked = server.requests.total()
    assert known(again).digest == found.digest and server.requests.total() == asked, "after a restart"
    again.close()


def repository(upstream: HttpUpstream, url: str, manager: PackageManager = APK) -> PackageIndex | None:
    return read_whole(lambda: upstream.repository_index("mine", url, manager), Reading("192.0.2.1"))


def test_the_index_of_a_repository_is_read_and_kept(
    upstream: HttpUpstream, server: HangingServer, downloads: Path, clock: Clock, database: Database
) -> None:
    write(downloads / "mine/packages.adb", an_index("mine"))
    write(downloads / "opkg/Packages.gz", an_index("gz", OPKG))
    write(downloads / "plain/Packages", packages_text({"Package": "plain", "Version": "1"}))
    found = repository(upstream, f"{server.url}/mine/packages.adb")
    assert found is not None and names_in(found) == ["mine"]
    assert (found.name, found.address) == ("mine", f"{server.url}/mine/packages.adb")
    for name in ("opkg", "plain"):
        listed = repository(upstream, f"{server.url}/{name}/", OPKG)
        assert listed is not None and names_in(listed) == ["gz" if name == "opkg" else "plain"]
    # As apk itself, which takes a directory for one of its former edition.
    assert repository(upstream, f"{server.url}/mine") is None
    assert repository(upstream, f"{server.url}/absent/packages.adb") is None
    assert server.requests["/mine/packages.adb"] == 1
    clock.forward(FRESH_FOR * 2)
    assert repository(upstream, f"{server.url}/mine/packages.adb") is not None
    assert server.requests["/mine/packages.adb"] == 2
    server.broken = True
    clock.forward(FRESH_FOR * 2)
    assert repository(upstream, f"{server.url}/mine/packages.adb") is None, "nobody knows what it is by now"
    for _ in range(20):
        upstream.keep_warm()
    assert upstream.check().status == "ok", "the download server is not meant"


@pytest.mark.parametrize("said", [401, 403, 404, 500, HALF, b"<html>", b"", b"ADB.indx"])
def test_a_repository_that_is_not_readable_is_none(
    odd: OddServer, from_odd: HttpUpstream, downloads: Path, said: int | bytes
) -> None:
    write(downloads / "mine/packages.adb", an_index("mine"))
    odd.odd["/mine/packages.adb"] = said
    assert repository(from_odd, f"{odd.url}/mine/packages.adb") is None
    assert repository(from_odd, f"{odd.url}/mine/packages.adb") is None
    assert odd.requests["/mine/packages.adb"] == 1


def test_a_dead_host_costs_nothing_after_the_first_time(upstream: HttpUpstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert repository(upstream, f"http://127.0.0.1:{port}/a/packages.adb") is None
    reading = Reading("192.0.2.1")
    with reading.active():
        assert upstream.repository_index("mine", f"http://127.0.0.1:{port}/b/packages.adb", APK) is None
    assert not reading.lacks, "another file of the same host"


def test_a_name_that_leads_to_this_machine_is_not_asked_for_an_index(
    odd: OddServer, downloads: Path, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(downloads / "packages.adb", an_index("mine"))
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *arguments: object, **more: object) -> object:
        if host == "downloads.example.org":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", port))]
        return real("127.0.0.1" if host == "feed.example.org" else host, port, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    port = odd.server_address[1]
    for upstream_url, is_read in (("https://downloads.example.org", False), (odd.url, True)):
        upstream = HttpUpstream(upstream_url, database, now=clock, clock=lambda: clock().timestamp())
        named = repository(upstream, f"http://feed.example.org:{port}/packages.adb")
        assert (named is not None) is is_read
        assert bool(odd.requests) is is_read
        upstream.close()


def test_what_is_kept_of_repositories_has_bounds_of_its_own(
    upstream: HttpUpstream,
    server: HangingServer,
    downloads: Path,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "_FOREIGN_BYTES", 10_000)
    monkeypatch.setattr(memory, "_FOREIGN_MEMORY_BYTES", 5_000)
    before = known(upstream)
    for number in range(30):
        write(downloads / f"{number}/packages.adb", an_index(f"p{number}"))
        assert repository(upstream, f"{server.url}/{number}/packages.adb") is not None
    upstream.tidy()
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT path LIKE 'foreign:%', count(*), sum(coalesce(length(body), 0) + 500)"
            " FROM upstream_documents WHERE path LIKE '%packages.adb' GROUP BY 1 ORDER BY 1"
        ).fetchall()
    (_, own, _), (_, foreign, size) = rows
    assert (own, known(upstream).digest) == (len(PLACES), before.digest)
    assert 10 < foreign < 30 and size <= 10_000
    assert repository(upstream, f"{server.url}/29/packages.adb") is not None


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("_REPOSITORY_WHOLE_SECONDS", -1.0, "still sending"),
        ("_MAX_FOREIGN_BYTES", 10, "larger than"),
        ("_REPOSITORY_SECONDS", 0.1, "read timeout=0.1"),
    ],
)
def test_less_is_taken_from_a_repository(
    server: HangingServer,
    downloads: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: float,
    said: str,
) -> None:
    write(downloads / "packages.adb", an_index("mine"))
    if "read" in said:
        server.hang("/packages.adb")
    monkeypatch.setattr(servers, limit, value)
    with pytest.raises(UpstreamUnavailable, match=said):
        UpstreamServer(server.url, around="https://1.1.1.1").get("packages.adb", etag="")
    server.release()
    assert UpstreamServer(server.url).get("packages.adb", etag="").status == 200


@pytest.mark.parametrize("manager", PackageManager)
def test_packages_of_a_manifest_are_found_in_real_indexes(manager: PackageManager) -> None:
    packages = recorded_packages(manager)[::9]
    manifest = {package.name: package.version for package in packages} | {"nosuch": "1"}
    found = find_packages(recorded_indexes(manager), manifest)
    assert found.manager is manager
    assert {name: entry.package for name, entry in found.packages.items()} == {
        package.name: package for package in packages
    }


@pytest.mark.parametrize("manager", PackageManager)
def test_only_what_is_wanted_is_read(manager: PackageManager) -> None:
    packages = {package.name: package for package in recorded_packages(manager)}
    some = set(sorted(packages)[::50])
    read = [
        package
        for index in recorded_indexes(manager).indexes
        for package in read_index(manager, index.read() or b"", Notes(), wanted=some.__contains__).packages
    ]
    assert {package.name: package for package in read} == {name: packages[name] for name in some}


def an_opkg_index(name: str, *paragraphs: dict[str, str], is_foreign: bool = False) -> PackageIndex:
    return index_of(name, packages_text(*paragraphs), OPKG, is_foreign=is_foreign)


def test_a_manifest_without_the_suffix_of_an_abi_is_understood() -> None:
    paragraph = {"Package": "libubus20241020", "Version": "2-r1", "License": "MIT"}
    known = PackageIndexes(OPKG, (an_opkg_index("base", paragraph),))
    found = find_packages(known, {"libubus": "2-r1"}).packages
    assert found["libubus"].package.licence == "MIT"
    assert find_packages(known, {"libubus": "1-r1"}).packages == {}, "another version is another package"


def test_a_digest_in_which_indexes_differ_is_left_out() -> None:
    one, other = ({"Package": "vim", "Version": "9", "SHA256sum": digit * 64} for digit in "ab")
    own = an_opkg_index("base", one | {"License": "Vim"})
    foreign = an_opkg_index("mine", other, is_foreign=True)
    found = find_packages(PackageIndexes(OPKG, (own, foreign)), {"vim": "9"}).packages["vim"]
    assert (found.package.hash, found.package.licence, found.index) == ("", "Vim", "base")
    same = find_packages(PackageIndexes(OPKG, (own, an_opkg_index("twice", one))), {"vim": "9"})
    assert same.packages["vim"].package.hash == "a" * 64


def test_an_index_that_is_gone_or_broken_says_nothing() -> None:
    gone = PackageIndex("gone", "", "0" * 64, OPKG, lambda: None)
    broken = index_of("broken", b"\x1f\x8b nothing", OPKG)
    whole = an_opkg_index("base", {"Package": "vim", "Version": "9"})
    found = find_packages(PackageIndexes(OPKG, (gone, broken, whole)), {"vim": "9"})
    assert list(found.packages) == ["vim"]
