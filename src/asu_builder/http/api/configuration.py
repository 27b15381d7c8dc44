"""The settings in effect: value, default, where each was chosen and what it means. Never a secret."""

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec import NODEFAULT
from msgspec.structs import fields

from asu_builder.http.api.operator import ConfigurationDocument, SettingDocument
from asu_builder.settings import LoadedSettings, Settings, Size
from asu_builder.settings.checks import PUBLIC_STORE_OPTIONS, write_duration, write_size

MEANINGS: Mapping[str, str] = {
    "server_host": (
        "Address to listen on. `0.0.0.0` for all; a reverse proxy with TLS in front is the usual way."
    ),
    "server_port": "Port to listen on; `0` takes a free one.",
    "database_path": (
        "The SQLite database. Its directory also holds worker locks and the local runtime's copies."
    ),
    "database_url": (
        "Where all that has rows is kept: `postgresql://user:password@host/database` for an installation of "
        "many hosts, or `sqlite:///` with the path of a file in place of `database_path`. Empty: the SQLite "
        "file `database_path`. With a server its directory still holds what is this host's alone."
    ),
    "public_path": "Images are published under `store/` in here, one directory per request hash.",
    "upstream_url": (
        "The download server whose metadata says what can be built; also where snapshot ImageBuilders "
        "load themselves from. An address without a user."
    ),
    "public_upstream_url": (
        "The same server as routers reach it, where `upstream_url` is an internal mirror. It is what the"
        " overview announces."
    ),
    "upstream_redirect_hosts": (
        "Hosts to which the download server may redirect beside its own, like `mirror.example.org` or "
        "`mirror.example.org:8080`. Never to addresses that are not public, unless `upstream_url` itself "
        "leads there."
    ),
    "branches": (
        "Changes to the built-in branches, or further ones: name → `path` (with `{version}`), `enabled`,"
        " `snapshot`, `branch_off_rev`, `own_numbering` (`true` for a vendor whose ImageBuilders tell other"
        " versions and revisions than the metadata; else such a build fails). In a variable as JSON."
    ),
    "contact": (
        "Who runs this server, and how to reach them; announced in the overview and at the foot of the pages."
    ),
    "cors": (
        "Whether responses have CORS headers. Turn it off if a proxy adds them: two copies break browsers."
    ),
    "container_runtime": (
        "`podman`, `local`, or `auto`: local only if `imagebuilder_path` is set and no Podman socket "
        "exists. An engine that does not answer is down; it is never a reason to switch."
    ),
    "container_socket_path": (
        "Podman's socket. Empty: `CONTAINER_HOST`, then the rootless and the rootful default path."
    ),
    "imagebuilder_registry": "Where ImageBuilder container images are pulled from.",
    "imagebuilder_image": (
        "The container image's name. `{tag}` is `v24.10.5`, `openwrt-24.10` or `master`; `{version}` is "
        "the version as asked."
    ),
    "imagebuilder_keys": (
        "Release line → public key of usign that signs its `sha256sums`, as text or as the path of a file. "
        "Where the container image of a release is missing, its ImageBuilder's archive stands in for it if "
        "there is a key for its line. See archives."
    ),
    "imagebuilder_base": (
        "The container image in which such archives are unpacked, with what an ImageBuilder needs: `make`, "
        "`python3`, `perl`, `tar`, `zstd`, `xz` and others. It must have a user for builds."
    ),
    "prepull": (
        "How many container images are pulled ahead: of the latest versions, the targets that new builds of "
        "the last seven days asked for most. `0`: an image is pulled with the first build that needs it."
    ),
    "warm_containers": (
        "How many containers of the most asked targets stand started, each for one build. `0`: none. Each "
        "takes a few MiB of memory while it waits. See warm containers."
    ),
    "build_network": (
        "How builds load packages. `proxy`: they have no network, and a proxy beside the service "
        "that lets each fetch from its own repositories only. `bridge`: a Podman network "
        "`asu-build`, by which they reach what this host reaches; another name is a Podman network "
        "of that name, created if it is missing. `none`: not at all, for ImageBuilders that contain "
        "their packages. The local runtime with a network shares the host's."
    ),
    "proxy_directory": (
        "Where the proxy of builds has its sockets. The container engine must see it under the same "
        "path. Empty: `proxy` beside the database."
    ),
    "package_cache_size": (
        "How much the proxy of builds keeps of packages and their indexes for the next builds, in `packages` "
        "beside the database; the longest unused go first. `0`: nothing."
    ),
    "allow_unsandboxed": (
        "Lets the local runtime build without bubblewrap if that does not work. Only for a machine that "
        "no one else can reach."
    ),
    "imagebuilder_path": (
        "For the local runtime: an unpacked ImageBuilder; may contain `{version}`, `{target}`, `{subtarget}`."
    ),
    "max_pending_jobs": "Maximum number of waiting jobs; further new ones are refused with 429.",
    "new_builds_limit": (
        "How many new builds one address may start (IPv6 by its /64), as rates separated by `;`. Empty: "
        "no limit. Polls, finished results and holders of a token are never limited."
    ),
    "look_ups_limit": (
        "How many different requests that need a document of the download server one address may send "
        "(IPv6 by its /64), as rates separated by `;`. Empty: no limit. Not counted: the same request "
        "within a minute, answers from memory, proxies in `trusted_proxies` and holders of a token."
    ),
    "idle_deprioritized_after": (
        "A waiting job that no client has polled for this long goes behind all others until a client "
        "polls it."
    ),
    "idle_expires_after": (
        "A waiting job that no client has polled for this long expires; a later request starts it again. "
        "Downtime of the service does not count."
    ),
    "job_timeout": "After this time the build's container is killed.",
    "shutdown_grace": (
        "How long running builds may continue after SIGTERM before they return to the queue. Polls are "
        "answered meanwhile; a second signal stops at once."
    ),
    "build_ttl": (
        "How long a result whose request named package versions is kept after its last use, to the minute."
    ),
    "build_ttl_unversioned": (
        "How long other results are kept after their completion, however often they are used: the same "
        "request would give newer packages."
    ),
    "build_defaults_ttl": (
        "How long a result with a first-boot script is kept after its last use, because the script may "
        "contain a password; without named versions at most `build_ttl_unversioned` in all."
    ),
    "failure_ttl": "How long a failure or a cancelled job is kept.",
    "statistics_ttl": "How long events are kept for the statistics.",
    "audit_ttl": (
        "How long requests (without their secrets) are kept after their result is gone, and actions of "
        "operators."
    ),
    "audit_max_size": "Maximum size of these requests; the oldest are deleted.",
    "store_max_size": (
        "Maximum size of all images, like `50GiB`; the least recently used results are deleted. `0`: no "
        "limit."
    ),
    "disk_floor": (
        "Free disk space that the store keeps. Below it new builds are refused and the least recently "
        "used results are deleted."
    ),
    "store_accel_redirect": (
        "If a reverse proxy sends the images itself: the internal path under which it finds the store, like "
        "`/asu-store/`. Downloads through a proxy in `trusted_proxies` are then answered with "
        "`X-Accel-Redirect` and without the image. Empty: the service sends them. See reverse proxy."
    ),
    "store_url": (
        "Object storage that images lie in: `s3://bucket/prefix`, `gs://bucket/prefix` or "
        "`az://container/prefix`. Empty: they lie in `store/` below `public_path`, where builds put their "
        "files in any case. See object storage."
    ),
    "store_options": (
        "What object storage needs beside its address, as names with a text each: `endpoint`, `region`, "
        "`access_key_id`, `secret_access_key` and others. In a variable as JSON. What is not named is taken "
        "from the provider's own variables, like `AWS_SECRET_ACCESS_KEY`. See object storage."
    ),
    "store_redirect": (
        "Whether a download from object storage is answered with 302 to a signed address, which leads there "
        "for an hour. With `false` the service sends the images: old clients follow no redirect."
    ),
    "preflight": (
        "`enforce`: a package selection that is surely impossible by the package indexes is refused before a "
        "build; `advise`: it is only told, and built all the same; `off`: nothing is foretold. See "
        "preflight."
    ),
    "eager_manifest": (
        "Whether each build asks for its packages with `make manifest` before `make image`. With `false` "
        "that is left out where the package indexes tell them; images are the same bit by bit. "
        "See preflight."
    ),
    "package_changes_path": (
        "Your own file of package rules, watched while the service runs; empty: the built-in rules. See "
        "package changes."
    ),
    "signing_key": (
        "What signs images and `sha256sums`: `file:` with the path of a usign secret key that no other user "
        "may read, or `exec:` with a program that gets the bytes on standard input and answers with the "
        "signature within a minute. Empty: nothing is signed. See signing."
    ),
    "signing_public_key": (
        "The path of the public key of the program of `exec:`; with `file:` none is given. In place of "
        "`signing_key` it is for processes on hosts without the key: those that answer, and those that build "
        "and hand over what they have built."
    ),
    "signing_certificate": (
        "The path of a certificate of this key, a ucert file, that is put into images before the signature. "
        "Empty: images bear the signature alone, which does not expire."
    ),
    "signing_required": (
        "Whether nothing is published and no kept result is answered that this key did not sign, or that "
        "does not state where it came from although `provenance_key` is set. With `false` such a build ends "
        "with a warning."
    ),
    "install_signing_key": (
        "Whether images trust this key: it is put into `/etc/opkg/keys`, with the package `ucert`, which "
        "then checks firmware. Images get other hashes than without."
    ),
    "redis_url": (
        "A Redis server in which several nodes count rate limits together and find what others have made, "
        "like `redis://:password@redis.example.org:6379/0`. Without it, and while it does not answer, each "
        "node does so for itself. See Redis."
    ),
    "secrets_key": (
        "The path of the file with the key under which first-boot scripts and repository keys are encrypted "
        "in the database; no other user may read it. Empty: they are stored as they are. See secrets key."
    ),
    "provenance_key": (
        "What signs the statement of where images came from: `file:` with the path of an Ed25519 key in PEM "
        "that no other user may read, or `exec:` with a program as for `signing_key`. It must be another key "
        "than `signing_key`. Empty: nothing is stated. See provenance."
    ),
    "provenance_public_key": (
        "The path of the public key (PEM) of the program of `exec:`; with `file:` none is given. In place "
        "of `provenance_key` it is for processes on hosts without the key: those that answer, and those that "
        "build and hand over what they have built."
    ),
    "provenance_builder": (
        "The address by which everybody knows this server, such as `https://asu.example.org`: statements "
        "name it as the builder. Needed with `provenance_key`."
    ),
    "package_changes_url": "A package-changes service that is used for each build instead.",
    "allow_defaults": "Whether requests may contain a first-boot script, which runs as root on the device.",
    "max_defaults_length": "Longest first-boot script, in characters.",
    "max_custom_rootfs_size_mb": "Largest root partition that a request may have, in MiB.",
    "repository_allow_list": (
        "Addresses at or below which requests may name package repositories. Their packages run code in "
        "the build container. May contain `{version}`, `{branch}`, `{target}`, `{subtarget}`, `{arch}`, "
        "filled in from the request."
    ),
    "form_packages": (
        "Packages that the form of every device begins with beside the default ones, of those that exist "
        "there; `-name` leaves a default one out. The Firmware Selector is told the same."
    ),
    "form_suggestions": (
        "Groups of packages that the form offers to add with one click: name → packages. What does not exist "
        "for a version and target is left out."
    ),
    "form_repositories": (
        "Repositories that the form begins with: name → address, each allowed by `repository_allow_list`; "
        "with the same names in braces."
    ),
    "form_repository_keys": (
        "Public keys of these repositories (PEM or usign), with an empty line between two."
    ),
    "form_defaults": "The first-boot script that the form begins with. Needs `allow_defaults`.",
    "form_links": (
        "Links about a device, in the form and beside its images: name → address. May contain `{title}`, "
        "`{version}`, `{branch}`, `{target}`, `{subtarget}`, `{profile}`; one with `{version}` is left out "
        "for snapshots."
    ),
    "form_for": (
        "The same for some devices only: a branch, version, target or profile → `packages`, `suggestions`, "
        "`repositories`, `defaults`, `links`. They are applied in this order, after those for every device: "
        "packages are appended, `-name` takes one away, an entry of the same name replaces the other, an "
        "empty one removes it. In a variable as JSON."
    ),
    "api_tokens": (
        "Tokens of operators and callers: a list of `name`, `digest` (SHA-256 of the token), `rights` "
        "(`read`, `operate`) and `priority` (`bulk`, `normal`, `interactive`). `asu-builder token NAME` "
        "creates one. In a variable as JSON."
    ),
    "trusted_proxies": (
        "Addresses or networks of the reverse proxies (`127.0.0.1`, `10.0.0.0/8`); `X-Forwarded-For` is "
        "trusted only from them."
    ),
    "max_head_size": (
        "Maximum size of the head of a request (first line and headers); a larger one is refused with 431."
    ),
    "max_request_line": (
        "Maximum length of the first line of a request, which contains its address; a longer one is "
        "refused with 414."
    ),
    "max_body_size": (
        "Maximum size of the body of a build request; a larger one is refused with 413. All other bodies "
        "may have 64 KiB."
    ),
    "max_fields": "Maximum number of fields of an address or a form; more are refused with 400.",
    "head_timeout": (
        "How long a connection may take to send the head of a request; then it gets 408 and is closed."
    ),
    "body_timeout": "How long a request's body may take to arrive; then 408.",
    "reader_timeout": "How long a client may read nothing of its response before its connection is closed.",
    "max_connections_per_address": (
        "How many connections one address may have open (IPv6 by its /64); a further one gets 429 and is "
        "closed. Proxies in `trusted_proxies` and Unix sockets are not counted."
    ),
    "worker_id": (
        "Name of this process among workers; if another running process has it, it becomes `name-2`."
    ),
    "worker_concurrent": "How many builds run at once. `0`: only serve.",
    "worker_poll": "How often an idle worker checks the queue; a submission wakes one at once.",
    "monitoring_host": (
        "For `asu-builder worker`: the address at which `/health` and `/metrics` answer. `0.0.0.0` for all."
    ),
    "monitoring_port": "The port of the same; `0` takes a free one.",
    "log_format": "`console` for people, `json` for programs: one object per line. See operations.",
    "log_level": "`debug`, `info`, `warning` or `error`.",
}


