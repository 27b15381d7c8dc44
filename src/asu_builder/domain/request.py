"""A build request in canonical form, the hash that names it, and its first digits, for people."""

import contextlib
import functools
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from asu_builder.domain.addresses import MAX_LENGTH, parse_address
from asu_builder.domain.errors import BuildNotFound, RequestMalformed, RequestRejected

FILESYSTEMS = ("squashfs", "ext4", "ubifs", "erofs", "jffs2", "jffs2-nand", "targz", "cpiogz")
"""Those that are known and offered; an ImageBuilder may know others."""
FILESYSTEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,31}")
REPOSITORIES_MODES = ("append", "replace")
ON_MISSING = ("fail", "drop")
TODAY = "today"
"""As `as_of`: the package indexes as they are now."""

_PACKAGE_NAME = r"-?[A-Za-z0-9][A-Za-z0-9._+-]{0,127}"
PACKAGE = re.compile(_PACKAGE_NAME)
UPSTREAM_PACKAGE = re.compile(r"-?~?[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
"""A name in upstream's own metadata: `~` stands before what is built for a device and not installed."""
PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}/[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
VERSION_CODE = re.compile(r"[A-Za-z0-9.,_+~-]{0,64}")
_REPOSITORY_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,63}")
_REPOSITORY_URL = re.compile(r"https?://[A-Za-z0-9.\[\]:@-]{1,255}(?:/[A-Za-z0-9._~+,=@:%-]*)*")
_RESERVED_NAMES = frozenset({".", "..", "imagebuilder"})
"""Names of repositories that are directories, or opkg's local index."""
_PACKAGES = re.compile(rf"(?:{_PACKAGE_NAME}\n)*")
_PACKAGE_VERSION = re.compile(r"[A-Za-z0-9._+~:=-]{0,128}")
_PACKAGE_VERSIONS = re.compile(rf"(?:{_PACKAGE_VERSION.pattern}\n)*")
_KEY = re.compile(r"[\x20-\x7e\r\n\t]{1,8192}")

REQUEST_HASH = re.compile(r"[0-9a-f]{64}")
"""What names a request: all digits of a SHA-256, in lower case."""
AS_OF = re.compile(r"(?:today|[0-9a-f]{64})?")
HASH_PREFIX = re.compile(r"[0-9a-f]{4,64}")
"""How callers who may see every job may shorten one; the log and the names of images show 12."""

MAX_PACKAGES = 3000
MAX_PACKAGES_LENGTH = 100_000
"""Characters of all names together: one argument of a process may hold 128 KiB."""
MAX_DEFAULTS_LENGTH = 1_000_000
MAX_REPOSITORIES = 64
MAX_REPOSITORY_URL = MAX_LENGTH

EDITION = 1
"""Raised when the meaning of a field or the way images are made changes for all requests."""


