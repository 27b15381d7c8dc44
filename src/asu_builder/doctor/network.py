"""What is reached over the network: download server, bucket, rules, the service as its clients meet it."""

import contextlib
import errno
import json
import socket
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from asu_builder.app.adapters import open_bucket, open_package_changes
from asu_builder.doctor.installation import described, listener
from asu_builder.doctor.scene import Response, Scene, Unanswered, ask, in_words
from asu_builder.domain.errors import AsuError
from asu_builder.domain.health import CheckResult, error, ok, warning
from asu_builder.package_rules import RemotePackageChanges
from asu_builder.settings import SettingsProblem
from asu_builder.upstream.formats import parse_versions


def check_upstream(scene: Scene) -> CheckResult:
    """Whether the download server answers and lists versions."""
    url = scene.upstream
    remedy = f"See what stands between: curl -I {url}/.versions.json   (a mirror is named by upstream_url)"
    try:
        listed = parse_versions(scene.versions().body)
    except Unanswered as failure:
        return error(f"The download server {url} does not answer: {failure}.", remedy)
    except ValueError:
        return error(
            f"{url}/.versions.json is no list of versions.",
            "Set upstream_url to a server of the layout of https://downloads.openwrt.org.",
        )
    return ok(f"{url} answers and lists {len(listed.listed)} versions.")


def check_release(scene: Scene) -> CheckResult:
    """Whether the newest release's targets are there."""
    url = scene.upstream
    remedy = f"Name a complete mirror as upstream_url; try: curl -I {url}/releases/"
    try:
        release, targets = scene.targets()
    except Unanswered as failure:
        return error(f"The newest release's list of targets cannot be had: {failure}.", remedy)
    except ValueError as failure:
        return error(f"The newest release's list of targets cannot be understood: {failure}.", remedy)
    if not targets:
        return error(f"{url} has no target of {release.version}.", remedy)
    return ok(f"The newest release is {release.version}, with {len(targets)} targets.")


def check_rules(scene: Scene) -> CheckResult:
    """Whether the package rules can be read, from wherever they come."""
    settings = scene.settings
    with contextlib.closing(open_package_changes(settings)) as changes:
        if isinstance(changes, RemotePackageChanges):
            changes.refresh()
        result = changes.check()
    if result.status == "ok":
        return result
    if settings.package_changes_url:
        return error(
            f"{settings.package_changes_url}: {result.sentence}.",
            "Start it (asu-package-changes), or set package_changes_url to nothing.",
        )
    return error(result.sentence, f"asu-builder rules test {settings.package_changes_path}")


ORIGIN = "https://firmware-selector.example"
"""A page elsewhere, as the Firmware Selector is."""
_PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type",
}
_CONNECT_SECONDS = 3.0
_CORS_HINT = "Set cors: true and let the proxy add none of these headers"


def check_port(scene: Scene) -> CheckResult:
    """Whether the port is free, or taken by a service of ours, which then tells its health."""
    port = scene.settings.server_port
    if port == 0:
        return ok("Any free port is taken, as server_port 0 says.")
    try:
        with socket.create_connection((_address(scene), port), timeout=_CONNECT_SECONDS):
            pass
    except OSError:
        return _try_binding(scene)
    health = _own_health(scene)
    if health is None:
        return error(
            f"Port {port} is taken by {described(listener(port))}, which is not this program.",
            f"Stop it, or choose another port: server_port: {port + 1}",
        )
    if health["status"] == "ok":
        return ok(f"The service answers at port {port}, and is well.")
    lame = [f"{name}: {part['sentence']}" for name, part in health["parts"].items() if part["status"] != "ok"]
    return warning(
        f"The service answers at port {port}, and is {health['status']}: {' '.join(lame)}",
        f"See its log, and what it says again: curl {_own_url(scene)}/health",
    )


def _try_binding(scene: Scene) -> CheckResult:
    host, port = scene.settings.server_host, scene.settings.server_port
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as failure:
        if failure.errno == errno.EADDRINUSE:
            return error(
                f"Port {port} is taken by {described(listener(port))}, which does not answer.",
                f"Stop it, or choose another port: server_port: {port + 1}",
            )
        if failure.errno in (errno.EACCES, errno.EPERM):
            return error(
                f"Port {port} may not be opened by user {scene.user}.",
                "Choose one above 1023 (server_port: 8080) and put a proxy in front.",
            )
        return error(
            f"{host} is no address of this machine: {failure.strerror}.",
            "server_host: 127.0.0.1   (behind a proxy) or 0.0.0.0",
        )
    return ok(f"Port {port} of {host} is free.")


def _own_health(scene: Scene) -> dict[str, Any] | None:
    try:
        return _health_of(ask("GET", f"{_own_url(scene)}/health", directly=True))
    except Unanswered:
        return None


def _health_of(response: Response) -> dict[str, Any] | None:
    """The document of `/health`; None where another program answers."""
    try:
        found = json.loads(response.body)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "polls_answered" in found else None


def _own_url(scene: Scene) -> str:
    return in_words((_address(scene), scene.settings.server_port))


