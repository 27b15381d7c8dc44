"""Containers through Podman: fresh and hardened for each build, ended and removed whatever happens."""

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from itertools import cycle, islice
from threading import Event, Lock
from time import monotonic, time
from typing import IO, Any, cast

from msgspec.structs import replace

from asu_builder.domain.errors import BuildFailed, EngineUnavailable, Unavailable
from asu_builder.domain.health import Breaker, CheckResult
from asu_builder.domain.make import ContainerSpec
from asu_builder.engines import transfer
from asu_builder.engines.guard import Guard, Removals, Watch
from asu_builder.engines.podman.archives import ArchiveImages
from asu_builder.engines.podman.calls import ContainerCalls, ContainerWatch
from asu_builder.engines.podman.container import PodmanContainer
from asu_builder.engines.podman.images import Image, Images
from asu_builder.engines.podman.service import INSTALLATION, UNTIL, Engine, PodmanOptions
from asu_builder.engines.podman.warm import STANDS_FOR, Standing, WarmContainers
from asu_builder.engines.way_out import INNER_SOCKET, WayOut

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
        passwd = ""  # where it cannot be had, the name is used as before
        with calls.archive(_PASSWD) as stream, suppress(BuildFailed):
            if stream.begin() == 200:
                passwd = transfer.read_one(cast(IO[bytes], stream), limit=_LONGEST).decode(errors="replace")
        numbers = _numbers(passwd, image.user)
        with self._lock:
            if len(self._numbers) >= _KNOWN:
                del self._numbers[next(iter(self._numbers))]
            self._numbers[image.id] = numbers


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

