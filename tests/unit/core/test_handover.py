"""Images that are signed and published by another process than the one that built them."""

import hashlib
import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from asu_builder.core.handover import DOCUMENT, Finishing, Unfinished
from asu_builder.core.provenance import ProvenanceWriter
from asu_builder.domain.errors import BuildFailed, BuildInterrupted, HandedOverGone, SigningUnavailable
from asu_builder.domain.job import BuildResult, HandedOver, Image, Job, JobState, Traffic
from asu_builder.domain.make import Origin
from asu_builder.domain.package_index import (
    FoundPackage,
    FoundPackages,
    IndexedPackage,
    PackageIndex,
    PackageManager,
)
from asu_builder.domain.packages import AppliedRule, PackageChangesRecord
from asu_builder.domain.provenance import Builder, Built
from asu_builder.domain.request import request_hash
from asu_builder.store.local import LocalStore
from factories import NOON, a_request
from unit.core.test_provenance import PlainStatements

REQUEST = a_request(packages=("vim",), defaults="uci set wireless.key='secret'")
MIRROR = "http://mirror.internal/openwrt"


def a_finishing(
    store: LocalStore, *, program: str = "2", upstream_url: str = MIRROR, has_keys: bool = True
) -> Finishing:
    return Finishing(
        store,
        provenance=ProvenanceWriter(
            PlainStatements(),
            required=True,
            builder=Builder("https://asu.example.org", program),
            upstream_url=upstream_url,
            announced_url="https://downloads.example.org",
            now=lambda: NOON,
        ),
        has_keys=has_keys,
        program=program,
        upstream_url=upstream_url,
        job_timeout=timedelta(minutes=1),
    )


def a_job(handed_over: HandedOver | None = None) -> Job:
    return Job(
        1,
        request_hash(REQUEST),
        REQUEST,
        JobState.BUILDING,
        NOON,
        started_at=NOON,
        handed_over=handed_over,
    )


def finish(store: LocalStore, finishing: Finishing) -> BuildResult | HandedOver:
    """What becomes of a build that left one image and what describes it."""
    index = PackageIndex("base", f"{MIRROR}/base/index.json", "5" * 64, PackageManager.APK, lambda: b"")
    package = IndexedPackage("vim", "9.1", licence="Vim", hash="6" * 64)
    found = FoundPackages(PackageManager.APK, {"vim": FoundPackage(package, "base")}, (index,))
    digest = hashlib.sha256(b"image").hexdigest()
    build = Unfinished(
        Built(REQUEST, {"vim": "9.1"}, found, Origin("container", "ib:1", "7" * 64), True, ("vim", "-nano")),
        {"image_prefix": "openwrt", "version_number": "24.10.5"},
        (Image("a.bin", "sysupgrade", digest, digest, 5, "squashfs"),),
        build_cmd=("make", "image"),
        stdout="out \N{SNOWMAN}",
        stderr="err",
        warnings=("a warning",),
        package_changes=PackageChangesRecord((AppliedRule("rename", "why", ("vim",)),), ("odd",)),
        indexes="8" * 64,
        traffic=Traffic(3, 5, 1, 2),
        seconds={"image": 2.5},
    )
    with store.scratch() as scratch:
        images = scratch / "images"
        images.mkdir()
        (images / "a.bin").write_bytes(b"image")
        (images / "profiles.json").write_text(json.dumps({"profiles": {REQUEST.profile: {"images": []}}}))
        (images / "feeds.buildinfo").write_text("feeds")
        return finishing.finish(a_job(), images, build, advance=lambda stage: None, require_time=lambda: None)


def sign(finishing: Finishing, job: Job, stop: threading.Event | None = None) -> BuildResult:
    return untimed(finishing.sign(job, advance=lambda stage: None, stop=stop or threading.Event()))


def untimed(result: BuildResult | HandedOver) -> BuildResult:
    """The result without the times of signing and publishing, which differ; those of the build stay."""
    assert isinstance(result, BuildResult) and {"sign", "publish"} <= result.seconds.keys()
    kept = {step: took for step, took in result.seconds.items() if step not in ("sign", "publish")}
    return replace(result, seconds=kept)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", installation="ours")


