"""Where builds run: the container engine, its rootless set-up, images and network, or the local runtime."""

import contextlib
import os
import re
import shutil
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from asu_builder.app.runtimes import open_archives
from asu_builder.doctor.scene import Response, Scene, SocketAnswer, Unanswered, ask
from asu_builder.domain.errors import ArchiveRefused, AsuError, UpstreamUnavailable
from asu_builder.domain.health import CheckResult, error, ok, warning
from asu_builder.domain.make import ContainerSpec
from asu_builder.domain.release import parse_release
from asu_builder.engines.local.sandbox import bubblewrap_works
from asu_builder.engines.podman.images import image_reference
from asu_builder.engines.podman.runtime import BRIDGE, PodmanRuntime
from asu_builder.engines.podman.service import PodmanOptions, start_line, systemctl_option, what_helps
from asu_builder.proxy.channels import BuildProxy
from asu_builder.settings import SettingsProblem

_OLDEST = 4
"""libpod's API as this program speaks it came with Podman 4."""
_SYSTEMD = Path("/run/systemd/system")


def check_engine(scene: Scene) -> CheckResult:
    """Which sockets were tried, what each answered, and what follows."""
    if scene.is_local:
        return _check_local(scene)
    tried = "; ".join(answer.sentence for answer in scene.sockets())
    chosen = scene.socket
    if chosen is None:
        remedy = _how_to_start(scene)
        if scene.settings.container_socket_path and shutil.which("podman"):
            remedy = what_helps(scene.candidates[0], environment=scene.environment)
        return error(f"Podman's socket was not found: {tried}.", remedy)
    if chosen.problem:
        return error(f"The socket that would be used does not work: {tried}.", _remedy(scene, chosen))
    if int(chosen.detail.partition(".")[0] or 0) < _OLDEST:
        return error(f"{chosen.sentence}, which is too old.", "Use Podman 4 or newer.")
    return ok(f"{chosen.sentence}.")


def _remedy(scene: Scene, chosen: SocketAnswer) -> str:
    if chosen.problem == "silent":
        user = systemctl_option(chosen.path)
        return (
            f"Restart it: systemctl{user} restart podman.service   (then see what it says: "
            f"journalctl{user} -u podman.service -n 50)"
        )
    if chosen.problem == "strange":
        return "Set container_socket_path to Podman's socket; Docker's API lacks what builds need."
    if chosen.problem != "closed":
        return _how_to_start(scene)
    # Its own Podman, or a door in somebody else's: the socket, and the directory above it.
    group = f"$(id -g {scene.user})"
    door = f"chgrp {group} {chosen.path} && chmod 660 {chosen.path}"
    if chosen.hidden:
        door = f"chgrp {group} {chosen.path.parent} && chmod 710 {chosen.path.parent} && {door}"
    if chosen.path == scene.candidates[0] and not systemctl_option(chosen.path):
        return f"Let {scene.user} in, as root: {door}   (asu-builder install-service makes that last)"
    return f"Use {scene.user}'s own Podman: {_how_to_start(scene)}   (or let this user in: {door})"


def _how_to_start(scene: Scene) -> str:
    has_systemd = _SYSTEMD.is_dir()
    socket = scene.candidates[-1 if os.geteuid() == 0 and not has_systemd else 0]
    line = start_line(socket, environment=scene.environment, has_systemd=has_systemd)
    return line if shutil.which("podman") else f"apt-get install podman && {line}"


def _check_local(scene: Scene) -> CheckResult:
    template = scene.settings.imagebuilder_path
    if not template:
        return error(
            "The local runtime has no ImageBuilder.",
            "Set imagebuilder_path to where one is unpacked, like /srv/imagebuilders/{version}/{target}/"
            "{subtarget}, or container_runtime to podman.",
        )
    pattern = str(Path(re.sub(r"\{(version|target|subtarget)\}", "*", template)).absolute())
    count = len(list(Path("/").glob(f"{pattern.lstrip('/')}/Makefile")))
    if not count:
        return error(
            f"There is no ImageBuilder at {template}.",
            "Unpack one there: tar --zstd -xf FILE.tar.zst --strip-components=1 -C DIRECTORY",
        )
    if bubblewrap_works():
        return ok(f"Local runtime: {count} ImageBuilders; builds run in a sandbox.")
    if not scene.settings.allow_unsandboxed:
        return error(
            "bubblewrap is missing or may not create its sandbox here, so nothing is built.",
            "apt-get install bubblewrap   (in a container: use Podman; allow_unsandboxed: true only on a "
            "machine that only you can reach)",
        )
    sentence = f"{count} ImageBuilders; builds run WITHOUT A SANDBOX, as allow_unsandboxed says."
    if shutil.which("bwrap") is None:
        return warning(sentence, "apt-get install bubblewrap")
    return ok(f"Local runtime: {sentence}")


