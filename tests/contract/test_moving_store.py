"""Images from a directory to a bucket and back, with rows that name them."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from asu_builder.app.adapters import open_store
from asu_builder.cli import main
from asu_builder.database.connection import Database
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.domain.job import BuildResult, Image, Retention
from asu_builder.settings import Settings
from asu_builder.store import moving
from asu_builder.store.bucket import Bucket
from factories import a_result, a_submission
from object_storage import s3_server
from shelves import read_remote

DAY = timedelta(days=1)


class House:
    """An installation with results in a directory, and a bucket beside it."""

    def __init__(self, root: Path) -> None:
        self.public, self.path, self.url = root / "public", root / "a.db", s3_server().place(root.name)
        self.options = dict(s3_server().options())
        self.database = Database(self.path)
        self.rows, self.queue = SqlRetention(self.database), SqlJobQueue(self.database)
        self.installation = self.database.installation()
        self.files = open_store(Settings(public_path=self.public), self.rows, installation=self.installation)
        settings = Settings(public_path=self.public, store_url=self.url, store_options=self.options)
        self.bucket = Bucket(settings)
        self.objects = open_store(settings, self.rows, installation=self.installation)

    def build(self, name: str, size: int = 100) -> str:
        """A result with an image and its sums; its hash."""
        submission = a_submission(packages=(name,))
        self.queue.submit(submission)
        claimed = self.queue.claim("w/1", lease_for=DAY)
        assert claimed is not None
        image = hashlib.shake_128(name.encode()).digest(size)
        digest = hashlib.sha256(image).hexdigest()
        with self.files.scratch() as scratch:
            folder = scratch / "images"
            folder.mkdir()
            (folder / "x.bin").write_bytes(image)
            (folder / "sha256sums").write_text(f"{digest} *x.bin\n")
            self.files.publish(submission.request_hash, folder)
        result = replace(a_result(), images=(Image("x.bin", "sysupgrade", digest, digest, size),))
        self.queue.finish(claimed[1], result, Retention(DAY))
        return submission.request_hash

    def run(self, origin: str, goal: str) -> str:
        """The command; what it says."""
        environment = {
            "ASU_DATABASE_PATH": str(self.path),
            "ASU_STORE_URL": self.url,
            "ASU_STORE_OPTIONS": json.dumps(self.options),
        }
        done = CliRunner().invoke(main, ["move", "--store", "--from", origin, "--to", goal], env=environment)
        assert done.exit_code == 0, done.output
        return done.output


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    with closing(made.database):
        yield made


def test_there_and_back_again(house: House, tmp_path: Path) -> None:
    names = [house.build("a"), house.build("b", 9 << 20), house.build("c", 0)]
    lost = house.build("lost")
    house.files.remove(lost)
    (house.public / "store" / house.build("spoilt") / "x.bin").write_bytes(b"other")
    before = [house.queue.find(name) for name in names]
    said = house.run(f"file://{house.public}", house.url)
    assert "3 results moved and compared" in said and "2 are not whole" in said, said
    for name, job in zip(names, before, strict=True):
        found = house.objects.locate(name, "x.bin")
        expected = (house.public / "store" / name / "x.bin").read_bytes()
        assert read_remote(found) == expected  # type: ignore[arg-type]
        assert house.objects.locate(name, ".installation") is None
        now = house.queue.find(name)
        assert now is not None and job is not None
        assert isinstance(now.outcome, BuildResult) and isinstance(job.outcome, BuildResult)
        assert replace(now.outcome, files=None) == replace(job.outcome, files=None), (
            "nothing else has changed"
        )
    assert "0 results moved and compared" in house.run(f"file://{house.public}", house.url)
    elsewhere = tmp_path / "elsewhere"
    assert "3 results moved and compared" in house.run(house.url, f"file://{elsewhere}")
    for name in names:
        for file in ("x.bin", "sha256sums"):
            there, here = elsewhere / "store" / name / file, house.public / "store" / name / file
            assert there.read_bytes() == here.read_bytes()
    assert "3 were there already" in house.run(house.url, f"file://{elsewhere}")


def test_one_that_breaks_off_goes_on_where_it_was(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [house.build(name) for name in "abc"]
    require_same, calls = moving._require_same, iter(range(9))

    def spoil(path: Path, digest: str, name: str) -> None:
        require_same(path, "0" * 64 if next(calls) == 3 else digest, name)

    monkeypatch.setattr(moving, "_require_same", spoil)
    environment = {
        "ASU_DATABASE_PATH": str(house.path),
        "ASU_STORE_URL": house.url,
        "ASU_STORE_OPTIONS": json.dumps(house.options),
    }
    command = ["move", "--store", "--from", f"file://{house.public}", "--to", house.url]
    done = CliRunner().invoke(main, command, env=environment)
    assert done.exit_code != 0 and "read back with other bytes" in done.output
    assert [house.rows.stored_files(name) is not None for name in names] == [True, False, False]
    assert "2 results moved and compared" in house.run(f"file://{house.public}", house.url)
    assert all(house.objects.holds(name) for name in names)


def test_what_the_bucket_does_not_have_whole_is_not_moved_back(house: House) -> None:
    name, other = house.build("a"), house.build("b")
    house.run(f"file://{house.public}", house.url)
    files = house.rows.stored_files(name)
    assert files is not None
    house.bucket.delete([f"{name}/{files.folder}/sha256sums"])
    (house.public / "gone").mkdir()
    said = house.run(house.url, f"file://{house.public}/gone")
    assert "1 results moved and compared" in said and "1 are not whole" in said
    assert (house.public / "gone" / "store" / other / "x.bin").is_file()
    assert not (house.public / "gone" / "store" / name).exists()