DEFAULT = "default"
_SHOWN_OF_A_TOKEN = ("name", "rights", "priority")
# Greedy on purpose: a password may hold the sign that ends it, and too much hidden does no harm.
_USER = re.compile(r"//\S*@")
_PASSWORD_WITHOUT_SCHEME = re.compile(r"^[^\s/@:]+:[^\s/@]+@")
_QUERY = re.compile(r"(//[^\s?#]*)[?#]\S*")


def describe_settings(loaded: LoadedSettings) -> ConfigurationDocument:
    """Every setting. Of tokens only names, rights and priorities; addresses without user and query."""
    found = []
    for entry in fields(Settings):
        name, default = entry.name, entry.default
        if default is NODEFAULT:
            # None where each host makes its own.
            default = {} if entry.default_factory is dict else None
        value = _written(name, getattr(loaded.settings, name))
        origin = loaded.origins.get(name, DEFAULT)
        found.append(SettingDocument(name, value, origin, _written(name, default), MEANINGS[name]))
    return ConfigurationDocument(tuple(sorted(found, key=lambda setting: setting.origin == DEFAULT)))


def _written(name: str, value: Any) -> Any:
    if name == "api_tokens":
        return [{key: token[key] for key in _SHOWN_OF_A_TOKEN if key in token} for token in value]
    if name == "database_url" and value:
        return f"{value.partition(':')[0]}://…"  # it may hold a password
    if name == "store_options":
        return {key: text if key in PUBLIC_STORE_OPTIONS else "…" for key, text in _plain(value).items()}
    if name in ("signing_key", "provenance_key") and value.startswith("exec:"):
        return "exec:…"  # its arguments may hold a secret
    return _plain(value)


def _plain(value: Any) -> Any:
    match value:
        case timedelta():
            return write_duration(value)
        case Size():
            return write_size(value)
        case str() | Path():
            # An address without user, password and query, which may be keys; other text as it is.
            hidden = _PASSWORD_WITHOUT_SCHEME.sub("…@", _USER.sub("//…@", str(value)))
            return _QUERY.sub(r"\1?…", hidden)
        case Mapping():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case tuple() | list():
            return [_plain(inner) for inner in value]
    return value
