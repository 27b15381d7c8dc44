import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from asu_builder.client.downloads import Announced, Stretch, announced_images, fetch
from asu_builder.domain.errors import BuildNotFound, Conflict, ServerMistake, Unavailable

CONTENT = bytes(range(256)) * 40
IMAGE = Announced("image.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


class Shelf:
    """Gives a file from where it is asked for; each opening may break off after so many bytes."""

    def __init__(
        self, content: bytes = CONTENT, *, breaks_after: tuple[int, ...] = (), ranges: bool = True
    ) -> None:
        self.content = content
        self.ranges = ranges
        self.asked: list[int] = []
        self._breaks = list(breaks_after)

    @contextmanager
    def __call__(self, name: str, start: int) -> Iterator[Stretch]:
        assert name == "image.bin"
        self.asked.append(start)
        start = start if self.ranges else 0
        yield Stretch(start, self._chunks(start))

    def _chunks(self, start: int) -> Iterator[bytes]:
        end = start + self._breaks.pop(0) if self._breaks else None
        rest = self.content[start:end]
        for at in range(0, len(rest), 1000):
            yield rest[at : at + 1000]
        if end is not None:
            raise Unavailable("The connection broke.")


def get(shelf: Shelf, folder: Path, image: Announced = IMAGE) -> Path:
    return fetch(image, folder, shelf, pause=lambda _: None)


def test_a_file_comes_verified_and_whole(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    path = fetch(IMAGE, tmp_path / "new", Shelf(), report=lambda *told: seen.append(told))
    assert path == tmp_path / "new" / "image.bin"
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["image.bin"]
    assert seen[-1] == ("image.bin", len(CONTENT), len(CONTENT))


def test_a_file_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    get(Shelf(), tmp_path)
    again = Shelf()
    assert get(again, tmp_path).read_bytes() == CONTENT
    assert again.asked == []


def test_a_file_of_that_name_that_is_another_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "image.bin").write_bytes(b"another")
    assert get(Shelf(), tmp_path).read_bytes() == CONTENT


def test_a_download_that_breaks_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    shelf = Shelf(breaks_after=(3000, 2000))
    assert get(shelf, tmp_path).read_bytes() == CONTENT
    assert shelf.asked == [0, 3000, 5000]


def test_what_has_arrived_is_kept_for_the_next_call(tmp_path: Path) -> None:
    away = Shelf(breaks_after=(4000, *[0] * 20))
    with pytest.raises(Unavailable):
        get(away, tmp_path)
    assert (tmp_path / "image.bin.part").read_bytes() == CONTENT[:4000]
    assert not (tmp_path / "image.bin").exists()
    shelf = Shelf()
    get(shelf, tmp_path)
    assert shelf.asked == [4000]


def test_a_server_that_knows_no_ranges_sends_it_from_the_beginning(tmp_path: Path) -> None:
    shelf = Shelf(breaks_after=(4000,), ranges=False)
    assert get(shelf, tmp_path).read_bytes() == CONTENT


def test_a_stream_that_ends_early_without_an_error_goes_on_too(tmp_path: Path) -> None:
    class Short(Shelf):
        def _chunks(self, start: int) -> Iterator[bytes]:
            yield self.content[start : start + 6000]

    shelf = Short()
    assert get(shelf, tmp_path).read_bytes() == CONTENT
    assert shelf.asked == [0, 6000]


def test_a_changed_file_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ServerMistake, match="nothing was kept"):
        get(Shelf(CONTENT[:-1] + b"!"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_longer_file_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    with pytest.raises(ServerMistake, match="longer"):
        get(Shelf(CONTENT * 100), tmp_path)
    assert (tmp_path / "image.bin.part").stat().st_size == 0


def test_the_beginning_of_another_file_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "image.bin.part").write_bytes(b"?" * 500)
    shelf = Shelf()
    assert get(shelf, tmp_path).read_bytes() == CONTENT
    assert shelf.asked == [500, 0]


def test_a_size_that_an_old_server_does_not_tell_is_no_matter(tmp_path: Path) -> None:
    image = Announced("image.bin", IMAGE.sha256)
    assert get(Shelf(), tmp_path, image).read_bytes() == CONTENT


def test_an_empty_file_comes_too(tmp_path: Path) -> None:
    image = Announced("image.bin", hashlib.sha256(b"").hexdigest(), 0)
    assert get(Shelf(b""), tmp_path, image).read_bytes() == b""


def test_two_processes_do_not_write_into_one_file(tmp_path: Path) -> None:
    with (tmp_path / "image.bin.part").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Conflict):
            get(Shelf(), tmp_path)


def test_what_is_gone_is_told_at_once(tmp_path: Path) -> None:
    def gone(name: str, start: int) -> AbstractContextManager[Stretch]:
        raise BuildNotFound("gone")

    with pytest.raises(BuildNotFound):
        fetch(IMAGE, tmp_path, gone, pause=lambda _: None)


@pytest.mark.parametrize(
    "name", ["../image.bin", "/etc/passwd", ".hidden", "a/b", "", "a\nb", "a" * 251, None, 3, "-rf"]
)
def test_a_name_that_could_lie_outside_the_folder_is_refused(name: object) -> None:
    with pytest.raises(ServerMistake, match="plain file name"):
        announced_images({"images": [{"name": name, "sha256": "a" * 64, "size": 1}]})


@pytest.mark.parametrize("sha256", [None, "", "a" * 63, "A" * 64])
def test_an_image_that_cannot_be_verified_is_refused(sha256: object) -> None:
    with pytest.raises(ServerMistake, match="cannot be verified"):
        announced_images({"images": [{"name": "a", "sha256": sha256}]})


def test_a_document_without_images_has_none() -> None:
    assert announced_images({"images": None}) == []
