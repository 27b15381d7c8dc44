"""The settings of the predecessor, openwrt/asu: what each is called here, or why it is not needed."""

from collections.abc import Mapping

RENAMED: Mapping[str, str] = {
    "base_container": "imagebuilder_registry",
    "build_failure_ttl": "failure_ttl",
    "branches_file": "branches",
    "update_token": "api_tokens",
}
SAME_VALUES = ("base_container", "build_failure_ttl")
"""Renamed, and written in the same way."""

_NO_OWN_CACHE = "builds take the proxy that http_proxy and https_proxy name in the environment"
_ONE_SOCKET = "Podman is reached through its socket (container_socket_path)"
_OWN_NETWORK = "builds have a network of their own (build_network)"
NOT_NEEDED: Mapping[str, str] = {
    "redis_url": "the queue lies in the database; here it is a server that counts rate limits for many hosts",
    "cache_url": _NO_OWN_CACHE,
    "squid_cache": _NO_OWN_CACHE,
    "async_queue": "every build waits in the queue",
    "container_identity": _ONE_SOCKET,
    "container_host": _ONE_SOCKET,
    "container_network": _OWN_NETWORK,
    "container_network_mode": _OWN_NETWORK,
    "store_backend": "images lie on disk, below public_path",
    "server_stats": "statistics are kept in the database and shown at /statistics",
}
"""Also where a setting of that name means something else here, as `redis_url` does."""
_OF_BRANCHES = (
    "path_packages",
    "package_changes",
    "targets",
    "extra_repos",
    "extra_keys",
    "repos",
    "versions",
)

LOG_LEVELS: Mapping[str, str] = {
    "notset": "debug",
    "trace": "debug",
    "warn": "warning",
    "critical": "error",
    "fatal": "error",
}
"""Levels that it knows and we do not, by the nearest of ours."""


def said_of(name: str) -> str:
    """What becomes of a setting that is the predecessor's alone; empty for any other."""
    name = name.lower()
    if name in RENAMED:
        return f"now called {RENAMED[name]}"
    reason = NOT_NEEDED.get(name) or (NOT_NEEDED["store_backend"] if name.startswith("s3_") else "")
    return f"not needed because {reason}" if reason else ""


def said_of_branch(key: str) -> str:
    """What becomes of an entry of its branches; empty for any other."""
    return "not needed because it is found by itself" if key in _OF_BRANCHES else ""
