"""The packages of the made-up world, feed by feed, and those that provoke faults. None holds a program."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from .miniature.packages import Content, Package, PackageFile
from .releases import TARGETS, Release

FEEDS = ("base", "luci", "packages")
"""The feeds a target installs from, besides its own packages and its kernel modules."""

_TABLE = {
    "target": """
        libgcc1 13.3.0-r4 libc
    """,
    "base": """
        busybox 1.37.0-r3
        ca-bundle 20250419-r2
        dnsmasq 2.91-r2 libubus20250102
        fstools 2025.10.03-r1 libubox20250320
        dropbear 2025.88-r1
        libubox20250320 2025.03.20-r1
        libubus20250102 2025.01.02-r1 libubox20250320
        libuci20130104 2025.01.20-r1 libubox20250320
        libmbedtls21 3.6.5-r1
        procd 2025.10.04-r1 ubus
        libustream-mbedtls20201210 2025.10.03-r1 libmbedtls21
        logd 2025.10.30-r1 libubox20250320
        mtd 27
        netifd 2025.10.20-r3 libuci20130104 libubus20250102
        uci 2025.01.20-r1 libuci20130104
        ubus 2025.12.02-r1
        uclient-fetch 2025.10.03-r1 libubox20250320
        urandom-seed 3
        odhcp6c 2025.11.03-r1 libubox20250320
        odhcpd-ipv6only 2025.10.26-r1 libuci20130104
        ppp 2.5.2-r2 kmod-ppp
        ppp-mod-pppoe 2.5.2-r2 ppp
        opkg 2024.10.16-r1 uclient-fetch libubox20250320
        apk-mbedtls 3.0.2-r2 libmbedtls21
        partx-utils 2.41-r1
        firewall4 2025.03.17-r1 nftables-json kmod-nft-core
        wpad-basic-mbedtls 2025.08.26-r1 libmbedtls21
        iwinfo 2025.09.01-r1
        ucode 2025.07.18-r1
        rpcd 2025.12.03-r1 ubus
        uhttpd 2025.10.03-r1 libubox20250320
        wireguard-tools 1.0.20250521-r1 kmod-wireguard
        libjson-c5 0.18-r1
        jsonfilter 2025.10.04-r1 libjson-c5
        usign 2025.08.05-r1 libubox20250320
        ucert 2025.10.03-r1 usign
    """,
    "luci": """
        luci 25.300.40000-r1 luci-base luci-app-firewall luci-theme-bootstrap
        luci-base 25.300.40000-r1 rpcd uhttpd
        luci-app-firewall 25.300.40000-r1 luci-base firewall4
        luci-theme-bootstrap 25.300.40000-r1 luci-base
        luci-ssl 25.300.40000-r1 luci libustream-mbedtls
        luci-i18n-base-de 25.300.40000-r1 luci-base
        luci-app-attendedsysupgrade 25.300.40000-r1 luci-base attendedsysupgrade-common
        attendedsysupgrade-common 9
        luci-proto-wireguard 25.300.40000-r1 luci-base wireguard-tools
    """,
    "packages": """
        vim 9.1.1918-r1 libncurses6
        tmux 3.5-r1 libncurses6
        htop 3.4.1-r1 libncurses6
        nano 8.6-r1 libncurses6
        curl 8.15.0-r1 libcurl4
        owut 2025.09.02-r1 ucode attendedsysupgrade-common
        auc 0.3.2-r4 libcurl4
        tcpdump 4.99.5-r1
        sample-note 1.0-r1
        libncurses6 6.4-r3 terminfo
        terminfo 6.4-r3
        libcurl4 8.15.0-r1
    """,
    "kmods": """
        kmod-pico-led -
        kmod-acme-usb - kmod-usb-core
        kmod-usb-core -
        kmod-e1000e -
        kmod-igb - kmod-i2c-core
        kmod-i2c-core -
        kmod-fs-vfat -
        kmod-ppp -
        kmod-nft-core -
        kmod-wireguard -
        kmod-tun -
    """,
}
"""Name, version and dependencies of each plain package of a feed; `-` follows the kernel's version."""

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

_ABI = {"libgcc1": "1", "libncurses6": "6", "libjson-c5": "5", "libcurl4": "4", "libmbedtls21": "21"}
_ABI.update(
    {
        name + date: date
        for name, date in [("libubox", "20250320"), ("libubus", "20250102"), ("libuci", "20130104")]
    }
)
_ABI["libustream-mbedtls20201210"] = "20201210"

_ABOUT = "ASU Builder sample package without any program"
_SERVICES = {
    "dnsmasq": ("dnsmasq", 19),
    "dnsmasq-full": ("dnsmasq", 19),
    "dropbear": ("dropbear", 19),
    "firewall4": ("firewall", 19),
    "logd": ("log", 12),
    "netifd": ("network", 20),
    "rpcd": ("rpcd", 12),
    "uhttpd": ("uhttpd", 50),
}
"""Init script and start number of the packages that bring a service."""