BRIDGE = "asu-build"
"""The network of `build_network: bridge`."""
_OUTLIVES_DEADLINE = timedelta(minutes=2)
_CPU_PERIOD = 100_000
_MOST_DIGITS = 12
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
        self._archives = (
            ArchiveImages(options.archives, options, self._engine, self._images, self._running, clock=clock)
            if options.archives
            else None
        )
        self._watchdog = Watchdog(self._engine, clock=clock)
        self._users = Users()
        self._clock = clock
        self._warm = WarmContainers(clock=clock)
        self._removals = Removals()

    @contextmanager
    def open(self, spec: ContainerSpec, *, stop: Event) -> Iterator[PodmanContainer]:
        """The deadline counts from here on, but a pull that comes first has its own."""
        with self._watchdog.admitting() as probe:
            self._removals.wait_for_room(stop, within=spec.deadline)
            began = monotonic()
            image = (self._archives or self._images).provide(spec, stop=stop)
            waited = monotonic() - began
            network = self._options.settings.build_network
            with self._running(image, spec, network=network, stop=stop, on_command=probe.works) as container:
                container.origin = replace(container.origin, pull_seconds=waited)
                yield container

    @contextmanager
    def _running(
        self,
        image: Image,
        spec: ContainerSpec,
        *,
        network: str,
        stop: Event,
        on_command: Callable[[], None],
    ) -> Iterator[PodmanContainer]:
        """A fresh container of this image, under its guard; `network` is as in `build_network`.

        One that stands started is taken where it is what the build would have got.
        """
        is_usual = network == self._options.settings.build_network and not spec.environment
        standing = self._warm.take(image) if is_usual else None
        with ExitStack() as ends:
            calls, way_out = self._entered(ends, network, standing)
            watch = ContainerWatch(self._engine, calls, limits=self._options.limits)
            guard = self._guard(calls, watch, spec.deadline, stop)
            ends.enter_context(guard.active())
            if standing:
                watch.is_started = True
                environment = standing.environment
            else:
                with guard.step():
                    environment = self._begin(calls, way_out, image, spec, watch, network=network)
            yield PodmanContainer(
                calls,
                image,
                guard=guard,
                limits=self._options.limits,
                environment=environment,
                way_out=way_out,
                on_command=on_command,
            )

    def _entered(
        self, ends: ExitStack, network: str, standing: Standing | None = None
    ) -> tuple[ContainerCalls, WayOut]:
        """A container that is not created yet, or that stands; `ends` ends it, and then its way out."""
        if standing:
            ends.enter_context(standing.ends)
            return standing.calls, standing.way_out
        way_out = ends.enter_context(closing(WayOut(self._options.proxy if network == "proxy" else None)))
        calls = ContainerCalls(self._engine, f"asu-{secrets.token_hex(8)}")
        ends.enter_context(self._ended(calls))
        return calls, way_out

    def make_ready(self, specs: Sequence[ContainerSpec], *, warm: int, stop: Event) -> int:
        """Pulls what is not here, and has up to `warm` containers of the first specs started."""
        found: list[tuple[ContainerSpec, Image]] = []
        for spec in specs:
            try:
                found.append((spec, (self._archives or self._images).provide(spec, stop=stop)))
            except EngineUnavailable:
                raise
            except (Unavailable, BuildFailed) as error:
                log.info("not made ready for %s %s: %s", spec.release.version, spec.target, error)
        wanted = list(islice(cycle(found), warm))
        by_image = {image.id: spec for spec, image in wanted}
        return self._warm.fill(
            [image for _, image in wanted], lambda image: self._stand(image, by_image[image.id], stop)
        )

    def _stand(self, image: Image, spec: ContainerSpec, stop: Event) -> Standing:
        """An unused container. It knows no job, so it says itself how long it may live."""
        lifetime = STANDS_FOR + spec.deadline
        last = time() + lifetime.total_seconds()
        own = ContainerSpec(spec.release, spec.target, lifetime, labels={UNTIL: str(int(last))})
        network = self._options.settings.build_network
        until = self._clock() + STANDS_FOR.total_seconds()
        with ExitStack() as ends:
            calls, way_out = self._entered(ends, network)
            watch = ContainerWatch(self._engine, calls, limits=self._options.limits)
            guard = self._guard(calls, watch, spec.deadline, stop)
            with guard.active(), guard.step():
                environment = self._begin(calls, way_out, image, own, watch, network=network)
            return Standing(calls, way_out, image, environment, ends.pop_all(), until)

    def _guard(self, calls: ContainerCalls, watch: ContainerWatch, deadline: timedelta, stop: Event) -> Guard:
        timeouts = self._options.timeouts
        watches = (Watch(timeouts.watch, watch.look),)
        return Guard(stop, deadline, kill=calls.kill, watches=watches, silence=timeouts.silence)

    def _begin(
        self,
        calls: ContainerCalls,
        way_out: WayOut,
        image: Image,
        spec: ContainerSpec,
        watch: ContainerWatch,
        *,
        network: str,
    ) -> dict[str, str]:
        """Starts a container; what its commands get for an environment."""
        network = {"proxy": "none", "bridge": BRIDGE}.get(network, network)
        self._start(calls, image, spec, network=network, way_out=way_out)
        watch.is_started = True
        self._users.learn(calls, image)
        proxies = {} if network == "none" else dict(self._options.proxies)
        return _clean_environment(calls) | proxies | dict(spec.environment)

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
        unwanted = [name for name, labels in ours if not (_is_meant(labels) or keep(labels))]
        if self._archives:
            self._archives.tidy()
        return sum(ContainerCalls(self._engine, container).delete() for container in unwanted)

    def close(self) -> bool:
        self._warm.close()
        return self._removals.close()

    def check(self) -> CheckResult:
        """Whether the service answers, and whether builds have failed on it."""
        return self._watchdog.check()

    def check_registry(self) -> CheckResult:
        """Whether images can be pulled, as far as was seen; no registry is asked for it."""
        return self._images.registries.check()

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

    def _start(
        self, calls: ContainerCalls, image: Image, spec: ContainerSpec, *, network: str, way_out: WayOut
    ) -> None:
        with self._engine.client() as client:
            if network != "none" and not client.networks.exists(network):
                log.info("creating the network %s", network)
                labels = {INSTALLATION: self._options.installation}
                try:
                    client.networks.create(network, driver="bridge", labels=labels)
                except OSError:
                    # Another worker was quicker; anything else is an error.
                    if not client.networks.exists(network):
                        raise
        settings = {**self._settings(calls.name, spec, network=network), **self._users.setting(image)}
        if socket := way_out.socket:
            mount = {"type": "bind", "source": str(socket), "target": INNER_SOCKET, "read_only": True}
            try:
                with self._engine.client() as client:
                    client.containers.create(image.id, mounts=[mount], **settings).start()
                return
            except EngineUnavailable as error:
                said = f"{error} {error.__cause__}"
                if socket.name not in said and INNER_SOCKET not in said:
                    raise
                # A build of an ImageBuilder that carries its packages needs no way out.
                way_out.give_up("the engine cannot mount its socket")
                log.warning("Builds get no way out: %s", error)
                calls.delete()
        with self._engine.client() as client:
            client.containers.create(image.id, **settings).start()

    def _settings(self, name: str, spec: ContainerSpec, *, network: str) -> Mapping[str, Any]:
        """The hardening (design §8) in podman-py's words. No capabilities, no way up, no file of the host."""
        limits = self._options.limits
        lifetime = int((spec.deadline + _OUTLIVES_DEADLINE).total_seconds())
        # nofile and nproc too: Podman's defaults for them may be more than the host allows.
        ulimits = {
            "fsize": limits.file_size,
            "nofile": limits.open_files,
            "nproc": 4 * limits.processes,
            "core": 0,
        }
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
            "ulimits": [{"Name": key, "Soft": value, "Hard": value} for key, value in ulimits.items()],
            # Rootless containers are on no bridge unless that is said, and then refuse a network's name.
            "network_mode": "none" if network == "none" else "bridge",
            **({} if network == "none" else {"networks": {network: {}}}),
        }


