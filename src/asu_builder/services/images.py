"""Checks what an ImageBuilder left, and describes it with digests of our own.

Exit 0 is no success: facts on the ImageBuilder, §2.5 and §3. `profiles.json` must exist, list the
profile and at least one image, and each listed file must be there with the listed digest. Like all
that leaves a container it may be hostile: see `domain/built.py`.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from asu_builder.domain.built import MAX_BYTES, BuiltImage, parse_built
from asu_builder.domain.errors import BuildFailed, FailureReason, Side
from asu_builder.domain.fwtool import TRAILER_BYTES, signature_length
from asu_builder.domain.job import Image
from asu_builder.domain.problem import BuildProblem
from asu_builder.domain.request import BuildRequest

_CHUNK_BYTES = 1 << 20


def describe_images(
    directory: Path,
    request: BuildRequest,
    *,
    require_time: Callable[[], None] = lambda: None,
    own_numbering: bool = False,
) -> tuple[dict[str, object], tuple[Image, ...]]:
    """The lifted `profiles.json` and the verified images of a build in `directory`.

    Raises `BuildFailed` when anything is missing or is not what it is said to be. `require_time` is
    called between pieces of files, and raises when the build may not go on. With `own_numbering` the
    version that the ImageBuilder tells may be any.
    """
    built = parse_built(_read(directory / "profiles.json"), request.profile)
    if built.version and built.version != request.version and not own_numbering:
        raise BuildFailed(
            FailureReason.REVISION_MISMATCH,
            f"Error: Received incorrect version {built.version} (requested {request.version}). "
            "The ImageBuilder is another version's; try again later.",
            side=Side.INFRASTRUCTURE,
            field="version",
            problem=BuildProblem(revisions=(request.version, built.version)),
        )
    images: dict[str, Image] = {}
    for entry in built.images:
        name, stated = _find(directory, entry)
        if name not in images:
            images[name] = _verify(directory / name, entry, stated, require_time)
    if not images:
        raise BuildFailed(
            FailureReason.NO_IMAGES,
            f"Error: No image was built for {request.profile}. The request itself may be fine; try again "
            "later.",
        )
    return built.description, tuple(images[name] for name in sorted(images))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _incomplete("No JSON file found") from None
    if len(content) > MAX_BYTES:
        raise _incomplete("JSON file too big")
    return content


def _find(directory: Path, entry: BuiltImage) -> tuple[str, str | None]:
    """The name of the file, and the digest it should have."""
    if (directory / entry.name).is_file():
        return entry.name, entry.sha256
    if (directory / f"{entry.name}.gz").is_file():
        # Some targets compress after describing: name, digest and size are the intermediate's.
        return f"{entry.name}.gz", None
    raise _incomplete(f"Image {entry.name} is listed but missing")


def _verify(path: Path, entry: BuiltImage, stated: str | None, require_time: Callable[[], None]) -> Image:
    sha256, sha256_unsigned = _digests(path, require_time)
    if stated is not None and stated != sha256:
        raise _incomplete(f"Image {path.name} is not what profiles.json says")
    return Image(
        name=path.name,
        type=entry.type,
        sha256=sha256,
        sha256_unsigned=sha256_unsigned,
        size=path.stat().st_size,
        filesystem=entry.filesystem,
    )


def _digests(path: Path, require_time: Callable[[], None]) -> tuple[str, str]:
    """SHA-256 of the file, and of what a signature at its end covers."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - TRAILER_BYTES))
        unsigned_left = size - signature_length(file.read(TRAILER_BYTES), size)
        file.seek(0)

        def pieces(left: int) -> Iterator[bytes]:
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                require_time()
                left -= len(chunk)
                yield chunk

        unsigned = hashlib.sha256()
        for piece in pieces(unsigned_left):
            unsigned.update(piece)
        whole = unsigned.copy()
        for piece in pieces(size - unsigned_left):
            whole.update(piece)
    return whole.hexdigest(), unsigned.hexdigest()


def _incomplete(what: str) -> BuildFailed:
    return BuildFailed(FailureReason.INCOMPLETE_OUTPUT, f"Error: {what}")
