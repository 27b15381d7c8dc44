"""What the service reads and answers, as it goes over HTTP."""

import re
from collections.abc import Collection, Mapping
from typing import Annotated

import msgspec

from package_changes.model import Applied, ClientChange, Context, Rule, Selection
from package_changes.rules import Rules
from package_changes.watch import RulesFile

MAX_PACKAGES = 3000
MAX_BODY = 1 << 20
"""Bytes."""

_NAMES = re.compile(r"(?:-?[A-Za-z0-9][A-Za-z0-9._+-]*\n)*", re.ASCII)
_DEFAULT_NAMES = re.compile(r"(?:-?~?[A-Za-z0-9][A-Za-z0-9._+-]*\n)*", re.ASCII)
"""Those of upstream: `~` stands before what is built for a device and not installed."""
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Names = Annotated[
    tuple[str, ...],
    msgspec.Meta(max_length=MAX_PACKAGES, description="Package names; -name removes one"),
]


class Malformed(Exception):
    """A body that cannot be meant; the sentence begins with the field's name."""


class ApplyBody(msgspec.Struct, frozen=True):
    """A package list, and what it is for; unknown keys are ignored."""

    version: Annotated[_Name, msgspec.Meta(examples=["25.12.0"])]
    target: Annotated[_Name, msgspec.Meta(examples=["mvebu/cortexa9"])]
    profile: Annotated[_Name, msgspec.Meta(examples=["linksys_wrt3200acm"])]
    packages: _Names = ()
    default_packages: _Names = ()
    diff_packages: bool = False
    from_version: _Name | None = None
    from_defaults: _Names | None = None
    from_revision: int | None = None


class AppliedDocument(msgspec.Struct, frozen=True):
    """What the rules make of it; `rules_digest` names all rules, `matching_digest` those that hold here."""

    packages: tuple[str, ...]
    applied: tuple[Applied, ...]
    warnings: tuple[str, ...]
    missing_defaults: tuple[str, ...]
    released: tuple[str, ...]
    rules_digest: str
    matching_digest: str


class HealthDocument(msgspec.Struct, frozen=True):
    """Which rules are in use; degraded while the file cannot be used and older rules stand in."""

    status: str
    rules: int
    source: str
    loaded_at: str
    digest: str
    problem: str | None


class RuleDocument(msgspec.Struct, frozen=True, rename={"audience": "for"}):
    """A rule; null where it has no condition."""

    name: str
    audience: str
    why: str
    versions: tuple[str, ...] | None
    targets: tuple[str, ...] | None
    profiles: tuple[str, ...] | None
    requested: tuple[str, ...] | None
    from_revision: int | None
    add: tuple[str, ...]
    remove: tuple[str, ...]
    rename: Mapping[str, str]
    mandatory: bool


class RulesDocument(msgspec.Struct, frozen=True):
    """All rules, and the changes that clients are told."""

    source: str
    digest: str
    branches: Mapping[str, int]
    rules: tuple[RuleDocument, ...]
    client_changes: tuple[ClientChange, ...]


class Problem(msgspec.Struct, frozen=True):
    """Every error."""

    status: int
    title: str
    detail: str


_DECODER = msgspec.json.Decoder(ApplyBody)
_AT = re.compile(r"(.*) - at `(?:key in )?\$\.?([^`\[]*)[^`]*`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")


def parse_body(body: bytes) -> Context:
    """The context that a body describes; `Malformed` names the field that is wrong."""
    try:
        sent = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise Malformed(_explain(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"body: expected a JSON object; {error}") from error
    _require_names("packages", sent.packages)
    _require_names("default_packages", sent.default_packages, _DEFAULT_NAMES)
    _require_names("from_defaults", sent.from_defaults or (), _DEFAULT_NAMES)
    return Context(
        version=sent.version,
        target=sent.target,
        # Devices report their name with a comma behind the vendor.
        profile=sent.profile.replace(",", "_"),
        packages=sent.packages,
        default_packages=sent.default_packages,
        diff_packages=sent.diff_packages,
        from_version=sent.from_version,
        from_defaults=sent.from_defaults,
        from_revision=sent.from_revision,
    )


def _explain(error: str) -> str:
    if match := _MISSING.search(error):
        return f"{match[1]}: is missing"
    if match := _AT.fullmatch(error):
        return f"{match[2] or 'body'}: {match[1][:1].lower()}{match[1][1:]}"
    return f"body: {error}"


def _require_names(field: str, names: Collection[str], allowed: re.Pattern[str] = _NAMES) -> None:
    """One match over all names joined is several times faster than one by one."""
    joined = "".join([f"{name}\n" for name in names])
    # A name with a line break of its own would pass as two.
    if allowed.fullmatch(joined) is None or joined.count("\n") != len(names):
        raise Malformed(
            f"{field}: expected package names of letters, digits and . _ + - (a - in front removes)"
        )


def render_selection(selection: Selection, rules: Rules, context: Context) -> AppliedDocument:
    """The answer to POST /apply."""
    return AppliedDocument(
        packages=selection.packages,
        applied=selection.applied,
        warnings=selection.warnings,
        missing_defaults=selection.missing_defaults,
        released=tuple(sorted(selection.released)),
        rules_digest=rules.digest,
        matching_digest=rules.matching_digest(context.version, context.target, context.profile),
    )


def render_health(file: RulesFile) -> HealthDocument:
    """The answer to GET /health."""
    rules = file.current()
    return HealthDocument(
        status="degraded" if file.problem else "ok",
        rules=rules.count,
        source=rules.source,
        loaded_at=file.loaded_at.isoformat(timespec="seconds"),
        digest=rules.digest,
        problem=file.problem,
    )


def render_rules(rules: Rules) -> RulesDocument:
    """The answer to GET /rules."""
    return RulesDocument(
        source=rules.source,
        digest=rules.digest,
        branches=rules.branches,
        rules=tuple(_render_rule(rule) for rule in rules),
        client_changes=rules.client_changes(),
    )


def _render_rule(rule: Rule) -> RuleDocument:
    return RuleDocument(
        name=rule.name,
        audience=rule.audience,
        why=rule.why,
        versions=rule.versions or None,
        targets=None if rule.targets is None else tuple(sorted(rule.targets)),
        profiles=None if rule.profiles is None else tuple(sorted(rule.profiles)),
        requested=tuple(map(str, rule.requested)) or None,
        from_revision=rule.from_revision,
        add=rule.add,
        remove=tuple(map(str, rule.remove)),
        rename={str(rename.source): str(rename.target) for rename in rule.rename},
        mandatory=rule.mandatory,
    )