def _address(scene: Scene) -> str:
    """The address to call for the one that the service listens at."""
    host = scene.settings.server_host
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def check_cors(scene: Scene) -> CheckResult:
    """Whether a page elsewhere may ask for builds, by the rules that a browser keeps."""
    runs = scene.settings.server_port and _own_health(scene) is not None
    base = scene.url or (_own_url(scene) if runs else "")
    if not base:
        if scene.settings.cors:
            return ok("Answers allow pages elsewhere (cors); none was asked for, as no service runs.")
        return warning(
            "cors is off, so a proxy has to allow pages elsewhere, and it was not asked.",
            "asu-builder doctor --url https://asu.example.org   (its public address)",
        )
    try:
        preflight = ask("OPTIONS", f"{base}/api/v1/build", headers=_PREFLIGHT)
        plain = ask("GET", f"{base}/json/v1/branches.json", headers={"Origin": ORIGIN})
    except Unanswered as failure:
        return error(f"{base} does not answer: {failure}.", f"curl -I {base}/health")
    return judge_cors(base, preflight, plain)


def judge_cors(base: str, preflight: Response, plain: Response) -> CheckResult:
    """What a browser makes of the responses to OPTIONS and GET with an `Origin`."""
    if not 200 <= preflight.status < 300:
        return error(
            f"{base} answers {preflight.status} to a browser's OPTIONS question.",
            "Let the proxy pass OPTIONS on to the service.",
        )
    for response, what in ((preflight, "OPTIONS"), (plain, "GET")):
        origins = response.all("access-control-allow-origin")
        if len(origins) > 1 or any("," in origin for origin in origins):
            return error(
                f"{base} allows pages elsewhere twice ({what}), which browsers refuse.",
                "Let one of them do it: cors: false   (or take the header out of the proxy's settings)",
            )
        if not origins or origins[0] not in ("*", ORIGIN):
            return error(f"{base} does not allow pages elsewhere ({what}).", f"{_CORS_HINT}.")
    methods = preflight.one("access-control-allow-methods").upper()
    headers = preflight.one("access-control-allow-headers").lower()
    if not ("POST" in methods or "*" in methods) or not ("content-type" in headers or "*" in headers):
        return error(f"{base} does not let pages elsewhere POST JSON.", f"{_CORS_HINT}.")
    return ok(f"Pages elsewhere may ask {base} for builds.")


def check_proxy(scene: Scene) -> CheckResult:
    """Whether the service trusts the proxy in front of it to name the client.

    The service itself sends neither `Server` nor `Via` and speaks no TLS: what does is a proxy.
    """
    url, trusted = scene.url, scene.settings.trusted_proxies
    if not url:
        return ok(f"Trusted to name clients: {', '.join(trusted) or 'no proxy, and none is needed'}.")
    try:
        response = ask("GET", f"{url}/health")
    except Unanswered as failure:
        return error(f"{url} does not answer: {failure}.", f"curl -I {url}/health")
    health = _health_of(response)
    if health is None and response.status >= 500:
        return error(
            f"{url} answers {response.status}: the proxy does not reach the service.",
            f"Point it at {_own_url(scene)} and see its log.",
        )
    if health is None:
        return error(
            f"{url}/health is answered by another program ({response.status}).",
            f"Pass everything on to {_own_url(scene)}.",
        )
    caller = str(health.get("caller", ""))
    default = "https" if url.startswith("https://") else ""
    proxy = response.one("server") or response.one("via") or default
    if not proxy:
        return ok(f"{url} leads to the service, which counts this machine as {caller}.")
    if not trusted:
        return error(
            f"{url} leads through a proxy ({proxy}) that is not trusted to name clients, so all clients "
            f"count as one ({caller}) and are limited together.",
            f"trusted_proxies: [{caller or '127.0.0.1'}]",
        )
    try:
        is_proxy = any(ip_address(caller) in ip_network(one) for one in trusted)
    except ValueError:  # a household of IPv6
        is_proxy = False
    # A trusted proxy that names no client makes the service count us by the proxy's own address. If we call
    # from that address, the proxy may well have named it.
    if is_proxy:
        parts = urlsplit(url)
        address = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        with (
            contextlib.suppress(OSError),
            socket.create_connection(address, timeout=_CONNECT_SECONDS) as probe,
        ):
            is_proxy = str(probe.getsockname()[0]) != caller
    if is_proxy:
        return error(
            f"{url} leads through a proxy ({proxy}) that does not name clients, so they count as {caller}.",
            "In nginx: proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;   (Caddy does so)",
        )
    return ok(f"The proxy ({proxy}) is trusted to name clients; this machine counts as {caller}.")


def check_bucket(scene: Scene) -> CheckResult:
    """Whether the bucket is there and may be listed, where images lie in object storage."""
    url = scene.settings.store_url
    if not url:
        return ok("Images lie on a disk; no store_url is set.")
    try:
        open_bucket(scene.settings).require()
    except (SettingsProblem, AsuError) as problem:
        return error(str(problem), "Correct store_url or store_options: docs/how-to/object-storage.md")
    return ok(f"The bucket {url} is there.")
