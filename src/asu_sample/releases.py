"""The versions, targets and profiles of the made-up world."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from .miniature.configuration import Configuration, ImageRecipe, Profile
from .miniature.usign import SigningKey

EPOCH = 1767225600
"""Source time of the first version, Unix seconds: 2026-01-01 00:00 UTC."""

_DAY = 86400
_SMALL = 256 * 1024
"""Bytes: an image limit that default packages keep and `sample-big` breaks."""

TARGETS = {"pico/nine": "pico_9kc", "x86/64": "x86_64", "nano/tiny": "nano_1kc"}
"""Package architecture of each target."""


@dataclass(frozen=True)
class Release:
    """A version with what distinguishes it. `number` counts them in order of their source time."""

    version: str
    package_manager: str
    kernel_version: str
    number: int

    @property
    def version_path(self) -> str:
        """Where the download server keeps it."""
        return "snapshots" if self.version == "SNAPSHOT" else f"releases/{self.version}"

    @property
    def is_snapshot(self) -> bool:
        """Whether its containers start without an ImageBuilder."""
        return self.version.endswith("SNAPSHOT")

    @property
    def commit(self) -> str:
        """Ten hex digits that stand for the source."""
        return _digest(self.version)[:10]

    @property
    def revision(self) -> str:
        """`r<count>-<short hash>`."""
        return f"r{28000 + 100 * self.number}-{self.commit}"

    @property
    def targets(self) -> tuple[str, ...]:
        """Its targets; `nano/tiny` was dropped after 24.10.4."""
        return ("pico/nine", "x86/64") + (("nano/tiny",) if self.version == "24.10.4" else ())

    @property
    def suffix(self) -> str:
        """Of package files."""
        return ".ipk" if self.package_manager == "opkg" else ".apk"

    def kernel(self, target: str) -> dict[str, str]:
        """`linux_kernel` of profiles.json."""
        vermagic = _digest(self.version + target)[:32]
        return {"version": self.kernel_version, "release": "1", "vermagic": vermagic}

    def signing_key(self) -> SigningKey:
        """The key of its indexes. Anybody can derive it, so it proves nothing outside of the sample."""
        seed = hashlib.sha256(f"asu-builder sample key {self.version}".encode()).digest()
        return SigningKey(seed, seed[:8], comment=f"ASU Builder sample {self.version}, not OpenWrt's key")


RELEASES = (
    Release("24.10.4", "opkg", "6.6.110", 0),
    Release("24.10.5", "opkg", "6.6.119", 1),
    Release("24.10-SNAPSHOT", "opkg", "6.6.120", 2),
    Release("25.12.0-rc1", "apk", "6.12.60", 3),
    Release("25.12.0", "apk", "6.12.67", 4),
    Release("SNAPSHOT", "apk", "6.18.1", 5),
)


def configuration(release: Release, target: str, *, epoch: int) -> Configuration:
    """What the ImageBuilder of `release` for `target` is made for.

    `epoch` is the world's, in Unix seconds.
    """
    led = {"pico/nine": ("kmod-pico-led",), "x86/64": ("kmod-e1000e", "partx-utils")}.get(target, ())
    manager = "opkg" if release.package_manager == "opkg" else "apk-mbedtls"
    return Configuration(
        package_manager=release.package_manager,
        version=release.version,
        revision=release.revision,
        target=target,
        architecture=TARGETS[target],
        kernel_architecture="x86_64" if target == "x86/64" else target.split("/")[0],
        kernel=release.kernel(target),
        epoch=epoch + release.number * _DAY,
        default_packages=(*_DEFAULT_PACKAGES.split(), *led, *_ROUTER_PACKAGES.split(), manager),
        profiles=PROFILES[target],
        filesystems=("squashfs", "ext4", "targz"),
        # One old ImageBuilder without the architecture line, one release candidate with apk's own manifest
        # form.
        info_shows_architecture=target != "nano/tiny",
        manifest_separator=" " if release.version == "25.12.0-rc1" else " - ",
        selects_filesystem=release.version == "SNAPSHOT",
        revision_in_names=release.version == "24.10-SNAPSHOT",
        sizes_in_profiles_json=release.package_manager == "apk",
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


_DEFAULT_PACKAGES = """
    base-files ca-bundle dropbear fstools libc libgcc libustream-mbedtls logd mtd netifd uci uclient-fetch
    urandom-seed
