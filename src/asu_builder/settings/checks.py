"""Values of settings: sizes and durations as operators write them, and each wrong value with what may be."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from asu_builder.domain.access import parse_rates
from asu_builder.domain.addresses import parse_address

if TYPE_CHECKING:
    from asu_builder.settings import Settings

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


LONGEST = timedelta(days=36500)
"""Later times than this from now fit neither into a date nor into a wait."""


class Size(int):
    """A number of bytes."""


def parse_duration(text: str) -> timedelta:
    """A span of time from `7d`, `30m`, `10s`, `2h`, `1w` or plain seconds."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError("expected a duration like 7d, 30m or seconds")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"expected a duration of at most {LONGEST.days}d")
    return timedelta(seconds=seconds)


def parse_size(text: str) -> Size:
    """A number of bytes from `20GiB`, `512M` or plain bytes; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError("expected a size like 20GiB, 512MiB or bytes")
    return Size(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def write_duration(span: timedelta) -> str:
    """The shortest text that means this span: `7d`, `90s`."""
    seconds = span.total_seconds()
    for unit in "dhm":
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:.0f}{unit}"
    return f"{seconds:g}s"


def write_size(size: Size) -> str:
    """The shortest text that means exactly this size: `512MiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(int(size))


SQLITE_URL = "sqlite:///"
SERVER_URLS = ("postgresql://", "postgres://")
_LONGEST_GIVEN = 80
# Greedy on purpose: a password may hold a slash, and too much hidden does no harm.
_USER = r"(?i)((?:^|[\s\[])['\"]?(?:[a-z+.-]+://)?)\S*@"
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
    secret = (SECRET, "signing_key", "provenance_key", "store_options", "database_url")
    got = "" if name.startswith(secret) else f", got {written(given)}"
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
    text = re.sub(_USER, r"\1…@", text)
    return text if len(text) <= _LONGEST_GIVEN else text[: _LONGEST_GIVEN - 1] + "…"


_RANGES: Mapping[str, tuple[int, int | None]] = {
    "server_port": (0, 65535),
    "monitoring_port": (0, 65535),
    "worker_concurrent": (0, 256),
    "max_pending_jobs": (1, None),
    "prepull": (0, 100),
    "warm_containers": (0, 64),
    "max_defaults_length": (0, None),
    "max_custom_rootfs_size_mb": (1, None),
    "max_head_size": (8 << 10, 1 << 20),
    "max_request_line": (1 << 10, 1 << 20),
    "max_body_size": (64 << 10, 16 << 20),
    "max_fields": (50, 100_000),
    "max_connections_per_address": (8, None),
}
"""The least and the most; sizes are bounded so that one request never takes a large part of the memory."""
_ABOVE_ZERO = (
    *("job_timeout", "worker_poll", "idle_deprioritized_after"),
    *("head_timeout", "body_timeout", "reader_timeout"),
    # An end that is over at once would never be seen.
    *("build_ttl", "build_ttl_unversioned", "build_defaults_ttl", "failure_ttl"),
)
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Of a worker, a network, or the holder of a token."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_INTERNAL_PATH = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._~-]*)+/")
_BUCKET = re.compile(
    r"(?:s3|gs|az)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}){0,8}/?"
)
STORE_OPTIONS: Mapping[str, Sequence[str]] = {
    "s3": (
        *("endpoint", "region", "access_key_id", "secret_access_key", "session_token"),
        *("virtual_hosted_style_request", "skip_signature"),
    ),
    "gs": ("service_account", "service_account_key", "application_credentials"),
    "az": ("account_name", "account_key", "sas_key", "endpoint"),
}
"""Names of options of object storage, by how its address begins; as obstore has them."""
_YES_OR_NO = ("virtual_hosted_style_request", "skip_signature")
PUBLIC_STORE_OPTIONS = ("endpoint", "region", "account_name", *_YES_OR_NO)
"""Those that are no secret."""
_BRANCH = re.compile(r"SNAPSHOT|\d+\.\d+")
_SCOPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}(?:/[A-Za-z0-9][A-Za-z0-9_-]{0,31})?")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/@-]{0,254}", re.ASCII)
_BRANCH_PATH = re.compile(r"[A-Za-z0-9._/{}-]+")
_REDIS = re.compile(r"rediss?://(?:[^\s@/]*@)?[^\s@/?#]+(?:/[0-9]{1,5})?(?:\?\S*)?|unix://(?:[^\s@/]*@)?/\S+")
_AN_ADDRESS = "an http(s) address like https://mirror.example.org:8443/openwrt, without a user"
PARTNERS: Mapping[str, str] = {
    "idle_expires_after": "idle_deprioritized_after",
    "package_changes_path": "package_changes_url",
    "max_request_line": "max_head_size",
    "signing_public_key": "signing_key",
    "signing_certificate": "signing_key",
    "signing_required": "signing_key",
    "install_signing_key": "signing_key",
    "provenance_public_key": "provenance_key",
    "provenance_builder": "provenance_key",
    "store_options": "store_url",
    "store_redirect": "store_url",
    "form_defaults": "allow_defaults",
    "form_repositories": "repository_allow_list",
    "form_repository_keys": "repository_allow_list",
    "form_for": "repository_allow_list",
    "imagebuilder_keys": "imagebuilder_base",
}
"""Settings that are measured by another; what is wrong is said of the first."""
LINK_FIELDS = ("title", "version", "branch", "target", "subtarget", "profile")
"""What an address of `form_links` may hold in braces, filled in from the device."""
_TEMPLATE_FIELDS: Mapping[str, Sequence[str]] = {
    "imagebuilder_image": ("registry", "subtarget", "tag", "target", "version"),
    "imagebuilder_path": ("subtarget", "target", "version"),
}


def wrong_values(settings: "Settings") -> Iterator[Wrong]:
    """Everything that stops a start."""
    for name, (least, most) in _RANGES.items():
        value = getattr(settings, name)
        what = "a port" if name.endswith("_port") else "a number"
        expected = f"{what} of at least {least}" if most is None else f"{what} from {least} to {most}"
        yield from _unless(value >= least and (most is None or value <= most), name, expected, value)
    line, head = settings.max_request_line, settings.max_head_size
    expected = "at most max_head_size, because the line is part of the head"
    yield from _unless(line <= head, "max_request_line", expected, line)

    for name in ("upstream_url", "package_changes_url", "public_upstream_url"):
        url = getattr(settings, name)
        address = parse_address(url)
        # A user in it would be announced to everybody, and never sent.
        holds = (address is not None and not address.user) or (not url and name != "upstream_url")
        yield from _unless(holds, name, _AN_ADDRESS, url)
    database = settings.database_url
    names_file = database.startswith(SQLITE_URL) and database != SQLITE_URL
    holds = not database or names_file or database.startswith(SERVER_URLS)
    expected = "an address like postgresql://user@host/asu or sqlite:////var/lib/asu/asu.db, or nothing"
    yield from _unless(holds, "database_url", expected, database)
    redirect = settings.store_accel_redirect
    plain = not redirect or _INTERNAL_PATH.fullmatch(redirect)
    yield from _unless(plain, "store_accel_redirect", "a path like /asu-store/, or nothing", redirect)
    expected = "nothing without trusted_proxies: only these are told to send files"
    yield from _unless(not redirect or settings.trusted_proxies, "store_accel_redirect", expected, redirect)
    yield from _wrong_store(settings)
    both = settings.package_changes_path and settings.package_changes_url
    expected = "nothing beside package_changes_url: rules come from one place"
    yield from _unless(not both, "package_changes_path", expected, settings.package_changes_path)
    worker, network = settings.worker_id, settings.build_network
    yield from _unless(NAME.fullmatch(worker), "worker_id", "letters, digits and . _ -", worker)
    yield from _unless(
        NAME.fullmatch(network), "build_network", "proxy, bridge, none or the name of a network", network
    )
    for name in ("new_builds_limit", "look_ups_limit"):
        try:
            holds = all(rate.amount for rate in parse_rates(getattr(settings, name)))
        except ValueError:
            holds = False
        expected = "rates like `20/minute; 100/hour`, or nothing"
        yield from _unless(holds, name, expected, getattr(settings, name))
    for number, host in enumerate(settings.upstream_redirect_hosts):
        address = parse_address(f"http://{host}")
        holds = address is not None and not address.path and not address.user
        expected = "a host, like mirror.example.org:8080"
        yield from _unless(holds, f"upstream_redirect_hosts[{number}]", expected, host)
    for name, allowed in _TEMPLATE_FIELDS.items():
        expected = f"a template with none but {', '.join(f'{{{field}}}' for field in allowed)}"
        template = getattr(settings, name)
        yield from _unless(_takes(template, *allowed), name, expected, template)

    for name in _ABOVE_ZERO:
        length = getattr(settings, name)
        expected = "a duration above zero, like 10m"
        yield from _unless(length > timedelta(0), name, expected, write_duration(length))
    deprioritized, expires = settings.idle_deprioritized_after, settings.idle_expires_after
    expected = f"a duration longer than idle_deprioritized_after ({write_duration(deprioritized)})"
    yield from _unless(expires > deprioritized, "idle_expires_after", expected, write_duration(expires))
    url = settings.redis_url
    expected = (
        "an address like redis://:password@redis.example.org:6379/0, rediss://… or unix:///…, or nothing"
    )
    yield from _unless(not url or _REDIS.fullmatch(url), "redis_url", expected, url)
    yield from _wrong_signing(settings)
    yield from _wrong_entries(settings)
    yield from _wrong_form(settings)


def _wrong_store(settings: "Settings") -> Iterator[Wrong]:
    """The same of object storage. Values of its options may be keys, and are not repeated."""
    url, options = settings.store_url, settings.store_options
    expected = (
        "s3://bucket/prefix, gs://bucket/prefix or az://container/prefix, or nothing: then images lie in "
        "public_path"
    )
    is_bucket = _BUCKET.fullmatch(url)
    yield from _unless(is_bucket or not url, "store_url", expected, url)
    for name in ("store_redirect", "store_options"):
        expected = "nothing without store_url" if name == "store_options" else "false without store_url"
        yield from _unless(url or not getattr(settings, name), name, expected, getattr(settings, name))
    expected = "nothing beside store_url: a proxy has no file to send"
    redirect = settings.store_accel_redirect
    yield from _unless(not (url and redirect), "store_accel_redirect", expected, redirect)
    known = STORE_OPTIONS.get(url.partition("://")[0], ())
    for name, value in options.items() if is_bucket else ():
        if name not in known:
            yield Wrong(f"store_options.{name}", f"there is no such option; possible are {', '.join(known)}")
        elif name == "endpoint":
            # An address with a user would not be sent.
            address = parse_address(value)
            holds = address is not None and not address.user
            yield from _unless(holds, "store_options.endpoint", "an http(s) address without a user", value)
        elif name in _YES_OR_NO:
            yield from _unless(
                value in ("true", "false"), f"store_options.{name}", '"true" or "false"', value
            )


def _wrong_signing(settings: "Settings") -> Iterator[Wrong]:
    """The same of what signs. A key's own value may hold a secret of its program."""
    for use in ("signing", "provenance"):
        key, public = getattr(settings, f"{use}_key"), getattr(settings, f"{use}_public_key")
        kind, _, value = key.partition(":")
        words = value.strip()
        if kind == "exec":
            import shlex  # only where a program signs

            try:
                words = " ".join(shlex.split(value))
            except ValueError:
                words = ""
        expected = "`file:` with a path or `exec:` with a command, or nothing"
        holds = not key or (kind in ("file", "exec") and words)
        yield from _unless(holds, f"{use}_key", expected, "")
        expected = "the path of the public key beside `exec:` or without a key, and nothing beside `file:`"
        fits = not holds or kind == "" or bool(public) == (kind == "exec")
        yield from _unless(fits, f"{use}_public_key", expected, public)
    builder = settings.provenance_builder
    if settings.provenance_key:
        address = parse_address(builder)
        holds = address is not None and not address.user
        expected = "the address of this server that everybody knows, like https://asu.example.org"
    else:
        holds = not builder or bool(settings.provenance_public_key)
        expected = "nothing without provenance_key"
    yield from _unless(holds, "provenance_builder", expected, builder)
    signs = settings.signing_key or settings.signing_public_key
    states = settings.provenance_key or settings.provenance_public_key
    for name, needed, expected in (
        ("signing_certificate", signs, "nothing without signing_key"),
        ("install_signing_key", signs, "false without signing_key"),
        ("signing_required", signs or states, "false without signing_key or provenance_key"),
    ):
        chosen = getattr(settings, name)
        yield from _unless(not chosen or needed, name, expected, chosen)


def _wrong_entries(settings: "Settings") -> Iterator[Wrong]:
    """The same of settings with several entries."""
    names: set[str] = set()
    digests: set[str] = set()
    for number, token in enumerate(settings.api_tokens):
        entry, name, digest = f"api_tokens[{number}]", token["name"], token["digest"]
        yield from _unless(NAME.fullmatch(name), f"{entry}.name", "a name of letters, digits and . _ -", name)
        yield from _unless(name not in names, f"{entry}.name", "a name that no other token has", name)
        expected = "the SHA-256 of the token as 64 hexadecimal digits; `asu-builder token NAME` prints it"
        yield from _unless(_DIGEST.fullmatch(digest), f"{entry}.digest", expected, digest)
        yield from _unless(digest not in digests, f"{entry}.digest", "another token for each name", digest)
        names.add(name)
        digests.add(digest)
    if settings.trusted_proxies:
        import ipaddress  # only where a proxy is trusted

        for number, network in enumerate(settings.trusted_proxies):
            try:
                ipaddress.ip_network(network)
            except ValueError:
                expected = "an address or a network like 10.0.0.0/8"
                yield expectation(f"trusted_proxies[{number}]", expected, network)
    if settings.repository_allow_list:
        from asu_builder.domain.repositories import is_allow_list_entry  # most servers allow none

        expected = "an http(s) address, without * and ; and with nothing to decode"
        for number, url in enumerate(settings.repository_allow_list):
            yield from _unless(is_allow_list_entry(url), f"repository_allow_list[{number}]", expected, url)
    for line, key in settings.imagebuilder_keys.items():
        name = f"imagebuilder_keys.{line}"
        yield from _unless(_BRANCH.fullmatch(line), name, "a name like 24.10 or SNAPSHOT", line)
        yield from _unless(key.strip(), name, "a public key of usign, or the path of its file", key)
    keys, base = settings.imagebuilder_keys, settings.imagebuilder_base
    expected = "nothing without imagebuilder_base, the container image that archives are unpacked in"
    yield from _unless(base or not keys, "imagebuilder_keys", expected, keys)
    expected = "the name of a container image, or nothing"
    yield from _unless(not base or _IMAGE.fullmatch(base), "imagebuilder_base", expected, base)
    for name, branch in settings.branches.items():
        yield from _unless(_BRANCH.fullmatch(name), f"branches.{name}", "a name like 24.10 or SNAPSHOT", name)
        path = branch.get("path", "x")
        holds = (
            _BRANCH_PATH.fullmatch(path) and ".." not in path and path[0] != "/" and _takes(path, "version")
        )
        yield from _unless(holds, f"branches.{name}.path", "a relative path, with {version} or without", path)


def _wrong_form(settings: "Settings") -> Iterator[Wrong]:
    """The same of what the form offers."""
    everywhere = {
        "packages": settings.form_packages,
        "suggestions": settings.form_suggestions,
        "repositories": settings.form_repositories,
        "defaults": settings.form_defaults,
        "links": settings.form_links,
    }
    yield from _wrong_offer(settings, "form_", everywhere)
    for name, offer in settings.form_for.items():
        expected = "a branch, a version, a target or a profile, like ath79/tiny"
        yield from _unless(_SCOPE.fullmatch(name), f"form_for.{name}", expected, name)
        yield from _wrong_offer(settings, f"form_for.{name}.", offer)
    if keys := settings.form_repository_keys:
        from asu_builder.domain.errors import RequestRejected
        from asu_builder.domain.repositories import key_files, split_keys

        expected = "nothing without repository_allow_list"
        yield from _unless(settings.repository_allow_list, "form_repository_keys", expected, "keys")
        try:
            key_files(split_keys(keys))
        except RequestRejected:
            expected = "public keys (PEM or usign) with an empty line between two"
            yield expectation("form_repository_keys", expected, keys)


def _wrong_offer(settings: "Settings", prefix: str, offer: Mapping[str, Any]) -> Iterator[Wrong]:
    """The same of what one entry offers."""
    from asu_builder.domain.request import PACKAGE

    suggestions: Mapping[str, Sequence[str]] = offer.get("suggestions", {})
    named = {f"{prefix}suggestions.{group}": names for group, names in suggestions.items()}
    for entry, names in {f"{prefix}packages": offer.get("packages", ()), **named}.items():
        for number, name in enumerate(names):
            yield from _unless(PACKAGE.fullmatch(name), f"{entry}[{number}]", "a package name", name)
    script, most = offer.get("defaults", ""), settings.max_defaults_length
    expected = f"at most {most} characters with allow_defaults, else nothing"
    fits = not script or (settings.allow_defaults and len(script) <= most)
    yield from _unless(fits, f"{prefix}defaults", expected, script)
    for title, url in offer.get("links", {}).items():
        expected = f"an http(s) address with none but {', '.join(f'{{{field}}}' for field in LINK_FIELDS)}"
        address = url.startswith(("http://", "https://")) and _takes(url, *LINK_FIELDS)
        yield from _unless(not url or address, f"{prefix}links.{title}", expected, url)
    if repositories := {name: url for name, url in offer.get("repositories", {}).items() if url}:
        from asu_builder.domain.repositories import is_offered

        for name, url in repositories.items():
            expected = (
                "an address that repository_allow_list allows, under a name of letters, digits and . _ -"
            )
            holds = NAME.fullmatch(name) and is_offered(url, settings.repository_allow_list)
            yield from _unless(holds, f"{prefix}repositories.{name}", expected, url)


def _unless(holds: object, name: str, expected: str, given: object) -> Iterator[Wrong]:
    if not holds:
        yield expectation(name, expected, given)


def _takes(template: str, *names: str) -> bool:
    """Whether the template has no fields but these."""
    try:
        template.format(**dict.fromkeys(names, "x"))
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        return False
    return True
