"""All checks, in the order in which a person reads them."""

from collections.abc import Callable

from msgspec import Struct

from asu_builder.doctor import (
    database,
    engine,
    files,
    images,
    machine,
    rootless,
    service,
    upstream,
)
from asu_builder.doctor.scene import Scene
from asu_builder.doctor.settings import check_settings
from asu_builder.domain.diagnosis import Finding


class Check(Struct, frozen=True):
    """One check. `remedy` is what to do where it does not end within its `seconds`."""

    name: str
    group: str
    run: Callable[[Scene], Finding]
    seconds: float = 10.0
    remedy: str = "Ask again when the machine is less busy; see dmesg for what hangs."
    quick: bool = False
    """Whether a running service does it after its start: nothing that asks itself, or asks much."""


MACHINE, INSTALLATION, ENGINE = "This machine", "This installation", "Containers"
OUTSIDE, SERVICE, BUILD = "Download server and rules", "Service", "Sample build"

_DISK_HANGS = "A disk or network mount does not answer: see dmesg | tail and mount."
_NETWORK_HANGS = "See whether names are resolved and answers come: getent hosts HOST; curl -I URL"

CHECKS = (
    Check("python", MACHINE, machine.check_python),
    Check("sqlite", MACHINE, machine.check_sqlite),
    Check("clock", MACHINE, machine.check_clock, 12.0, quick=True),
    Check("user", MACHINE, machine.check_user, remedy=_DISK_HANGS),
    Check("settings", INSTALLATION, check_settings),
    Check("database_directory", INSTALLATION, files.check_database_directory, remedy=_DISK_HANGS, quick=True),
    Check("store", INSTALLATION, files.check_store, remedy=_DISK_HANGS, quick=True),
    Check("disk", INSTALLATION, files.check_disk, remedy=_DISK_HANGS, quick=True),
    Check("database", INSTALLATION, database.check_database, remedy=_DISK_HANGS),
    Check("engine", ENGINE, engine.check_engine, 16.0, quick=True),
    Check("subordinate_ids", ENGINE, rootless.check_subordinate_ids, 16.0, quick=True),
    Check("lingering", ENGINE, rootless.check_lingering, 16.0, quick=True),
    Check("control_groups", ENGINE, rootless.check_control_groups, 16.0, quick=True),
    Check("registry", ENGINE, images.check_registry, 16.0, _NETWORK_HANGS),
    Check("image", ENGINE, images.check_image, 16.0, _NETWORK_HANGS),
    Check("build_network", ENGINE, images.check_network, 16.0, quick=True),
    Check("upstream", OUTSIDE, upstream.check_upstream, 12.0, _NETWORK_HANGS, quick=True),
    Check("release", OUTSIDE, upstream.check_release, 14.0, _NETWORK_HANGS),
    Check("rules", OUTSIDE, upstream.check_rules, remedy=_NETWORK_HANGS, quick=True),
    Check("port", SERVICE, service.check_port),
    Check("cors", SERVICE, service.check_cors, 14.0, _NETWORK_HANGS),
    Check("proxy", SERVICE, service.check_proxy, 14.0, _NETWORK_HANGS),
)
SAMPLE_BUILD = "sample_build"
NAMES = (*(check.name for check in CHECKS), SAMPLE_BUILD)
