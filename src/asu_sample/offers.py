"""The packages of the made-up world, feed by feed, and those that provoke faults. None holds a program."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

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


def entries(feed: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, version and dependencies of each plain package of a feed, of `target` or of `kmods`.

    The version of kernel modules is `-`: it follows the kernel.
    """
    for line in _TABLE[feed].split("\n"):
        if line.strip():
            name, version, *depends = line.split()
            yield name, version, tuple(depends)


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
    note = PackageFile(f"{name}: ASU Builder sample package\n".encode())
    return Content(package, {f"usr/share/sample/{name}": note}, postinst)


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
        "sample-broken-dep", "needs a package that does not exist", depends=("this-package-does-not-exist",)
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


_ABI = {"libgcc1": "1", "libncurses6": "6", "libjson-c5": "5", "libcurl4": "4", "libmbedtls21": "21"}
_ABI.update(
    {
        name + date: date
        for name, date in [("libubox", "20250320"), ("libubus", "20250102"), ("libuci", "20130104")]
    }
)
_ABI["libustream-mbedtls20201210"] = "20201210"


def feed_contents(release: Release, target: str, feed: str) -> Iterator[Content]:
    """The packages of one feed, or of `target` and `kmods`, for the architecture of `target`."""
    yield from _contents(release, target, feed)
    if feed == "target":
        yield _base_files_package(release, target)
    if feed == "base":
        yield from _nftables(target)
        yield from _provided_dnsmasq(release, target)
    if feed == "packages":
        yield from knob_contents()


def local_contents(release: Release, target: str) -> Iterator[Content]:
    """What lies in `packages/` of an ImageBuilder: libc and kernel, which no repository has, base-files."""
    kernel = release.kernel(target)
    version = f"{kernel['version']}~{kernel['vermagic']}-r1"
    yield _note(_package("libc", "1.2.5-r5", target, depends=("libgcc1",)))
    yield _note(_package("kernel", version, target))
    yield _base_files_package(release, target)


def _base_files_package(release: Release, target: str) -> Content:
    version = f"{1600 + release.number}~{release.commit}"
    package = _package("base-files", version, target, depends=("libc", "fstools"))
    return _with(_note(package), _base_files(release, target))


def _contents(release: Release, target: str, feed: str) -> Iterator[Content]:
    for name, version, depends in entries(feed):
        if name in ("opkg", "apk-mbedtls") and name.split("-")[0] != release.package_manager:
            continue
        needed = ("libc", *depends)
        if feed == "kmods":
            version, needed = f"{release.kernel_version}-r1", ("kernel", *depends)
        if name == "libgcc1":
            needed = ()
        package = _package(name, _of_release(version, release, name), target, depends=needed)
        yield _with(_note(package), _init_script(name))


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


_ABOUT = "ASU Builder sample package without any program"


def _note(package: Package) -> Content:
    text = f"{package.name} {package.version}: {_ABOUT}\n"
    return Content(package, {f"usr/share/sample/{package.name}": PackageFile(text.encode())})


def _with(content: Content, files: dict[str, PackageFile]) -> Content:
    return replace(content, files={**content.files, **files})


def _script(name: str, start: int) -> PackageFile:
    head = "#!/bin/sh /etc/rc.common\n# sample service, starts nothing\n"
    text = f"{head}START={start}\nSTOP=10\nstart() {{ :; }}\n"
    return PackageFile(text.encode(), 0o755)


_SERVICES = {
    "dnsmasq": 19,
    "dropbear": 19,
    "firewall4": 19,
    "logd": 12,
    "netifd": 20,
    "uhttpd": 50,
    "rpcd": 12,
}
_SERVICE_NAMES = {"firewall4": "firewall", "logd": "log", "netifd": "network"}


def _init_script(package: str) -> dict[str, PackageFile]:
    if package not in _SERVICES:
        return {}
    service = _SERVICE_NAMES.get(package, package)
    return {f"etc/init.d/{service}": _script(service, _SERVICES[package])}


def _base_files(release: Release, target: str) -> dict[str, PackageFile]:
    text = (
        "DISTRIB_ID='OpenWrt'\n"
        f"DISTRIB_RELEASE='{release.version}'\nDISTRIB_REVISION='{release.revision}'\nDISTRIB_TARGET='{target}'\n"
        f"DISTRIB_ARCH='{TARGETS[target]}'\nDISTRIB_DESCRIPTION='ASU Builder sample, flashes nothing'\n"
    )
    files = {"etc/openwrt_release": text, "etc/banner": "ASU Builder sample: this is no router\n"}
    scripts = {
        f"etc/init.d/{name}": _script(name, start)
        for name, start in [("boot", 10), ("done", 95), ("system", 10)]
    }
    return {**{name: PackageFile(content.encode()) for name, content in files.items()}, **scripts}


def _nftables(target: str) -> Iterator[Content]:
    # Both bring one program: opkg notices that files clash, apk that both provide `nftables` in a version.
    for name in ("nftables-json", "nftables-nojson"):
        package = replace(
            _package(name, "1.1.6-r1", target, depends=("libc",)), provides=("nftables=1.1.6-r1",)
        )
        yield _with(_note(package), {"usr/sbin/nft": PackageFile(f"{name}\n".encode(), 0o755)})


def _provided_dnsmasq(release: Release, target: str) -> Iterator[Content]:
    version = _of_release("2.91-r2", release, "dnsmasq")
    package = _package("dnsmasq-full", version, target, depends=("libc", "libubus20250102"))
    package = replace(package, provides=(f"dnsmasq={version}",), conflicts=("dnsmasq",))
    yield _with(_note(package), _init_script("dnsmasq"))
