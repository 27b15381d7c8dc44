"""What the type of a setting does not say: each wrong value, with its place and what may be."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from asu_builder.domain.addresses import parse_address
from asu_builder.domain.rates import parse_rates
from asu_builder.settings.units import write_duration

if TYPE_CHECKING:
    from asu_builder.settings import Settings


_LONGEST_GIVEN = 80
# Greedy on purpose: a password may hold a slash, and too much hidden does no harm.
_USER = re.compile(r"((?:^|[\s\[])['\"]?(?:[a-z+.-]+://)?)\S*@", re.IGNORECASE)
SECRET = "api_tokens"
"""Its values are never repeated: by mistake one may hold a token itself."""


class Wrong(Struct, frozen=True):
    """One finding. `name` leads to the entry: `api_tokens[1].digest`."""

    name: str
    sentence: str
    place: str = ""

    @property
    def setting(self) -> str:
        """The setting of the entry."""
        return re.split(r"[.\[]", self.name, maxsplit=1)[0]

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.place}): {self.sentence}" if self.place else f"{self.name}: {self.sentence}"
        )


class SettingsProblem(Exception):
    """Settings that stop the start; the text names each and says what was expected."""

    def __init__(self, text: str, wrong: tuple[Wrong, ...] = ()) -> None:
        super().__init__(text)
        self.wrong = wrong


def problem_of(sentences: Iterable[str], wrong: Iterable[Wrong] = ()) -> SettingsProblem:
    """All of them in one text: a sentence, or a line for each."""
    said = tuple(sentences)
    lines = [f"{len(said)} settings are wrong:", *(f"  {line}" for line in said)]
    return SettingsProblem(said[0] if len(said) == 1 else "\n".join(lines), tuple(wrong))


def expectation(name: str, expected: str, given: object) -> Wrong:
    """Something else was expected."""
    got = "" if name.startswith(SECRET) else f", got {written(given)}"
    return Wrong(name, f"expected {expected}{got}")


def written(given: object) -> str:
    """A value as a file would say it, shortened and without the user of an address."""
    match given:
        case None:
            text = "nothing"
        case bool():
            text = str(given).lower()
        case str():
            text = repr(given)
        case Mapping():
            text = "a mapping of " + ", ".join(map(str, given)) if given else "an empty mapping"
        case list() | tuple():
            text = f"[{', '.join(map(written, given))}]"
        case _:
            text = str(given)
    text = _USER.sub(r"\1…@", text)
    return text if len(text) <= _LONGEST_GIVEN else text[: _LONGEST_GIVEN - 1] + "…"


_LEAST = {
    "max_pending_jobs": 1,
    "max_defaults_length": 0,
    "max_custom_rootfs_size_mb": 1,
    "max_head_size": 8 << 10,
    "max_request_line": 1 << 10,
    "max_body_size": 64 << 10,
    "max_fields": 50,
    "max_connections_per_address": 8,
}
_MOST = {
    "max_head_size": 1 << 20,
    "max_request_line": 1 << 20,
    "max_body_size": 16 << 20,
    "max_fields": 100_000,
}
"""So that one request never takes a large part of the memory."""


def range_checks(settings: "Settings") -> Iterator[tuple[str, bool, str]]:
    """Each setting, whether its value fits, and what would."""
    for name, least in _LEAST.items():
        value, most = getattr(settings, name), _MOST.get(name)
        expected = f"of at least {least}" if most is None else f"from {least} to {most}"
        yield name, value >= least and (most is None or value <= most), f"a number {expected}"
    fits = settings.max_request_line <= settings.max_head_size
    yield "max_request_line", fits, "at most max_head_size, because the line is part of the head"


NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Of a worker, a network, or the holder of a token."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BRANCH = re.compile(r"SNAPSHOT|\d+\.\d+")
_BRANCH_PATH = re.compile(r"[A-Za-z0-9._/{}-]+")

_ABOVE_ZERO = (
    *("job_timeout", "worker_poll", "idle_deprioritized_after"),
    *("head_timeout", "body_timeout", "reader_timeout"),
    # An end that is over at once would never be seen.
    *("build_ttl", "build_ttl_unversioned", "build_defaults_ttl", "failure_ttl"),
)
PARTNERS: Mapping[str, str] = {
    "idle_expires_after": "idle_deprioritized_after",
    "package_changes_path": "package_changes_url",
    "max_request_line": "max_head_size",
}
"""Settings that are measured by another; what is wrong is said of the first."""
TEMPLATE_FIELDS: Mapping[str, frozenset[str]] = {
    "imagebuilder_image": frozenset(("registry", "target", "subtarget", "tag", "version")),
    "imagebuilder_path": frozenset(("version", "target", "subtarget")),
}


def wrong_values(settings: "Settings") -> Iterator[Wrong]:
    """Everything that stops a start."""
    yield from _numbers(settings)
    yield from _texts(settings)
    yield from _times(settings)
    yield from _tokens(settings.api_tokens)
    yield from _networks("trusted_proxies", settings.trusted_proxies)
    yield from _allow_list(settings.repository_allow_list)
    yield from _branches(settings.branches)


_AN_ADDRESS = "an http(s) address like https://mirror.example.org:8443/openwrt, without a user"


def _unless(holds: object, name: str, expected: str, given: object) -> Iterator[Wrong]:
    if not holds:
        yield expectation(name, expected, given)


def _numbers(settings: "Settings") -> Iterator[Wrong]:
    for name, least, most, what in (
        ("server_port", 0, 65535, "a port"),
        ("worker_concurrent", 0, 256, "a number"),
    ):
        value = getattr(settings, name)
        yield from _unless(least <= value <= most, name, f"{what} from {least} to {most}", value)
    for name, fits, expected in range_checks(settings):
        yield from _unless(fits, name, expected, getattr(settings, name))


def _texts(settings: "Settings") -> Iterator[Wrong]:
    yield from _unless(_is_server(settings.upstream_url), "upstream_url", _AN_ADDRESS, settings.upstream_url)
    for name in ("package_changes_url", "public_upstream_url"):
        value = getattr(settings, name)
        yield from _unless(not value or _is_server(value), name, _AN_ADDRESS, value)
    both = settings.package_changes_path and settings.package_changes_url
    nothing = "nothing beside package_changes_url: rules come from one place"
    yield from _unless(not both, "package_changes_path", nothing, settings.package_changes_path)
    yield from _unless(
        NAME.fullmatch(settings.worker_id), "worker_id", "letters, digits and . _ -", settings.worker_id
    )
    network = settings.build_network
    yield from _unless(NAME.fullmatch(network), "build_network", "a network's name or none", network)
    expected = "rates like `20/minute; 100/hour`, or nothing"
    for name in ("new_builds_limit", "look_ups_limit"):
        yield from _unless(_are_rates(getattr(settings, name)), name, expected, getattr(settings, name))
    for number, host in enumerate(settings.upstream_redirect_hosts):
        expected = "a host, like mirror.example.org:8080"
        yield from _unless(_is_place(host), f"upstream_redirect_hosts[{number}]", expected, host)
    for name, allowed in TEMPLATE_FIELDS.items():
        yield from _template(name, getattr(settings, name), allowed)


def _is_server(text: str) -> bool:
    """Whether the address of a server. A user in it would be announced to everybody, and never sent."""
    address = parse_address(text)
    return address is not None and not address.user


def _is_place(host: str) -> bool:
    """Whether a host, with a port or without, and nothing else."""
    address = parse_address(f"http://{host}")
    return address is not None and not address.path and not address.user


def _template(name: str, template: str, allowed: frozenset[str]) -> Iterator[Wrong]:
    try:
        template.format(**dict.fromkeys(allowed, "x"))
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        names = ", ".join(f"{{{field_name}}}" for field_name in sorted(allowed))
        yield expectation(name, f"a template with none but {names}", template)


def _times(settings: "Settings") -> Iterator[Wrong]:
    for name in _ABOVE_ZERO:
        span = getattr(settings, name)
        yield from _unless(span > timedelta(0), name, "a duration above zero, like 10m", write_duration(span))
    deprioritized, expires = settings.idle_deprioritized_after, settings.idle_expires_after
    expected = f"a duration longer than idle_deprioritized_after ({write_duration(deprioritized)})"
    yield from _unless(expires > deprioritized, "idle_expires_after", expected, write_duration(expires))


def _tokens(tokens: Any) -> Iterator[Wrong]:
    names: set[str] = set()
    digests: set[str] = set()
    for number, token in enumerate(tokens):
        entry = f"api_tokens[{number}]"
        name, digest = token["name"], token["digest"]
        yield from _unless(NAME.fullmatch(name), f"{entry}.name", "a name of letters, digits and . _ -", name)
        yield from _unless(name not in names, f"{entry}.name", "a name that no other token has", name)
        yield from _unless(
            _DIGEST.fullmatch(digest),
            f"{entry}.digest",
            "the SHA-256 of the token as 64 hexadecimal digits; `asu-builder token NAME` prints it",
            digest,
        )
        yield from _unless(digest not in digests, f"{entry}.digest", "another token for each name", digest)
        names.add(name)
        digests.add(digest)


def _networks(name: str, networks: tuple[str, ...]) -> Iterator[Wrong]:
    if not networks:
        return
    import ipaddress  # only where a proxy is trusted

    for number, network in enumerate(networks):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            expected = "an address or a network like 10.0.0.0/8"
            yield expectation(f"{name}[{number}]", expected, network)


def _allow_list(entries: tuple[str, ...]) -> Iterator[Wrong]:
    if not entries:
        return
    from asu_builder.domain.repositories import is_allow_list_entry  # most servers allow none

    expected = "an http(s) address, without * and ; and with nothing to decode"
    for number, entry in enumerate(entries):
        yield from _unless(is_allow_list_entry(entry), f"repository_allow_list[{number}]", expected, entry)


def _branches(branches: Mapping[str, Any]) -> Iterator[Wrong]:
    for name, branch in branches.items():
        yield from _unless(_BRANCH.fullmatch(name), f"branches.{name}", "a name like 24.10 or SNAPSHOT", name)
        path = branch.get("path", "x")
        holds = _BRANCH_PATH.fullmatch(path) and ".." not in path and _fits(path)
        yield from _unless(holds, f"branches.{name}.path", "a relative path, with {version} or without", path)


def _fits(path: str) -> bool:
    try:
        path.format(version="x")
    except (KeyError, IndexError, ValueError, AttributeError):
        return False
    return not path.startswith("/")


def _are_rates(text: str) -> bool:
    try:
        return all(rate.amount for rate in parse_rates(text))
    except ValueError:
        return False