"""
_ROUTER_PACKAGES = "dnsmasq firewall4 nftables odhcp6c odhcpd-ipv6only ppp ppp-mod-pppoe"


def _titles(vendor: str, model: str, variant: str = "") -> tuple[dict[str, str], ...]:
    return ({"vendor": vendor, "model": model, **({"variant": variant} if variant else {})},)


def _sysupgrade(limit: int = 0, wording: str = "check-size") -> ImageRecipe:
    return ImageRecipe("sysupgrade.bin", "squashfs", limit=limit, wording=wording)


def _factory(limit: int = 0, wording: str = "check-size") -> ImageRecipe:
    return ImageRecipe("factory.bin", "squashfs", metadata=False, limit=limit, wording=wording)


_PICO = (
    Profile(
        id="acme_widget-5",
        titles=_titles("Acme", "Widget 5", "v1"),
        packages=("kmod-acme-usb", "-ppp"),
        supported_devices=("acme,widget-5", "widget5", "acme,widget-5-eu"),
        images=(_sysupgrade(_SMALL), _factory()),
        artifacts=("preloader.bin",),
        kernel=True,
        file_size_limits={"image": _SMALL},
    ),
    Profile(
        id="acme_small",
        titles=_titles("Acme", "Small"),
        supported_devices=("acme,small",),
        images=(_sysupgrade(_SMALL),),
        kernel=True,
        file_size_limits={"image": _SMALL},
    ),
    Profile(
        id="acme_safe",
        titles=_titles("Acme", "Safe (indoor)", "v2.5"),
        packages=("kmod-acme-usb",),
        supported_devices=("acme,safe", "acme,safe-v2.5"),
        images=(_sysupgrade(_SMALL, "safeloader"), _factory(_SMALL, "safeloader")),
    ),
    Profile(
        id="acme_combined-v1.5",
        titles=(*_titles("Acme", "Combined", "v1.5"), {"title": "Umbrella Combined+"}),
        supported_devices=("acme,combined-v1.5", "umbrella,combined"),
        images=(_sysupgrade(_SMALL, "mktplinkfw"), _factory(_SMALL, "mktplinkfw")),
    ),
    Profile(
        id="acme_sdcard",
        titles=({"title": "Acme SD card player"},),
        supported_devices=("acme,sdcard",),
        images=(
            ImageRecipe("sdcard.img", "ext4", partition=True, gzip_later=True),
            _sysupgrade(),
        ),
    ),
    Profile(id="Acme_OLD-board", titles=_titles("Acme", "Old Board"), images=(_factory(),)),
    Profile(
        id="acme_tiny",
        titles=_titles("Acme", "O'Tiny"),
        supported_devices=("acme,tiny",),
        images=(_sysupgrade(),),
    ),
)


_X86 = (
    Profile(
        id="generic",
        titles=_titles("Generic", "x86/64"),
        packages=("kmod-igb", "kmod-fs-vfat"),
        images=tuple(
            image
            for filesystem in ("ext4", "squashfs")
            for image in (
                ImageRecipe("rootfs.img.gz", filesystem, metadata=False, bare=True),
                ImageRecipe("combined.img.gz", filesystem, partition=True),
                ImageRecipe("combined-efi.img.gz", filesystem, partition=True),
            )
        ),
        kernel=True,
        rootfs_tarball=True,
    ),
)

_NANO = (
    Profile(
        id="acme_nano",
        titles=_titles("Acme", "Nano"),
        supported_devices=("acme,nano",),
        images=(_sysupgrade(),),
    ),
)

PROFILES = {"pico/nine": _PICO, "x86/64": _X86, "nano/tiny": _NANO}
