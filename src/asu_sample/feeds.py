"""The plain packages of the made-up world: name, version, dependencies, nothing special about them."""

from __future__ import annotations

from collections.abc import Iterator

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