def feed_contents(release: Release, target: str, feed: str) -> Iterator[Content]:
    """The packages of one feed, or of `target` and `kmods`, for the architecture of `target`."""
    for content in _feed_contents(release, target, feed):
        yield _as_released(content, release)


def _as_released(content: Content, release: Release) -> Content:
    """With the bare virtual `name-any` that OpenWrt gives every apk package."""
    package = content.package
    if release.package_manager == "opkg":
        return content
    provides = (*package.provides, f"{package.base_name}-any")
    return replace(content, package=replace(package, provides=provides))


def _feed_contents(release: Release, target: str, feed: str) -> Iterator[Content]:
    for line in filter(str.strip, _TABLE[feed].split("\n")):
        name, version, *depends = line.split()
        if name in ("opkg", "apk-mbedtls") and name.split("-")[0] != release.package_manager:
            continue
        needed = ("libc", *depends)
        if feed == "kmods":
            version = f"{release.kernel_version}-r1"
            needed = (f"kernel={_kernel_package_version(release, target)}", *depends)
        if name == "libgcc1":
            needed = ()
        package = _package(name, _of_release(version, release, name), target, depends=needed)
        yield _note(package)
    if feed == "target":
        yield _base_files(release, target)
    if feed == "base":
        # Both bring one program: opkg notices that files clash, apk that both provide one name in a version.
        for name in ("nftables-json", "nftables-nojson"):
            package = _package(name, "1.1.6-r1", target, depends=("libc",))
            content = _note(replace(package, provides=("nftables=1.1.6-r1",)))
            yield _with(content, {"usr/sbin/nft": PackageFile(f"{name}\n".encode(), 0o755)})
        version = _of_release("2.91-r2", release, "dnsmasq")
        package = _package("dnsmasq-full", version, target, depends=("libc", "libubus20250102"))
        if release.package_manager == "apk":
            yield _note(replace(package, depends=("!dnsmasq", *package.depends)))
        else:
            yield _note(replace(package, provides=(f"dnsmasq={version}",), conflicts=("dnsmasq",)))
    if feed == "packages":
        yield from knob_contents()


def local_contents(release: Release, target: str) -> Iterator[Content]:
    """What lies in `packages/` of an ImageBuilder: libc and kernel, which no repository has, base-files."""
    version = _kernel_package_version(release, target)
    libc = _note(_package("libc", "1.2.5-r5", target, depends=("libgcc1",)))
    for content in (libc, _note(_package("kernel", version, target)), _base_files(release, target)):
        yield _as_released(content, release)


def _kernel_package_version(release: Release, target: str) -> str:
    kernel = release.kernel(target)
    return f"{kernel['version']}~{kernel['vermagic']}-r1"


def _base_files(release: Release, target: str) -> Content:
    version = f"{1600 + release.number}~{release.commit}"
    text = (
        "DISTRIB_ID='OpenWrt'\n"
        f"DISTRIB_RELEASE='{release.version}'\nDISTRIB_REVISION='{release.revision}'\nDISTRIB_TARGET='{target}'\n"
        f"DISTRIB_ARCH='{TARGETS[target]}'\nDISTRIB_DESCRIPTION='ASU Builder sample, flashes nothing'\n"
    )
    files = {
        "etc/openwrt_release": PackageFile(text.encode()),
        "etc/banner": PackageFile(b"ASU Builder sample: this is no router\n"),
        "etc/init.d/boot": _script(10),
        "etc/init.d/done": _script(95),
        "etc/init.d/system": _script(10),
    }
    return _with(_note(_package("base-files", version, target, depends=("libc", "fstools"))), files)


def _of_release(version: str, release: Release, name: str) -> str:
    """Later releases have later packages: the revision grows; within 24.10 only that of dnsmasq does."""
    head, dash, number = version.rpartition("-r")
    if not dash or name.startswith("kmod-"):
        return version
    steps = 1 if release.package_manager == "apk" else 0
    steps += 1 if name == "dnsmasq" and release.version != "24.10.4" else 0
    return f"{head}-r{int(number) + steps}"


def _package(name: str, version: str, target: str, *, depends: tuple[str, ...] = ()) -> Package:
    abi = _ABI.get(name, "")
    provides = (f"{name[: -len(abi)]}={version}",) if abi else ()
    return Package(
        name,
        version,
        TARGETS[target],
        depends=depends,
        provides=provides,
        abi_version=abi,
        description=_ABOUT,
    )