_ENOUGH = 65536
_CGROUPS = Path("/sys/fs/cgroup")
_CONTAINER = Path("/run/.containerenv")
"""Podman puts it into each container."""
_WANTED = ("cpu", "memory", "pids")
_DELEGATE = (
    "mkdir -p /etc/systemd/system/user@.service.d && "
    "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' "
    "> /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload   (as root)"
)


def _needs_no_rootless_setup(scene: Scene) -> CheckResult | None:
    """Rootless set-up is the matter of a user whose own Podman builds."""
    if scene.is_local:
        return ok("Builds run without a container engine.")
    if os.geteuid() == 0:
        return ok("The engine runs as root and needs none.")
    engine = scene.engine
    if engine is not None and engine.path.exists() and engine.path.stat().st_uid != os.geteuid():
        return ok("The engine is another user's and needs none of ours.")
    if engine is None and not systemctl_option(scene.candidates[0]):
        return ok("The engine is to be the system's and needs none of ours.")
    return None


def check_subordinate_ids(scene: Scene) -> CheckResult:
    """Whether /etc/subuid and /etc/subgid give this user enough ids for a container's users."""
    if result := _needs_no_rootless_setup(scene):
        return result
    if _CONTAINER.exists() and shutil.which("podman") is None:
        return ok("Podman runs outside this container, with its own ids.")
    lacking = []
    for path in ("/etc/subuid", "/etc/subgid"):
        granted = 0
        with contextlib.suppress(OSError):
            for line in Path(path).read_text().splitlines():
                entry = re.fullmatch(r"([^:]*):.*:(\d+)", line.strip())
                if entry and entry[1] in (scene.user, str(os.geteuid())):
                    granted += int(entry[2])
        if granted < _ENOUGH:
            lacking.append(path)
    if not lacking:
        return ok(f"User {scene.user} has subordinate ids.")
    return error(
        f"User {scene.user} has no range of {_ENOUGH} ids in {' and '.join(lacking)}; rootless containers "
        "cannot be unpacked.",
        f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {scene.user}   (as root; then as "
        f"{scene.user}: podman system migrate)",
    )


def check_lingering(scene: Scene) -> CheckResult:
    """Whether this user's services live on after a logout."""
    if result := _needs_no_rootless_setup(scene):
        return result
    if not _SYSTEMD.is_dir():
        return ok("There is no systemd that would end services at a logout.")
    if Path("/var/lib/systemd/linger", scene.user).exists():
        return ok(f"Services of {scene.user} live on after a logout.")
    return warning(
        f"Podman of {scene.user} ends when that user logs out.", f"loginctl enable-linger {scene.user}"
    )


def check_control_groups(scene: Scene) -> CheckResult:
    """Whether limits of memory, processor and processes hold for this user's containers."""
    if result := _needs_no_rootless_setup(scene):
        return result
    if not (_CGROUPS / "cgroup.controllers").exists():
        return warning(
            "This machine has control groups of the first version, where Podman leaves out the limits of "
            "rootless containers: a build may take all of the memory and the processor.",
            "Boot with systemd.unified_cgroup_hierarchy=1   (or use the system's Podman)",
        )
    user = os.geteuid()
    delegated = _CGROUPS / f"user.slice/user-{user}.slice/user@{user}.service/cgroup.controllers"
    try:
        there = delegated.read_text().split()
    except OSError:
        return ok("No session of systemd delegates control groups here.")
    if lacking := [name for name in _WANTED if name not in there]:
        return warning(f"systemd delegates no {', '.join(lacking)} to {scene.user}'s containers.", _DELEGATE)
    return ok("Limits of containers hold.")


_ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        *("oci.image.index.v1", "oci.image.manifest.v1"),
        *("docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2"),
    )
)
_COMMON_TARGET = "x86/64"
_LOCAL = "localhost/"
_NONE_NEEDED = "ImageBuilders lie on this machine; no registry is asked."


_TOKEN = msgspec.json.Decoder(dict[str, Any])


