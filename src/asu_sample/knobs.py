"""The packages that provoke faults and show features, the same in every version and architecture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from .miniature.archives import Content, PackageFile
from .miniature.packages import Package

_MIB = 1024 * 1024
_VERSION = "1.0-r1"

_FAULTS = {
    "sample-slow": ("sleep 10", "makes make image sleep 10 seconds"),
    "sample-slow-1": ("sleep 1", "makes make image sleep 1 second"),
    "sample-slow-5": ("sleep 5", "makes make image sleep 5 seconds"),
    "sample-slow-60": ("sleep 60", "makes make image sleep 60 seconds"),
    "sample-slow-600": ("sleep 600", "makes make image sleep 600 seconds"),
    "sample-silent-hang": ("hang 600", "makes make image hang 600 seconds without a word"),
    "sample-chatty": ("chatter 20", "makes make image print 20 MiB"),
    "sample-hog-memory": ("hog-memory", "makes make image take up to 4 GiB of memory"),
    "sample-fill-disk": ("fill-disk", "makes make image write up to 2 GiB"),
    "sample-fork": ("fork", "makes make image start up to 2000 processes"),
}


@cache
def knob_contents() -> tuple[Content, ...]:
    """All `sample-…` packages of the feed `packages`. Architecture `all`: every target shares their files."""
    faults = [_content(name, description, fault=fault) for name, (fault, description) in _FAULTS.items()]
    return (*faults, *_conflicts_and_clashes(), *_sizes(), *_scripts(), *_libraries())


def _content(
    name: str,
    description: str,
    *,
    fault: str = "",
    depends: tuple[str, ...] = (),
    postinst: str | None = None,
) -> Content:
    package = Package(
        name, _VERSION, "all", f"ASU Builder sample: {description}", depends=("libc", *depends), fault=fault
    )
    return Content(package, _files(name), postinst)


def _files(name: str) -> dict[str, PackageFile]:
    return {f"usr/share/sample/{name}": PackageFile(f"{name}: ASU Builder sample package\n".encode())}


def _with_file(content: Content, path: str, data: bytes, *, mode: int = 0o644) -> Content:
    return replace(content, files={**content.files, path: PackageFile(data, mode)})


def _conflicts_and_clashes() -> Iterator[Content]:
    for name, other in (("a", "b"), ("b", "a")):
        content = _content(f"sample-conflict-{name}", f"conflicts with sample-conflict-{other}")
        # opkg reads Conflicts; apk refuses two packages that provide one name in a version.
        package = replace(
            content.package,
            conflicts=(f"sample-conflict-{other}",),
            provides=(f"sample-virtual={_VERSION}",),
        )
        yield replace(content, package=package)
        clash = _content(f"sample-clash-{name}", f"brings a file that sample-clash-{other} brings too")
        yield _with_file(clash, "usr/share/sample/clash.txt", f"from {name}\n".encode())
    yield _content(
        "sample-broken-dep", "needs a package that nobody has", depends=("this-package-does-not-exist",)
    )
    yield _content("sample-needs-broken", "needs sample-broken-dep", depends=("sample-broken-dep",))


def _sizes() -> Iterator[Content]:
    random = hashlib.shake_256(b"asu-builder sample").digest(400 * 1024)
    big = _content("sample-big", "does not fit into images with a limit")
    yield _with_file(big, "usr/share/sample/big.bin", random)
    # Not zeros: mke2fs leaves holes where it finds zeros, and nothing would overflow.
    huge = _content("sample-huge", "40 MiB: overflows the default root partition of 32 MiB, fits into 64")
    yield _with_file(
        huge, "usr/share/sample/huge.bin", b"ASU Builder sample ".ljust(64, b".") * (40 * _MIB // 64)
    )


def _scripts() -> Iterator[Content]:
    service = (
        "#!/bin/sh /etc/rc.common\n# sample service, starts nothing\nSTART=50\nSTOP=10\nstart() { :; }\n"
    )
    greeting = '#!/bin/sh\necho "sample-service: postinst root=$IPKG_INSTROOT" >&2\n'
    yield _with_file(
        _content("sample-service", "brings an init script", postinst=greeting),
        "etc/init.d/sample-service",
        service.encode(),
        mode=0o755,
    )
    failing = '#!/bin/sh\necho "sample: failing on purpose" >&2\nexit 3\n'
    yield _content("sample-postinst-fail", "its post-install script fails", postinst=failing)


def _libraries() -> Iterator[Content]:
    content = _content("libsample20240101", "a library with an ABI version, provided as libsample")
    package = replace(
        content.package,
        version="2024.01.01~abc123-r1",
        provides=("libsample=2024.01.01~abc123-r1",),
        abi_version="20240101",
    )
    yield replace(content, package=package)
    yield _content("sample-uses-lib", "needs libsample", depends=("libsample20240101",))
