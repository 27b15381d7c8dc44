"""What is needed from outside: registry, image, build network, download server, package rules."""

import http.client
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from asu_builder.doctor.asking import Heard, Unheard, ask, get_json
from asu_builder.doctor.scene import Scene
from asu_builder.domain.check_result import CheckResult, error, ok, warning
from asu_builder.upstream.formats import parse_versions


def check_upstream(scene: Scene) -> CheckResult:
    """Whether the download server answers and lists versions."""
    url = scene.settings.upstream_url.rstrip("/")
    remedy = f"See what stands between: curl -I {url}/.versions.json   (a mirror is named by upstream_url)"
    try:
        listed = parse_versions(scene.versions().body)
    except Unheard as failure:
        return error(f"The download server {url} does not answer: {failure}.", remedy)
    except ValueError:
        return error(
            f"{url}/.versions.json is no list of versions.",
            "Set upstream_url to a server of the layout of https://downloads.openwrt.org.",
        )
    return ok(f"{url} answers and lists {len(listed.listed)} versions.")


def check_release(scene: Scene) -> CheckResult:
    """Whether the newest release's targets are there."""
    url = scene.settings.upstream_url.rstrip("/")
    remedy = f"Name a complete mirror as upstream_url; try: curl -I {url}/releases/"
    try:
        release, targets = scene.targets()
    except Unheard as failure:
        return error(f"The newest release's list of targets cannot be had: {failure}.", remedy)
    except ValueError as failure:
        return error(f"The newest release's list of targets cannot be understood: {failure}.", remedy)
    if not targets:
        return error(f"{url} has no target of {release.version}.", remedy)
    return ok(f"The newest release is {release.version}, with {len(targets)} targets.")


def check_rules(scene: Scene) -> CheckResult:
    """Whether the package rules can be read, from wherever they come."""
    from package_changes.rules import RulesProblem, parse_rules
    from package_changes.watch import built_in_rules, read_rules_text

    settings = scene.settings
    if url := settings.package_changes_url.rstrip("/"):
        try:
            heard = ask("GET", f"{url}/health")
        except Unheard as failure:
            return error(
                f"The package-changes service {url} does not answer: {failure}.",
                "Start it (asu-package-changes), or set package_changes_url to nothing.",
            )
        if heard.status != 200:
            return error(f"{url}/health is answered {heard.status}.", f"curl {url}/health")
        return ok(f"The package-changes service {url} answers.")
    if not settings.package_changes_path:
        return ok(f"{built_in_rules().count} package rules (built in).")
    path = Path(settings.package_changes_path).expanduser()
    try:
        rules = parse_rules(read_rules_text(path), source=str(path))
    except RulesProblem as problem:
        return error(f"The package rules are wrong: {problem}", f"asu-builder rules test {path}")
    return ok(f"{rules.count} package rules ({path}).")


_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_COMMON_TARGET = "x86/64"
_LOCAL = "localhost/"
_NONE_NEEDED = "ImageBuilders lie on this machine; no registry is asked."


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


_TOKEN = msgspec.json.Decoder(_Token)


def check_registry(scene: Scene) -> CheckResult:
    """Whether the registry answers the question that every pull begins with."""
    reference = scene.settings.imagebuilder_image.format_map(_fields(scene, "x/y", "v0", "0"))
    if scene.is_local or reference.startswith(_LOCAL):
        return ok(_NONE_NEEDED)
    host = _host(reference)
    remedy = (
        f"See what stands between: curl -I https://{host}/v2/   (behind a proxy set https_proxy for Podman's "
        "service; a mirror is named by imagebuilder_registry)"
    )
    try:
        heard = ask("GET", f"https://{host}/v2/")
    except Unheard as failure:
        if _speaks_plainly(host):
            return warning(
                f"The registry {host} answers without encryption, which Podman refuses by itself.",
                f"printf '[[registry]]\\nlocation = \"{host}\"\\ninsecure = true\\n' > "
                "/etc/containers/registries.conf.d/asu-builder.conf",
            )
        return error(f"The registry {host} does not answer: {failure}.", remedy)
    if heard.status not in (200, 401):
        return error(f"The registry {host} answers {heard.status} to the question for its version.", remedy)
    return ok(f"The registry {host} answers.")