def _note(package: Package) -> Content:
    """A package file with a line of text, and with the init script of a package that brings a service."""
    text = f"{package.name} {package.version}: {_ABOUT}\n"
    files = {f"usr/share/sample/{package.name}": PackageFile(text.encode())}
    if package.name in _SERVICES:
        service, start = _SERVICES[package.name]
        files[f"etc/init.d/{service}"] = _script(start)
    return Content(package, files)


def _with(content: Content, files: dict[str, PackageFile]) -> Content:
    return replace(content, files={**content.files, **files})


def _script(start: int) -> PackageFile:
    head = "#!/bin/sh /etc/rc.common\n# sample service, starts nothing\n"
    return PackageFile(f"{head}START={start}\nSTOP=10\nstart() {{ :; }}\n".encode(), 0o755)


@cache
def knob_contents() -> tuple[Content, ...]:
    """All `sample-…` packages of the feed `packages`. Architecture `all`: every target shares their files."""
    contents = [_knob(name, description, fault=fault) for name, (fault, description) in _FAULTS.items()]
    for name, other in (("a", "b"), ("b", "a")):
        # opkg reads Conflicts; apk refuses two packages that provide one name in a version.
        conflict = _knob(
            f"sample-conflict-{name}",
            f"conflicts with sample-conflict-{other}",
            conflicts=(f"sample-conflict-{other}",),
            provides=(f"sample-virtual={_VERSION}",),
        )
        clash = _knob(f"sample-clash-{name}", f"brings a file that sample-clash-{other} brings too")
        clash_file = PackageFile(f"from {name}\n".encode())
        contents += [conflict, _with(clash, {"usr/share/sample/clash.txt": clash_file})]
    broken = ("libc", "this-package-does-not-exist")
    contents.append(_knob("sample-broken-dep", "needs a package that does not exist", depends=broken))
    needs_broken = ("libc", "sample-broken-dep")
    contents.append(_knob("sample-needs-broken", "needs sample-broken-dep", depends=needs_broken))

    big = _knob("sample-big", "does not fit into images with a limit")
    random = hashlib.shake_256(b"asu-builder sample").digest(400 * 1024)
    contents.append(_with(big, {"usr/share/sample/big.bin": PackageFile(random)}))
    huge = _knob("sample-huge", "40 MiB: overflows the default root partition of 32 MiB, fits into 64")
    # Not zeros: mke2fs leaves holes where it finds zeros, and nothing would overflow.
    filling = b"ASU Builder sample ".ljust(64, b".") * (40 * _MIB // 64)
    contents.append(_with(huge, {"usr/share/sample/huge.bin": PackageFile(filling)}))

    greeting = '#!/bin/sh\necho "sample-service: postinst root=$IPKG_INSTROOT" >&2\n'
    service = replace(_knob("sample-service", "brings an init script"), postinst=greeting)
    contents.append(_with(service, {"etc/init.d/sample-service": _script(50)}))
    failing = '#!/bin/sh\necho "sample: failing on purpose" >&2\nexit 3\n'
    contents.append(replace(_knob("sample-postinst-fail", "its post-install script fails"), postinst=failing))

    library = _knob(
        "libsample20240101",
        "a library with an ABI version, provided as libsample",
        version="2024.01.01~abc123-r1",
        provides=("libsample=2024.01.01~abc123-r1",),
        abi_version="20240101",
    )
    uses_library = _knob("sample-uses-lib", "needs libsample", depends=("libc", "libsample20240101"))
    return (*contents, library, uses_library, *_choices())


def _choices() -> Iterator[Content]:
    """Packages that differ in versions and priority only, so that a choice between them shows the rules."""
    for name, other, version in (("one", "two", "1.0-r1"), ("two", "one", "2.0-r1")):
        yield _knob(
            f"sample-engine-{name}",
            f"provides sample-engine as sample-engine-{other} does",
            version=version,
            provides=(f"sample-engine={version}",),
            conflicts=(f"sample-engine-{other}",),
        )
    for name, engine in (
        ("sample-uses-engine", "sample-engine"),
        ("sample-uses-old-engine", "sample-engine<2"),
    ):
        yield _knob(name, f"needs {engine}", depends=("libc", engine))
    for name, priority in (("high", 20), ("low", 10)):
        yield _knob(
            f"sample-ranked-{name}",
            f"provides sample-ranked with priority {priority}",
            provides=("sample-ranked",),
            provider_priority=priority,
        )
    newer = ("libc", "sample-note>=2")
    yield _knob("sample-needs-newer", "needs a later sample-note than there is", depends=newer)


def _knob(name: str, description: str, **fields: Any) -> Content:
    values = {"version": _VERSION, "depends": ("libc",), **fields}
    package = Package(name, architecture="all", description=f"ASU Builder sample: {description}", **values)
    note = PackageFile(f"{name}: ASU Builder sample package\n".encode())
    return Content(package, {f"usr/share/sample/{name}": note})
