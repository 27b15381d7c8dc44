"""What the benchmark asks for, and a download server and database that already know about it."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
from msgspec.structs import replace

from asu_builder.database.connection import Database
from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.rows import to_micros
from asu_builder.domain.job import BuildResult, Image, Retention, StoredFiles, Submission
from asu_builder.domain.request import BuildRequest, request_hash
from asu_builder.package_rules import LocalPackageChanges
from asu_builder.store.local import LocalStore

VERSION, TARGET, PROFILE = "24.10.4", "ath79/generic", "tplink_archer-c7-v5"
PACKAGES = {f"package-number-{number:03}": f"1.{number}.0-r1" for number in range(150)}
"""As many as a router with LuCI has."""
_WEEK = timedelta(days=7)
_DOCUMENTS = {
    "/.versions.json": {"versions_list": [VERSION]},
    f"/releases/{VERSION}/.targets.json": {TARGET: "mips_24kc"},
    f"/releases/{VERSION}/targets/{TARGET}/profiles.json": {
        "version_code": "r28959-29397011cc",
        "arch_packages": "mips_24kc",
        "default_packages": ["base-files"],
        "profiles": {PROFILE: {}}
        | {f"vendor_model-{n}": {"supported_devices": [f"vendor,m{n}"]} for n in range(250)},
    },
}


def request_body(number: int = -1, *, packages: int = len(PACKAGES)) -> bytes:
    """A body as owut sends it, with versions; each number asks for other images."""
    chosen = dict(list(PACKAGES.items())[:packages])
    if number >= 0:
        chosen[f"bench-{number}"] = "1.0-r1"
    return json.dumps(
        {
            "version": VERSION,
            "target": TARGET,
            "profile": PROFILE,
            "packages_versions": chosen,
            "diff_packages": True,
            "client": "owut/2026.03.30",
        }
    ).encode()


def a_request() -> BuildRequest:
    """The request that `request_body()` asks for."""
    return BuildRequest(VERSION, TARGET, PROFILE, packages_versions=PACKAGES, diff_packages=True)


FINISHED = request_hash(a_request(), rules=LocalPackageChanges().digests(a_request())[0])


def a_result() -> BuildResult:
    """A result of usual size: about 20 KiB as clients see it."""
    images = tuple(
        Image(f"openwrt-{kind}.bin", kind, "a" * 64, "b" * 64, 9, "squashfs")
        for kind in ("sysupgrade", "factory")
    )
    description = {
        "version_number": VERSION,
        "version_code": "r28959-29397011cc",
        "target": TARGET,
        "arch_packages": "mips_24kc",
        "source_date_epoch": 1760000000,
        "titles": [{"vendor": "TP-Link", "model": "Archer C7", "variant": "v5"}],
        "default_packages": list(PACKAGES)[:40],
    }
    command = ("make", "image", f"PROFILE={PROFILE}", f"PACKAGES={' '.join(PACKAGES)}")
    output = "".join(f"Installing {name} ({version})\n" for name, version in PACKAGES.items())
    return BuildResult(description, images, PACKAGES, command, tuple(PACKAGES), output, "")


def seed(
    folder: Path,
    *,
    finished_jobs: int = 0,
    usual: bool = False,
    files: StoredFiles | None = None,
    database: SqlDatabase | None = None,
) -> None:
    """A database and a store in which the request above is built, beside many other finished jobs.

    Their results are small, or of `usual` size. `files` is where object storage has those of the request. The
    database is a file of the folder, or another `database`, which is closed too.
    """
    database = database or Database(folder / "bench.db")
    queue = SqlJobQueue(database)
    queue.submit(Submission(a_request(), FINISHED, "owut/2026.03.30"))
    claimed = queue.claim("bench", lease_for=_WEEK)
    assert claimed is not None
    queue.finish(claimed[1], replace(a_result(), files=files), Retention(_WEEK))
    root = folder / "public" / "store"
    store = LocalStore(root, installation=database.installation())
    with store.scratch() as scratch:
        for image in a_result().images:
            (scratch / image.name).write_bytes(b"an image\n")
        store.publish(FINISHED, scratch)
    add_finished(database, finished_jobs, a_result() if usual else None)
    for number in range(finished_jobs):
        # Else housekeeping takes them for lost and spends the rounds on forgetting them.
        (root / hash_of(number)).mkdir()
    database.close()


def hash_of(number: int) -> str:
    """Of that one of the other finished jobs."""
    return f"{number:064x}"


def add_finished(database: SqlDatabase, count: int, result: BuildResult | None = None) -> None:
    """Rows as the queue writes them, without its hundred thousand durable transactions.

    The results are small unless another is given.
    """
    request = msgspec.json.encode(a_request()).decode()
    outcome = msgspec.json.encode(result or BuildResult({}, (), {}, (), (), "", "")).decode()
    now = datetime.now(UTC)
    at, until = to_micros(now), to_micros(now + _WEEK)
    with database.writing() as connection:
        connection.executemany(
            "INSERT INTO build_requests (request_hash, request, first_requested_at) VALUES (?, ?, ?)",
            ((hash_of(number), request, at) for number in range(count)),
        )
        connection.executemany(
            "INSERT INTO build_jobs"
            " (request_hash, state, enqueued_at, last_accessed_at, started_at, finished_at, expires_at)"
            " VALUES (?, 'completed', ?, ?, ?, ?, ?)",
            ((hash_of(number), at, at, at, at, until) for number in range(count)),
        )
        connection.execute(
            "INSERT INTO build_results (job_id, completed, document)"
            " SELECT id, TRUE, ? FROM build_jobs WHERE id NOT IN (SELECT job_id FROM build_results)",
            (outcome,),
        )


@contextlib.contextmanager
def download_server(files: Mapping[str, bytes] | None = None) -> Iterator[str]:
    """A download server with one version, target and a few hundred profiles, and these files; its address."""
    there = {path: json.dumps(document).encode() for path, document in _DOCUMENTS.items()}
    there.update(files or {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Served", (_Documents,), {"there": there}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Documents(BaseHTTPRequestHandler):
    there: Mapping[str, bytes]

    def do_GET(self) -> None:
        body = self.there.get(self.path)
        self.send_response(404 if body is None else 200)
        body = body or b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
