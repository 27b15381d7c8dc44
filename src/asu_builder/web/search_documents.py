"""The documents of the search, as types."""

from typing import Annotated

import msgspec

from asu_builder.web.fields import says

_Version = Annotated[str, says("The version", "24.10.4")]
_Target = Annotated[str, says("Target and subtarget", "ath79/generic")]
_Profile = Annotated[str, says("What a build request calls it", "tplink_archer-c7-v5")]
_Title = Annotated[str, says("What people call it", "TP-Link Archer C7 v5")]
_More = Annotated[bool, says("Whether there are others beyond the limit", False)]


class DeviceDocument(msgspec.Struct):
    """A device that can be built for. One whose title has no parts has only the title."""

    title: _Title
    target: _Target
    profile: _Profile
    vendor: Annotated[str, says("Who makes it, or empty", "TP-Link", "")]
    model: Annotated[str, says("The model, or empty", "Archer C7", "")]
    variant: Annotated[str, says("The variant, or empty", "v5", "")]


class DevicesDocument(msgspec.Struct):
    """What a search for devices found, the best first."""

    version: _Version
    devices: Annotated[list[DeviceDocument], says("The devices")]
    more: _More
    guessed: Annotated[bool, says("Whether nothing is called so, and these are the most alike", False)]


class DescribedDeviceDocument(msgspec.Struct):
    """One profile with what its images hold before anybody asks for anything."""

    version: _Version
    title: _Title
    target: _Target
    profile: _Profile
    default_packages: Annotated[tuple[str, ...], says("Of the target", ["base-files", "dnsmasq"])]
    device_packages: Annotated[
        tuple[str, ...], says("Of the profile; -name takes a default one away", ["kmod-usb2", "-swconfig"])
    ]
    supported_devices: Annotated[tuple[str, ...], says("Names that it reports", ["tplink,archer-c7-v5"])]


class PackageDocument(msgspec.Struct):
    """A package that can be had."""

    name: Annotated[str, says("Its name", "luci")]
    version: Annotated[str, says("Its version", "25.292.66247~75e41cb")]


class PackagesDocument(msgspec.Struct):
    """What a search for packages found, the best first."""

    version: _Version
    target: _Target
    packages: Annotated[list[PackageDocument], says("The packages")]
    more: _More