def _is_meant(labels: Mapping[str, str]) -> bool:
    """Whether a container without a job is not over yet, of whichever process of this installation."""
    until = labels.get(UNTIL, "")
    return until.isdecimal() and int(until[:_MOST_DIGITS]) > time()


def _clean_environment(calls: ContainerCalls) -> dict[str, str]:
    declared = (calls.inspect().get("Config") or {}).get("Env") or []
    pairs = dict(entry.split("=", 1) for entry in declared if "=" in entry)
    kept = {name: value for name, value in pairs.items() if name in _KEPT_ENVIRONMENT}
    return {"PATH": _DEFAULT_PATH, "LANG": "C.UTF-8", **kept}


class Watchdog:
    """The engine's circuit breaker, which learns from every build and every health check.

    An engine that answers pings may still start nothing, so a ping alone does not close what failed
    builds have opened; a command that runs does. Every thread may use it.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._engine = engine
        self._breaker = Breaker(clock=clock)
        self._is_silent = False
        """Whether the latest ping got no answer."""

    @contextmanager
    def admitting(self) -> Iterator["Probe"]:
        """Surrounds everything that one build wants of the engine.

        Raises `EngineUnavailable` at once while the engine is left alone. One from inside counts
        against the engine and leaves with the time when asking again may help.
        """
        breaker = self._breaker
        if not breaker.admits():
            raise EngineUnavailable(breaker.sentence, retry_after=breaker.retry_after)
        probe = Probe(breaker)
        try:
            yield probe
        except EngineUnavailable as error:
            breaker.failed(str(error))
            error.retry_after = breaker.retry_after
            raise
        except BaseException:
            probe.withdraw()
            raise
        probe.works()

    def check(self) -> CheckResult:
        """The service's health, within seconds.

        It is down until it answers and, when builds have failed on it, until their span is over;
        then it is degraded, so that somebody tries.
        """
        try:
            self._engine.ping(timeout=self._engine.timeouts.check)
        except EngineUnavailable as error:
            self._is_silent = True
            self._breaker.failed(str(error))
            return CheckResult("error", str(error))
        if self._is_silent:
            self._is_silent = False
            self._breaker.worked()
        sentence = self._breaker.sentence
        if not sentence:
            return CheckResult("ok", "Podman answers.")
        if self._breaker.is_due:
            return CheckResult("warning", f"{sentence} It is being tried again.")
        return CheckResult("error", f"{sentence} It is tried again in {self._breaker.retry_after} s.")


class Probe:
    """One build's say about the engine; only the first thing it shows counts.

    What a build of half an hour ago could do says nothing about the engine now.
    """

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._is_over = False

    def works(self) -> None:
        """A command runs in a container."""
        if not self._is_over:
            self._is_over = True
            self._breaker.worked()

    def withdraw(self) -> None:
        """The build ended for another reason before a command ran."""
        if not self._is_over:
            self._is_over = True
            self._breaker.withdraw()
