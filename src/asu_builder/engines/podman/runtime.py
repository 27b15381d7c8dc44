"""Containers through Podman: fresh and hardened for each build, ended and removed whatever happens."""

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from threading import Event, Lock
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, cast

from asu_builder.domain.errors import BuildFailed, EngineUnavailable
from asu_builder.domain.health import CheckResult
from asu_builder.domain.make import ContainerSpec
from asu_builder.engines import archive
from asu_builder.engines.guard import Guard, Limits, Watch
from asu_builder.engines.podman.calls import ContainerCalls
from asu_builder.engines.podman.container import PodmanContainer
from asu_builder.engines.podman.images import Image, Images
from asu_builder.engines.podman.service import Engine, PodmanOptions
from asu_builder.engines.podman.watchdog import ContainerWatch, Watchdog
from asu_builder.engines.removals import Removals

if TYPE_CHECKING:
    from podman import PodmanClient


_PASSWD = "/etc/passwd"
_LONGEST = 1 << 20
_KNOWN = 256
"""Images whose users are remembered; moving tags bring new ones every day."""
_NUMBERS = re.compile(r"[0-9]{1,10}:[0-9]{1,10}")


class Users:
    """What `/etc/passwd` of images says about their users; every thread may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._numbers: dict[str, str] = {}

    def setting(self, image: Image) -> Mapping[str, str]:
        """What a container of this image is created with; nothing as long as the number is not known."""
        numbers = self._numbers.get(image.id, "")
        return {"user": numbers} if numbers else {}

    def learn(self, calls: ContainerCalls, image: Image) -> None:
        """Looks the user up in a container in which nothing was run yet. Raises `EngineUnavailable`.

        Supplementary groups are dropped by it; what a build needs belongs to its user.
        """
        if not image.user or image.id in self._numbers or ":" in image.user:
            return
        numbers = _numbers(_passwd(calls), image.user)
        with self._lock:
            if len(self._numbers) >= _KNOWN:
                del self._numbers[next(iter(self._numbers))]
            self._numbers[image.id] = numbers


def _passwd(calls: ContainerCalls) -> str:
    """Empty where it cannot be had: then the name is used as before."""
    with calls.archive(_PASSWD) as stream:
        if stream.begin() != 200:
            return ""
        try:
            return archive.read_one(cast(IO[bytes], stream), limit=_LONGEST).decode(errors="replace")
        except BuildFailed:
            return ""


def _numbers(passwd: str, user: str) -> str:
    """`uid:gid` of a user given by name or number; empty when it is not there as Podman would find it."""
    found = re.search(
        rf"^(?:{re.escape(user)}:[^:\n]*+:([0-9]*+)|[^:\n]*+:[^:\n]*+:({re.escape(user)})):([0-9]*+):",
        passwd,
        re.MULTILINE,
    )
    numbers = f"{found[1] or found[2]}:{found[3]}" if found else ""
    return numbers if _NUMBERS.fullmatch(numbers) else ""


log = logging.getLogger(__name__)

INSTALLATION = "asu.installation"
_OUTLIVES_DEADLINE = timedelta(minutes=2)
_CPU_PERIOD = 100_000
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Everything else that image or engine set is dropped, because make takes the environment for
# variables. These are what `setup.sh` reads (facts on the ImageBuilder, §1.3) and proxies.
_KEPT_ENVIRONMENT = frozenset(
    (
        *("PATH", "LANG", "HOME", "DOWNLOAD_FILE", "FILE_HOST", "UPSTREAM_URL", "TARGET", "VERSION_PATH"),
        *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    )
)


class PodmanRuntime:
    """Fulfils `ports.Runtime`; every thread may use it."""

    def __init__(self, options: PodmanOptions, *, clock: Callable[[], float] = monotonic) -> None:
        """`clock` counts seconds: until a moving tag is stale, until what has failed is tried again."""
        self._options = options
        self._engine = Engine(options.settings.container_socket_path, timeouts=options.timeouts)
        self._images = Images(options, self._engine, clock=clock)
        self._watchdog = Watchdog(self._engine, clock=clock)
        self._users = Users()
        self._removals = Removals()

    @contextmanager
    def open(self, spec: ContainerSpec, *, stop: Event) -> Iterator[PodmanContainer]:
        """The deadline counts from here on, but a pull that comes first has its own."""
        with self._watchdog.admitting() as probe:
            self._removals.wait_for_room(stop, within=spec.deadline)
            image = self._images.provide(spec, stop=stop)
            calls = ContainerCalls(self._engine, f"asu-{secrets.token_hex(8)}")
            limits, timeouts = self._options.limits, self._options.timeouts
            proxies = {} if self._options.settings.build_network == "none" else dict(self._options.proxies)
            watch = ContainerWatch(self._engine, calls, limits=limits)
            watches = (Watch(timeouts.watch, watch.look),)
            guard = Guard(stop, spec.deadline, kill=calls.kill, watches=watches, silence=timeouts.silence)
            with self._ended(calls), guard:
                with guard.step():
                    self._start(calls.name, image, spec)
                    watch.is_started = True
                    self._users.learn(calls, image)
                    environment = _clean_environment(calls) | proxies | dict(spec.environment)
                yield PodmanContainer(
                    calls,
                    image,
                    guard=guard,
                    limits=limits,
                    environment=environment,
                    on_command=probe.works,
                )

    def sweep(self, *, keep: Callable[[Mapping[str, str]], bool]) -> int:
        """Looks at every container of this installation, running or not.

        Raises `EngineUnavailable` as soon as the engine does not answer.
        """
        installation = self._options.installation
        filters = json.dumps({"label": [f"{INSTALLATION}={installation}"]})
        with self._engine.client() as client:
            containers = client.api.get("/containers/json", params={"all": True, "filters": filters})
            containers.raise_for_status()
            found = [
                entry
                for entry in containers.json()
                if not any(name in self._removals for name in entry.get("Names") or ())
            ]
        # The engine's filter is not relied upon: what is taken for ours is removed.
        labelled = [(entry["Id"], entry.get("Labels") or {}) for entry in found]
        ours = [(name, labels) for name, labels in labelled if labels.get(INSTALLATION) == installation]
        unwanted = [name for name, labels in ours if not keep(labels)]
        return sum(ContainerCalls(self._engine, container).delete() for container in unwanted)

    def close(self) -> bool:
        return self._removals.close()

    def check(self) -> CheckResult:
        """Whether the service answers, and whether builds have failed on it."""
        return self._watchdog.check()

    def check_registry(self) -> CheckResult:
        """Whether images can be pulled, as far as was seen; no registry is asked for it."""
        return self._images.check_registry()

    @contextmanager
    def _ended(self, calls: ContainerCalls) -> Iterator[None]:
        """No process of the container is left afterwards; the rest of it goes in the background.

        By its name, so that a container whose creation broke off half-way goes too.
        """
        hurry = False
        try:
            yield
        except EngineUnavailable:
            # After a failed call, wait less for the next one.
            hurry = True
            raise
        finally:
            try:
                calls.end()
            finally:
                self._removals.add(calls.name, partial(calls.remove, hurry=hurry))

    def _start(self, name: str, image: Image, spec: ContainerSpec) -> None:
        with self._engine.client() as client:
            self._require_network(client)
            settings = {**self._settings(name, spec), **self._users.setting(image)}
            container = client.containers.create(image.id, **settings)
            container.start()

    def _require_network(self, client: "PodmanClient") -> None:
        network = self._options.settings.build_network
        if network == "none" or client.networks.exists(network):
            return
        log.info("creating the network %s", network)
        try:
            client.networks.create(
                network, driver="bridge", labels={INSTALLATION: self._options.installation}
            )
        except OSError:
            # Another worker was quicker; anything else is an error.
            if not client.networks.exists(network):
                raise

    def _settings(self, name: str, spec: ContainerSpec) -> Mapping[str, Any]:
        """The hardening (design §8), in podman-py's words. No mounts, no capabilities, no way up."""
        limits = self._options.limits
        lifetime = int((spec.deadline + _OUTLIVES_DEADLINE).total_seconds())
        network = self._options.settings.build_network
        return {
            "name": name,
            # Ends by itself even if no process is left to remove it. As process 1 without an init it
            # ignores SIGTERM, but we only ever kill, and an init is not installed everywhere.
            "command": ["sleep", str(lifetime)],
            "entrypoint": [],
            "labels": {**spec.labels, INSTALLATION: self._options.installation},
            "environment": dict(spec.environment),
            "cap_drop": ["all"],
            "no_new_privileges": True,
            # Podman's default lets other containers of this engine into it.
            "ipc_mode": "private",
            # The ImageBuilder's image declares its directory a volume: that would be copied each time.
            "image_volume_mode": "ignore",
            "mem_limit": limits.memory,
            "memswap_limit": limits.memory,
            "cpu_period": _CPU_PERIOD,
            "cpu_quota": int(limits.cpus * _CPU_PERIOD),
            "pids_limit": limits.processes,
            "ulimits": _ulimits(limits),
            # Rootless containers are on no bridge unless that is said, and then refuse a network's name.
            "network_mode": "none" if network == "none" else "bridge",
            **({} if network == "none" else {"networks": {network: {}}}),
        }


def _ulimits(limits: Limits) -> list[Mapping[str, Any]]:
    # nofile and nproc too: Podman's defaults for them may be more than the host allows.
    values = {
        "fsize": limits.file_size,
        "nofile": limits.open_files,
        "nproc": 4 * limits.processes,
        "core": 0,
    }
    return [{"Name": name, "Soft": value, "Hard": value} for name, value in values.items()]


def _clean_environment(calls: ContainerCalls) -> dict[str, str]:
    declared = (calls.inspect().get("Config") or {}).get("Env") or []
    pairs = dict(entry.split("=", 1) for entry in declared if "=" in entry)
    kept = {name: value for name, value in pairs.items() if name in _KEPT_ENVIRONMENT}
    return {"PATH": _DEFAULT_PATH, "LANG": "C.UTF-8", **kept}