def check_image(scene: Scene) -> CheckResult:
    """Whether the container image of one ImageBuilder of the newest release can be had."""
    if scene.is_local:
        return ok(_NONE_NEEDED)
    try:
        release, targets = scene.targets()
    except (Unheard, ValueError):
        return warning(
            "No image was looked for: which release is the newest could not be learnt.",
            "See to the download server first (upstream).",
        )
    target = _COMMON_TARGET if _COMMON_TARGET in targets else min(targets, default=_COMMON_TARGET)
    reference = scene.settings.imagebuilder_image.format_map(
        _fields(scene, target, release.tag, release.version)
    )
    if _is_here(scene, reference):
        return ok(f"{reference} is here.")
    if reference.startswith(_LOCAL):
        return error(f"{reference} is not here, and no registry has it.", f"podman load or tag {reference}")
    return _ask_for(reference)


def _ask_for(reference: str) -> CheckResult:
    remedy = (
        f"podman pull {reference}   (its answer says more; see imagebuilder_registry, imagebuilder_image)"
    )
    host = _host(reference)
    name, _, tag = reference.partition("/")[2].rpartition(":")
    base = "http" if _speaks_plainly(host) else "https"
    url = f"{base}://{host}/v2/{name}/manifests/{tag}"
    try:
        heard = ask("HEAD", url, headers={"Accept": _ACCEPT})
        if heard.status == 401:
            heard = ask("HEAD", url, headers={"Accept": _ACCEPT, **_allowed(heard)})
    except Unheard as failure:
        return error(f"{reference} cannot be asked for: {failure}.", remedy)
    if heard.status != 200:
        return error(f"{reference} is answered {heard.status} by its registry.", remedy)
    return ok(f"{reference} can be pulled.")


def _allowed(refused: Heard) -> dict[str, str]:
    """The header that anonymous pulls need, from where the registry says."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', refused.one("www-authenticate")))
    realm = fields.pop("realm", "")
    if not realm.startswith("https://"):
        return {}
    heard = ask("GET", f"{realm}?{urlencode(fields)}")
    try:
        found = _TOKEN.decode(heard.body)
    except msgspec.MsgspecError:
        return {}
    return {"Authorization": f"Bearer {found.token or found.access_token}"}


def _fields(scene: Scene, target: str, tag: str, version: str) -> dict[str, str]:
    first, _, second = target.partition("/")
    registry = scene.settings.imagebuilder_registry
    return {"registry": registry, "target": first, "subtarget": second, "tag": tag, "version": version}


def _host(reference: str) -> str:
    first = reference.partition("/")[0]
    # Podman's rule for what is a host; without one it asks the registries of its own settings.
    return first if "." in first or ":" in first else "docker.io"


def _speaks_plainly(host: str) -> bool:
    """Only for registries of this machine, which may do without a certificate."""
    if not re.match(r"(localhost|127\.\d+\.\d+\.\d+)(:\d+)?$", host):
        return False
    try:
        return ask("GET", f"http://{host}/v2/").status in (200, 401)
    except Unheard:
        return False


def _is_here(scene: Scene, reference: str) -> bool:
    engine = scene.engine
    if engine is None:
        return False
    try:
        status, _ = get_json(engine.path, f"/v4.0.0/libpod/images/{quote(reference, safe='')}/exists")
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return status == 204


def check_network(scene: Scene) -> CheckResult:
    """Whether builds can reach the repositories that packages come from."""
    network = scene.settings.build_network
    if network == "none":
        return ok("Builds have no network, as build_network says; packages must be in the ImageBuilder.")
    if scene.is_local:
        return ok("Builds use this machine's network.")
    engine = scene.engine
    if engine is None:
        return warning("The build network was not looked at.", "See to the container engine first (engine).")
    try:
        status, found = get_json(engine.path, f"/v4.0.0/libpod/networks/{quote(network)}/json")
    except (OSError, http.client.HTTPException, ValueError) as failure:
        return error(
            f"The engine does not tell of its networks ({type(failure).__name__}).",
            "podman network ls",
        )
    return _judge_network(network, status, found)


def _judge_network(network: str, status: int, found: Any) -> CheckResult:
    if status == 404:
        return ok(f"The network {network} is made with the first build.")
    found = found[0] if isinstance(found, list) and found else found
    if status != 200 or not isinstance(found, dict):
        return error(f"The network {network} is answered {status} by the engine.", "podman network ls")
    if found.get("internal"):
        return error(
            f"The network {network} leads nowhere (it is internal), so builds cannot fetch packages.",
            f"podman network rm {network}   (the next build makes it anew)",
        )
    return ok(f"The network {network} is there ({found.get('driver', 'bridge')}).")