def check_registry(scene: Scene) -> CheckResult:
    """Whether the registry answers the question that every pull begins with."""
    reference = image_reference(scene.settings, parse_release("24.10.0"), _COMMON_TARGET)
    if scene.is_local or reference.startswith(_LOCAL):
        return ok(_NONE_NEEDED)
    host = _host(reference)
    remedy = (
        f"See what stands between: curl -I https://{host}/v2/   (behind a proxy set https_proxy for Podman's "
        "service; a mirror is named by imagebuilder_registry)"
    )
    try:
        response = ask("GET", f"https://{host}/v2/")
    except Unanswered as failure:
        if _speaks_plainly(host):
            return warning(
                f"The registry {host} answers without encryption, which Podman refuses by itself.",
                f"printf '[[registry]]\\nlocation = \"{host}\"\\ninsecure = true\\n' > "
                "/etc/containers/registries.conf.d/asu-builder.conf",
            )
        return error(f"The registry {host} does not answer: {failure}.", remedy)
    if response.status not in (200, 401):
        return error(
            f"The registry {host} answers {response.status} to the question for its version.", remedy
        )
    return ok(f"The registry {host} answers.")


def check_image(scene: Scene) -> CheckResult:
    """Whether the container image of one ImageBuilder of the newest release can be had."""
    if scene.is_local:
        return ok(_NONE_NEEDED)
    try:
        release, targets = scene.targets()
    except (Unanswered, ValueError):
        return warning(
            "No image was looked for: which release is the newest could not be learnt.",
            "See to the download server first (upstream).",
        )
    target = _COMMON_TARGET if _COMMON_TARGET in targets else min(targets, default=_COMMON_TARGET)
    reference = image_reference(scene.settings, release, target)
    if scene.ask_engine(f"/v4.0.0/libpod/images/{quote(reference, safe='')}/exists")[0] == 204:
        return ok(f"{reference} is here.")
    if reference.startswith(_LOCAL):
        return error(f"{reference} is not here, and no registry has it.", f"podman load or tag {reference}")
    remedy = (
        f"podman pull {reference}   (its answer says more; see imagebuilder_registry, imagebuilder_image)"
    )
    host = _host(reference)
    name, _, tag = reference.partition("/")[2].rpartition(":")
    base = "http" if _speaks_plainly(host) else "https"
    url = f"{base}://{host}/v2/{name}/manifests/{tag}"
    try:
        response = ask("HEAD", url, headers={"Accept": _ACCEPT})
        if response.status == 401:
            response = ask("HEAD", url, headers={"Accept": _ACCEPT, **_allowed(response)})
    except Unanswered as failure:
        return error(f"{reference} cannot be asked for: {failure}.", remedy)
    if response.status != 200:
        return error(f"{reference} is answered {response.status} by its registry.", remedy)
    return ok(f"{reference} can be pulled.")


def check_archives(scene: Scene) -> CheckResult:
    """Whether an archive could stand in for a container image of the newest release, if it is to."""
    keys, base = scene.settings.imagebuilder_keys, scene.settings.imagebuilder_base
    try:
        archives = open_archives(scene.settings)
    except SettingsProblem as problem:
        return error(str(problem), "See docs/how-to/imagebuilders.md, As archives.")
    if archives is None:
        return ok("No archive stands in for a container image that is missing; imagebuilder_keys is empty.")
    if scene.is_local:
        return warning(
            "imagebuilder_keys does nothing here: archives are unpacked by Podman only.",
            "Use Podman, or take imagebuilder_keys out of the settings.",
        )
    try:
        release, targets = scene.targets()
        target = _COMMON_TARGET if _COMMON_TARGET in targets else min(targets, default=_COMMON_TARGET)
        found = archives.find(release, target)
    except (Unanswered, ValueError, UpstreamUnavailable) as failure:
        return warning(f"No archive was looked for: {failure}", "See to the download server (upstream).")
    except ArchiveRefused as refused:
        return error(
            f"No archive could stand in for a container image of {release.version}: {refused}.",
            f"Set imagebuilder_keys to the key that signs the sha256sums of {release.branch}.",
        )
    if found is None:
        return warning(
            f"The download server lists no ImageBuilder of {release.version} for {target} in its sha256sums.",
            f"curl {scene.upstream}/{release.path}/targets/{target}/sha256sums",
        )
    lines = ", ".join(sorted(keys))
    if scene.ask_engine(f"/v4.0.0/libpod/images/{quote(base, safe='')}/exists")[0] != 204:
        return warning(
            f"Archives of {lines} could stand in for container images, but {base} is not here yet.",
            f"podman pull {base}",
        )
    return ok(f"Archives of {lines} can stand in for container images that are missing.")