class BuildRequest(Struct, frozen=True):
    """What a caller wants; valid by construction.

    `packages` keeps the caller's order. With `packages_versions` its keys are the packages.
    `defaults` is a first-boot script, "" for none. `rootfs_size_mb` is in MiB. `as_of` is the digest of the
    package indexes that the build belongs to, `today` until these are known, "" for any. Raises
    `RequestMalformed` naming the field when a value could not be meant.
    """

    version: str
    target: str
    profile: str
    packages: tuple[str, ...] = ()
    packages_versions: Mapping[str, str] = field(default_factory=dict)
    version_code: str = ""
    diff_packages: bool = False
    defaults: str = ""
    rootfs_size_mb: int | None = None
    filesystem: str | None = None
    repositories: Mapping[str, str] = field(default_factory=dict)
    repositories_mode: str = "replace"
    repository_keys: tuple[str, ...] = ()
    on_missing: str = "fail"
    """`drop` leaves out names that surely do not exist."""
    as_of: str = ""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Names that were left out for that, each with the nearest one that exists, or "". Never by a caller."""

    def __post_init__(self) -> None:
        _require_place(self.version, self.target, self.profile, self.version_code)
        for name, packages, entries in (
            ("packages", self.packages, enumerate(self.packages)),
            ("packages_versions", self.packages_versions, ((None, name) for name in self.packages_versions)),
        ):
            if not packages:
                continue
            # One match over all joined: six times faster for a hundred names than one by one. A name with
            # a line break in it would pass as two: then there are more lines than names.
            joined = "\n".join((*packages, ""))
            if not _PACKAGES.fullmatch(joined) or joined.count("\n") != len(packages):
                require_package_names(name, entries)
            _require(
                len(packages) <= MAX_PACKAGES and len(joined) - len(packages) <= MAX_PACKAGES_LENGTH,
                name,
                _FEW_PACKAGES,
            )
        joined = "\n".join((*self.packages_versions.values(), ""))
        if not _PACKAGE_VERSIONS.fullmatch(joined) or joined.count("\n") != len(self.packages_versions):
            _require_each(
                "packages_versions",
                self.packages_versions.items(),
                _PACKAGE_VERSION,
                "a package version of letters, digits and . _ + ~ : = -",
            )
        size = self.rootfs_size_mb
        _require(size is None or 1 <= size <= 1_000_000, "rootfs_size_mb", "a positive number of MiB")
        _require(
            self.filesystem is None or FILESYSTEM.fullmatch(self.filesystem),
            "filesystem",
            _A_FILESYSTEM,
        )
        _require(
            len(self.defaults) <= MAX_DEFAULTS_LENGTH and "\0" not in self.defaults,
            "defaults",
            _SHORT_TEXT,
        )
        _require(self.repositories_mode in REPOSITORIES_MODES, "repositories_mode", "append or replace")
        _require(
            len(self.repositories) <= MAX_REPOSITORIES, "repositories", f"at most {MAX_REPOSITORIES} entries"
        )
        for name, url in self.repositories.items():
            _require_entry(
                "repositories",
                None,
                name,
                _REPOSITORY_NAME.fullmatch(name),
                "a repository name of letters, digits and _ . -",
            )
            _require_entry(
                "repositories",
                name,
                url,
                len(url) <= MAX_REPOSITORY_URL and _REPOSITORY_URL.fullmatch(url),
                f"an http(s) address of at most {MAX_REPOSITORY_URL} plain characters",
            )
        _require(
            len(self.repository_keys) <= MAX_REPOSITORIES,
            "repository_keys",
            f"at most {MAX_REPOSITORIES} keys",
        )
        _require(self.on_missing in ON_MISSING, "on_missing", "fail or drop")
        _require(AS_OF.fullmatch(self.as_of), "as_of", "today, or a digest of 64 hexadecimal digits")
        for number, key in enumerate(self.repository_keys):
            _require_entry(
                "repository_keys", number, key, _KEY.fullmatch(key), "a key as printable text (PEM or usign)"
            )

    @property
    def wanted(self) -> tuple[str, ...]:
        """The package names asked for, in the caller's order, each once."""
        return tuple(dict.fromkeys(self.packages_versions or self.packages))

    def without(self, names: Collection[str]) -> "BuildRequest":
        """The same request without these packages."""
        versions = self.packages_versions
        return replace(
            self,
            packages=tuple(name for name in self.packages if name not in names),
            packages_versions={name: version for name, version in versions.items() if name not in names},
        )


_FEW_PACKAGES = f"at most {MAX_PACKAGES} names with {MAX_PACKAGES_LENGTH} characters together"
_A_FILESYSTEM = f"a name like {', '.join(FILESYSTEMS)}"
_SHORT_TEXT = f"text without NUL of at most {MAX_DEFAULTS_LENGTH} characters"


def _require(holds: object, name: str, expected: str) -> None:
    if not holds:
        raise RequestMalformed(f"{name}: expected {expected}", field=name)


@functools.lru_cache(256)
def _require_place(version: str, target: str, profile: str, version_code: str) -> None:
    """Remembers what was found to be good: most requests are for one of a few devices."""
    _require(VERSION.fullmatch(version), "version", "a version like 24.10.4 or SNAPSHOT")
    _require(TARGET.fullmatch(target), "target", "target/subtarget, for example ath79/generic")
    _require(PROFILE.fullmatch(profile), "profile", "letters, digits and . _ -")
    _require(VERSION_CODE.fullmatch(version_code), "version_code", "a revision like r28959-29397011cc")


_SHOWN = 80


def quoted(value: str, most: int = _SHOWN) -> str:
    """A value of the request as a message names it: in quotation marks, on one line, and not too long."""
    text = value if len(value) <= most else f"{value[:most]}…"
    return json.dumps(text, ensure_ascii=not text.isprintable())


def place_of(name: str, key: int | str | None) -> str:
    """An entry of a list or map: `packages[3]`, `repositories["mine"]`; for a key of a map the field."""
    if key is None:
        return name
    return f"{name}[{key}]" if isinstance(key, int) else f"{name}[{quoted(key, 40)}]"


def _require_entry(name: str, key: int | str | None, value: str, holds: object, expected: str) -> None:
    if not holds:
        raise RequestMalformed(f"{place_of(name, key)}: {quoted(value)}, expected {expected}", field=name)


def _require_each(
    name: str, entries: Iterable[tuple[int | str | None, str]], pattern: re.Pattern[str], expected: str
) -> None:
    for key, value in entries:
        _require_entry(name, key, value, pattern.fullmatch(value), expected)


def require_package_names(name: str, entries: Iterable[tuple[int | str | None, str]]) -> None:
    """Names the first entry that is no package name. Raises `RequestMalformed`."""
    expected = "a package name of letters, digits and . _ + - (an optional - in front)"
    _require_each(name, entries, PACKAGE, expected)