def handed_over(store: LocalStore) -> tuple[Job, Path]:
    """A job whose images wait, and the directory that they lie in."""
    found = finish(store, a_finishing(store, has_keys=False))
    assert isinstance(found, HandedOver) and not store.holds(request_hash(REQUEST))
    job = a_job(found)
    return job, next(path for path in _staging(store).iterdir() if found.folder in path.name)


def _staging(store: LocalStore) -> Path:
    return store._root / ".staging"


def test_the_result_is_the_same_as_where_one_process_has_the_keys(tmp_path: Path) -> None:
    alone, shared = (LocalStore(tmp_path / name, installation="ours") for name in ("alone", "shared"))
    expected = untimed(finish(alone, a_finishing(alone)))
    assert expected.seconds == {"image": 2.5}
    job, directory = handed_over(shared)
    assert "secret" not in (directory / DOCUMENT).read_text()
    # The host with the keys has a newer program, and reads from another mirror.
    other = a_finishing(shared, program="3", upstream_url="http://other.internal/openwrt")
    assert sign(other, job) == expected
    for path in (tmp_path / "alone" / job.request_hash).iterdir():
        assert (tmp_path / "shared" / job.request_hash / path.name).read_bytes() == path.read_bytes()
    names = {path.name for path in (tmp_path / "shared" / job.request_hash).iterdir()}
    assert DOCUMENT not in names and "openwrt.intoto.jsonl" in names
    other.discard(job)
    assert not directory.exists()


def test_a_signer_that_is_stopped_leaves_everything_to_the_next(store: LocalStore) -> None:
    job, _ = handed_over(store)
    stop = threading.Event()
    stop.set()
    with pytest.raises(BuildInterrupted):
        sign(a_finishing(store), job, stop)
    assert not store.holds(job.request_hash)
    first, second = sign(a_finishing(store), job), sign(a_finishing(store), job)
    assert first == second, "also of one that was killed after it had published"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.bin", None),
        ("a.bin", b"other"),
        ("feeds.buildinfo", b"half"),
        ("more.bin", b"x"),
        (DOCUMENT, None),
        (DOCUMENT, b"{}"),
        (DOCUMENT, b"\xff"),
        (DOCUMENT, b"[" * 100_000),
    ],
)
def test_what_is_not_as_it_was_handed_over_is_not_signed(
    store: LocalStore, name: str, content: bytes | None
) -> None:
    job, directory = handed_over(store)
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_bytes(content)
    with pytest.raises(HandedOverGone):
        sign(a_finishing(store), job)
    assert not store.holds(job.request_hash)


def test_without_the_keys_nothing_that_they_lack_stands_in_the_way_of_a_build(store: LocalStore) -> None:
    fault = SigningUnavailable("/etc/asu/provenance.key is away")
    writer = ProvenanceWriter(
        PlainStatements(fault),
        required=True,
        builder=Builder("", ""),
        upstream_url="",
        announced_url="",
    )
    for has_keys in (True, False):
        finishing = Finishing(store, provenance=writer, has_keys=has_keys, job_timeout=timedelta(minutes=1))
        if has_keys:
            with pytest.raises(SigningUnavailable):
                finishing.require()
        else:
            finishing.require()
            assert finishing.key == ""


def test_a_failure_while_signing_tells_what_the_build_printed(store: LocalStore) -> None:
    job, directory = handed_over(store)
    (directory / "openwrt.cdx.json").write_text("")
    document = json.loads((directory / DOCUMENT).read_text())
    document["sizes"]["openwrt.cdx.json"] = 0
    empty = hashlib.sha256(b"").hexdigest()
    document["images"].append(
        {"name": "openwrt.cdx.json", "type": "x", "sha256": empty, "sha256_unsigned": empty, "size": 0}
    )
    (directory / DOCUMENT).write_text(json.dumps(document))
    with pytest.raises(BuildFailed) as caught:
        sign(a_finishing(store), job)
    assert (caught.value.stdout, caught.value.build_cmd) == ("out \N{SNOWMAN}", ("make", "image"))
