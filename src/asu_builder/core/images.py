"""What a build left, on its way into the store: compared with what is said of it, signed, and told."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from asu_builder.core.provenance import ProvenanceWriter
from asu_builder.domain.errors import BuildFailed, BuildProblem, FailureReason, Side, SigningUnavailable
from asu_builder.domain.job import Image, Job, SbomFiles
from asu_builder.domain.profiles_json import MAX_BYTES, TRAILER_BYTES, parse_built, signature_length
from asu_builder.domain.provenance import Built
from asu_builder.domain.request import BuildRequest
from asu_builder.domain.sbom import (
    MOST_PACKAGES,
    Inventory,
    render_cyclonedx,
    render_spdx,
    take_inventory,
)
from asu_builder.ports import ImageSigning

SUMS = "sha256sums"
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
    try:
        with (directory / "profiles.json").open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _incomplete("No JSON file found") from None
    if len(content) > MAX_BYTES:
        raise _incomplete("JSON file too big")
    built = parse_built(content, request.profile)
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
        path, stated = directory / entry.name, entry.sha256
        if not path.is_file():
            # Some targets compress after describing: name, digest and size are the intermediate's.
            path, stated = directory / f"{entry.name}.gz", None
            if not path.is_file():
                raise _incomplete(f"Image {entry.name} is listed but missing")
        if path.name in images:
            continue
        size, digest, digests = path.stat().st_size, hashlib.sha256(), []
        with path.open("rb") as file:
            file.seek(max(0, size - TRAILER_BYTES))
            signature = signature_length(file.read(TRAILER_BYTES), size)
            file.seek(0)
            # First what a signature at its end covers, then the whole file.
            for left in (size - signature, signature):
                while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                    require_time()
                    digest.update(chunk)
                    left -= len(chunk)
                digests.append(digest.hexdigest())
        sha256_unsigned, sha256 = digests
        if stated is not None and stated != sha256:
            raise _incomplete(f"Image {path.name} is not what profiles.json says")
        images[path.name] = Image(
            name=path.name,
            type=entry.type,
            sha256=sha256,
            sha256_unsigned=sha256_unsigned,
            size=size,
            filesystem=entry.filesystem,
        )
    if not images:
        raise BuildFailed(
            FailureReason.NO_IMAGES,
            f"Error: No image was built for {request.profile}. The request itself may be fine; try again "
            "later.",
        )
    return built.description, tuple(images[name] for name in sorted(images))


class Signatures:
    """Signs the files of one build, where there is a key; without `required` what fails is a warning."""

    def __init__(self, signing: ImageSigning | None, *, required: bool) -> None:
        self.signing = signing
        self._required = required
        self.warnings: list[str] = []

    def require(self) -> None:
        """Raises `SigningUnavailable` where a build would be in vain."""
        if self.signing and self._required:
            self.signing.require()

    def sign_images(
        self, directory: Path, profile: str, images: Sequence[Image], require_time: Callable[[], None]
    ) -> tuple[tuple[Image, ...], str]:
        """The images as they are then, and the name of the key that signed all of them; "" for none.

        `profiles.json` says the same as before of its images. Raises `BuildFailed` or `SigningUnavailable`.
        """
        names = {image.name for image in images}
        if odd := sorted(names & ({f"{name}.sig" for name in names} | {SUMS, f"{SUMS}.sig"})):
            raise _incomplete(f"Image {odd[0]} has the name of a file of this server")
        signed: list[Image] = []
        if self.signing is None:
            return tuple(images), ""
        signed_by = ""
        try:
            signed_by = self.signing.key_id
            for image in images:
                require_time()
                signed.append(self.signing.sign_image(image, directory / image.name))
        except (SigningUnavailable, BuildFailed) as problem:
            # The world's clock may end a build here too; that is no fault of an image.
            if self._required or not _is_of_signing(problem):
                raise
            self.warnings.append(f"Not all images are signed. {problem.public}")
            signed_by = ""
        found = (*signed, *images[len(signed) :])
        _write_description(directory / "profiles.json", profile, found)
        return found, signed_by

    def write_sums(self, directory: Path, images: Sequence[Image]) -> dict[str, str]:
        """Writes `sha256sums` over all other files of a build, and the signature of it.

        Returns the SHA-256 of every file that is there then.
        """
        known = {image.name: image.sha256 for image in images}
        listed = {
            path.name: known.get(path.name) or digest_of(path)
            for path in sorted(directory.iterdir())
            if path.name not in (SUMS, f"{SUMS}.sig")
        }
        (directory / SUMS).write_text("".join(f"{digest} *{name}\n" for name, digest in listed.items()))
        if self.signing:
            try:
                self.signing.sign_file(directory / SUMS)
            except SigningUnavailable as problem:
                if self._required:
                    raise
                self.warnings.append(f"The file {SUMS} is not signed. {problem.public}")
        ours = (directory / SUMS, directory / f"{SUMS}.sig")
        return listed | {path.name: digest_of(path) for path in ours if path.exists()}


def _is_of_signing(problem: SigningUnavailable | BuildFailed) -> bool:
    return isinstance(problem, SigningUnavailable) or problem.reason is FailureReason.INCOMPLETE_OUTPUT


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_description(path: Path, profile: str, images: Sequence[Image]) -> None:
    """Writes into `profiles.json` what the images are now; it was found fit to be read before."""
    document: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    named = {image.name: image for image in images}
    for entry in document["profiles"][profile].get("images", ()):
        image = named.get(entry["name"]) or named.get(f"{entry['name']}.gz")
        if image:
            entry.update(name=image.name, sha256=image.sha256, sha256_unsigned=image.sha256_unsigned)
            entry["size"] = image.size
    path.write_bytes(msgspec.json.encode(document))


_OF_IMAGEBUILDER = "*.bom.cdx.json"
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


def write_sbom(
    directory: Path, inventory: Inventory, *, description: Mapping[str, object], images: Sequence[Image]
) -> SbomFiles:
    """Writes what is in the images beside them, named like them.

    What newer ImageBuilders write for it gives way: it says less than ours and holds a random number and a
    time, so equal builds would differ. Raises `BuildFailed` where an image has such a name already; any other
    file of that name gives way.
    """
    prefix = str(description.get("image_prefix"))
    if not _PREFIX.fullmatch(prefix):
        prefix = f"{inventory.request_hash[:12]}-{inventory.profile}"
    files = SbomFiles(f"{prefix}.cdx.json", f"{prefix}.spdx.json")
    names = {image.name for image in images}
    for path in directory.glob(_OF_IMAGEBUILDER):
        if path.name not in names:
            path.unlink()
    for name, render in ((files.cyclonedx, render_cyclonedx), (files.spdx, render_spdx)):
        if name in names:
            raise _incomplete(f"Image {name} has the name of what describes the images")
        path = directory / name
        path.unlink(missing_ok=True)
        path.write_bytes(render(inventory))
    return files


class Completed(TypedDict):
    """What a `BuildResult` says of the published files."""

    description: Mapping[str, object]
    images: tuple[Image, ...]
    signed_by: str
    sbom: SbomFiles | None
    provenance: str


def complete_files(
    directory: Path,
    job: Job,
    built: Built,
    description: Mapping[str, object],
    images: Sequence[Image],
    *,
    signatures: Signatures,
    provenance: ProvenanceWriter | None,
    require_time: Callable[[], None],
) -> Completed:
    """Signs verified images and puts our files beside them; `signatures` keeps the warnings.

    Raises `BuildFailed` or `SigningUnavailable`.
    """
    # In this order: each covers what was written before it.
    signed, signed_by = signatures.sign_images(directory, job.request.profile, images, require_time)
    completed = Completed(
        description=description, images=signed, signed_by=signed_by, sbom=None, provenance=""
    )
    if len(built.manifest) > MOST_PACKAGES:
        if provenance and provenance.required:
            raise _incomplete("The manifest is too long to state where the images came from")
        signatures.warnings.append("The manifest is too long to write an SBOM from it.")
        signatures.write_sums(directory, signed)
        return completed
    inventory = take_inventory(
        job.request,
        job.request_hash,
        description=description,
        manifest=built.manifest,
        found=built.found,
    )
    sbom = write_sbom(directory, inventory, description=description, images=signed)
    place = provenance.clear_place(directory, sbom, signed) if provenance else None
    digests = signatures.write_sums(directory, signed)
    completed["sbom"] = sbom
    if provenance and place:
        warning = provenance.write(place, built, inventory, digests, signed, started_at=job.started_at)
        if warning:
            signatures.warnings.append(warning)
        else:
            completed["provenance"] = place.name
    return completed


def _incomplete(what: str) -> BuildFailed:
    return BuildFailed(FailureReason.INCOMPLETE_OUTPUT, f"Error: {what}")
