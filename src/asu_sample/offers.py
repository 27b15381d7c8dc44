"""The packages of the made-up world, feed by feed. None of them holds a program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .feeds import entries
from .knobs import knob_contents
from .miniature.archives import Content, PackageFile
from .miniature.packages import Package
from .releases import TARGETS, Release

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