def _allowed(refused: Response) -> dict[str, str]:
    """The header that anonymous pulls need, from where the registry says."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', refused.one("www-authenticate")))
    realm = fields.pop("realm", "")
    if not realm.startswith("https://"):
        return {}
    response = ask("GET", f"{realm}?{urlencode(fields)}")
    try:
        found = _TOKEN.decode(response.body)
    except msgspec.MsgspecError:
        return {}
    return {"Authorization": f"Bearer {found.get('token') or found.get('access_token', '')}"}


def _host(reference: str) -> str:
    first = reference.partition("/")[0]
    # Podman's rule for what is a host; without one it asks the registries of its settings.
    return first if "." in first or ":" in first else "docker.io"


def _speaks_plainly(host: str) -> bool:
    """Only for registries of this machine, which may do without a certificate."""
    if not re.match(r"(localhost|127\.\d+\.\d+\.\d+)(:\d+)?$", host):
        return False
    try:
        return ask("GET", f"http://{host}/v2/").status in (200, 401)
    except Unanswered:
        return False


def check_network(scene: Scene) -> CheckResult:
    """Whether builds can reach the repositories that packages come from."""
    network = scene.settings.build_network
    network = BRIDGE if network == "bridge" else network
    if network == "none":
        return ok("Builds have no network, as build_network says; packages must be in the ImageBuilder.")
    if network == "proxy":
        return _check_way_out(scene)
    if scene.is_local:
        return ok("Builds use this machine's network.")
    if scene.engine is None:
        return warning("The build network was not looked at.", "See to the container engine first (engine).")
    status, found = scene.ask_engine(f"/v4.0.0/libpod/networks/{quote(network)}/json")
    details = found[0] if isinstance(found, list) and found else found
    if status != 404 and not isinstance(details, dict):
        return error(f"The engine does not tell of its network {network} ({status}).", "podman network ls")
    if status == 200 and details.get("internal"):
        return error(
            f"The network {network} leads nowhere (it is internal), so builds cannot fetch packages.",
            f"podman network rm {network}   (the next build makes it again)",
        )
    return ok(f"The network {network} is {'there' if status == 200 else 'made with the first build'}.")


def _check_way_out(scene: Scene) -> CheckResult:
    """Tries in a container that is thrown away whether a build gets at its proxy, as builds do."""
    if scene.is_local:
        return ok("Builds have no network, and a proxy of their own.")
    if scene.engine is None:
        return warning("Whether builds get out was not tried.", "See to the container engine first (engine).")
    tried = _tried_way_out(scene)
    if tried is None:
        return ok("Builds have no network, and a proxy of their own; the first build proves it.")
    if tried:
        directory = scene.settings.sockets_directory
        return error(
            tried,
            f"ls -ldZ {directory}   (the engine must find it under this path; set proxy_directory. SELinux: "
            "ausearch -m avc -ts recent | audit2allow -M asu-proxy && semodule -i asu-proxy.pp)",
        )
    return ok("A container without a network got at its proxy.")


def _tried_way_out(scene: Scene) -> str | None:
    """What is wrong; "" for nothing, None where no container image of an ImageBuilder is here."""
    settings = scene.settings
    try:
        release, targets = scene.targets()
    except (Unanswered, ValueError):
        return None
    target = _COMMON_TARGET if _COMMON_TARGET in targets else min(targets, default=_COMMON_TARGET)
    reference = image_reference(settings, release, target)
    if scene.ask_engine(f"/v4.0.0/libpod/images/{quote(reference, safe='')}/exists")[0] != 204:
        return None
    with TemporaryDirectory(prefix="asu-doctor-") as output, closing(BuildProxy(settings)) as proxy:
        options = PodmanOptions(settings, installation=f"doctor-{os.getpid()}", proxy=proxy)
        runtime = PodmanRuntime(options)
        try:
            spec = ContainerSpec(release, target, timedelta(seconds=30))
            with runtime.open(spec, stop=threading.Event()) as container:
                container.allow([settings.upstream_url])
                container.run(["true"], output=Path(output))
        except (AsuError, OSError) as failure:
            return str(failure)
        finally:
            runtime.close()
    return ""