def require_usable_repositories(repositories: Mapping[str, str]) -> None:
    """Refuses names and addresses that no package manager could use as they are meant.

    Apart from the request itself, because one that was stored long ago must still be readable.
    Raises `RequestMalformed`.
    """
    for name, url in repositories.items():
        _require_entry(
            "repositories",
            None,
            name,
            name not in _RESERVED_NAMES,
            "another name: . and .. are directories, and imagebuilder is the ImageBuilder's own",
        )
        _require_entry(
            "repositories",
            name,
            url,
            parse_address(url),
            "an address with a host, no port of 0 or with leading zeros, and brackets around IPv6 alone",
        )


class Erratum(Struct, frozen=True):
    """A mark in the hash that retires the images a bug of ours had spoilt, and only those."""

    mark: str
    link: str
    versions: re.Pattern[str]

    def spoilt(self, request: BuildRequest) -> bool:
        """Whether images of this request may have been built with the bug."""
        return self.versions.fullmatch(request.version) is not None


ERRATA: tuple[Erratum, ...] = ()
"""None yet. A fixed bug adds one entry; the requests it names are then built again."""


class Terms(Struct, frozen=True):
    """Under what a request got its hash: who builds it must hold to the same."""

    edition: int = 0
    """`EDITION` then; 0 where it is not known, in jobs of older versions."""
    errata: str = ""
    """The marks of `ERRATA` then, all of them, with commas between."""
    rules: str = ""
    """The digest of all package rules then, also of those that are not about the request."""


def current_terms(rules: str, errata: Iterable[Erratum] = ERRATA) -> Terms:
    """Those of this program, with the package rules of this digest."""
    return Terms(EDITION, ",".join(erratum.mark for erratum in errata), rules)


def request_hash(
    request: BuildRequest,
    *,
    revision: str = "",
    rules: str = "",
    installed_key: str = "",
    errata: Iterable[Erratum] = ERRATA,
) -> str:
    """The 64 lower-case hexadecimal digits that name a resolved request: job, URL and directory.

    `revision` is upstream's current one for a moving version and "" for a release; `rules` is the
    digest of the package-change rules that are about this request, "" when none is; `installed_key` names
    the key that this server puts into images, "" when it puts none. Every field
    that changes the image takes part, at full length and in an unambiguous encoding, because a
    shortened hash over joined strings is how poisoned images were once served (CVE-2024-54143).
    What counts as the same request is listed in docs/request-hash.md.
    """
    canonical: dict[str, object] = {
        "edition": EDITION,
        "errata": sorted(erratum.mark for erratum in errata if erratum.spoilt(request)),
        "version": request.version,
        "version_code": request.version_code,
        "revision": revision,
        "rules": rules,
        "target": request.target,
        "profile": request.profile,
        "packages": sorted(request.wanted),
        "packages_versions": dict(request.packages_versions),
        "diff_packages": request.diff_packages,
        "defaults": request.defaults,
        "rootfs_size_mb": request.rootfs_size_mb,
        "filesystem": request.filesystem,
        "repositories": dict(request.repositories),
        "repositories_mode": request.repositories_mode if request.repositories else "",
        "repository_keys": sorted(set(request.repository_keys)),
    }
    # A field that was added later does not appear at its default: hashes of before stay what they were.
    if request.dropped:
        canonical["dropped"] = sorted(request.dropped)
    if request.as_of:
        canonical["as_of"] = request.as_of
    if installed_key:
        canonical["installed_key"] = installed_key
    import hashlib  # with OpenSSL, which a start does without

    return hashlib.sha256(canonical_json(canonical)).hexdigest()


def canonical_json(value: object) -> bytes:
    """JSON in ASCII with sorted keys and without spaces, as the standard library writes it.

    msgspec writes the same five times as fast, except for what has to be escaped only in ASCII.
    """
    with contextlib.suppress(UnicodeEncodeError):  # half of a surrogate pair
        text = msgspec.json.encode(value, order="sorted")
        if text.isascii() and b"\x7f" not in text:
            return text
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


FOUND_AT_MOST = 1000
"""How many jobs are looked at for others that begin alike; one hash may have many jobs."""
_NAMED_AT_MOST = 4


def whole_hash(given: str, begin_so: Callable[[str], Iterable[str]]) -> str:
    """The one hash that begins as given; `begin_so` tells the hashes of jobs by a prefix.

    Raises `RequestRejected` for what is no prefix or fits several, `BuildNotFound` for none.
    """
    prefix = given.strip().rstrip("….").lower()
    if REQUEST_HASH.fullmatch(prefix):
        return prefix
    if not HASH_PREFIX.fullmatch(prefix):
        raise RequestRejected(f"HASH: expected 4 to 64 hexadecimal digits, got {given[:80]!r}.")
    found = list(dict.fromkeys(begin_so(prefix)))
    if not found:
        raise BuildNotFound(f"There is no job whose hash begins with {prefix}.")
    if len(found) > 1:
        named = ", ".join(found[:_NAMED_AT_MOST]) + (", …" if len(found) > _NAMED_AT_MOST else "")
        raise RequestRejected(f"{len(found)} hashes begin with {prefix}: {named}. Give more digits.")
    return found[0]
