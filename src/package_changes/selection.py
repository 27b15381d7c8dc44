"""Rules and a context in, a selection out. Pure.

The order of steps makes applying twice the same as applying once: what is gone leaves, old names
become new ones in place, new names that are gone leave too, additions go to the end, and last come
the removals of `diff_packages`, in front and sorted.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from package_changes.model import Applied, Context, NamePattern, Rule, Selection


@dataclass(slots=True)
class _Trace:
    """What one rule has done so far."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)


class Draft:
    """A selection in the making; `entries` is an ordered set."""

    def __init__(self, rules: Sequence[Rule], context: Context, warnings: Sequence[str]) -> None:
        """All `rules` hold for the version, target and profile of the context."""
        self._context = context
        self._asked = dict.fromkeys(context.packages)
        self._entries = dict(self._asked)
        starred = [
            pattern.prefix
            for rule in rules
            for pattern in (*rule.requested, *rule.remove, *(rename.source for rename in rule.rename))
            if pattern.suffix is not None
        ]
        # The few entries that a pattern with a star could match: looking at all costs too much.
        prefixes = tuple({sign + prefix for prefix in starred for sign in ("", "-")})
        self._families = [entry for entry in self._entries if entry.startswith(prefixes)]
        self._traces: defaultdict[str, _Trace] = defaultdict(_Trace)
        self._warnings = list(warnings)
        running = context.from_revision
        # Rules whose package is asked for, and whose change is still ahead of the device. A mandatory
        # rule is applied however new the running revision is.
        self._rules = [
            rule
            for rule in rules
            if (not rule.requested or any(self._matching(pattern) for pattern in rule.requested))
            and (
                rule.mandatory
                or rule.from_revision is None
                or running is None
                or running < rule.from_revision
            )
        ]

    def select(self) -> Selection:
        """What the rules make of the request."""
        self._remove()
        if self._rename():
            self._remove()
        for rule in self._rules:
            for name in rule.add:
                if f"-{name}" in self._entries:
                    if not rule.mandatory:
                        continue
                    del self._entries[f"-{name}"]
                    self._warnings.append(
                        f"{name} was kept although the request removes it: this device needs it ({rule.why})"
                    )
                if name not in self._entries:
                    self._entries[name] = None
                    self._traces[rule.name].added.append(name)
        missing: tuple[str, ...] = ()
        dropped: set[str] = set()
        if self._context.diff_packages:
            missing = self._missing_defaults()
            # A profile's own removals are no defaults.
            defaults = (name for name in self._context.default_packages if name[:1] != "-")
            dropped = {f"-{name}" for name in defaults if name not in self._entries} - self._entries.keys()
        return Selection(
            packages=(*sorted(dropped), *self._entries),
            applied=tuple(
                Applied(rule.name, rule.why, tuple(trace.added), tuple(trace.removed), trace.renamed)
                for rule in self._rules
                if (trace := self._traces.get(rule.name))
            ),
            warnings=tuple(self._warnings),
            missing_defaults=missing,
            released=frozenset(name for name in self._asked if name not in self._entries),
        )

    def _matching(self, pattern: NamePattern, sign: str = "") -> list[str]:
        """The entries a pattern matches, in their order; with `sign` the removals of such packages."""
        if pattern.suffix is None:
            entry = sign + pattern.prefix
            return [entry] if entry in self._entries else []
        return [
            entry
            for entry in self._families
            if entry.startswith(sign) and pattern.matches(entry[len(sign) :]) and entry in self._entries
        ]

    def _remove(self) -> None:
        for rule in self._rules:
            for pattern in rule.remove:
                for name in self._matching(pattern):
                    del self._entries[name]
                    self._traces[rule.name].removed.append(name)

    def _rename(self) -> bool:
        """Whether anything has a new name. Packages come first: no removal may undo one of them."""
        renamed = False
        for sign in ("", "-"):
            hits = [
                (rule, rename, entry)
                for rule in self._rules
                for rename in rule.rename
                for entry in self._matching(rename.source, sign)
            ]
            defaults = frozenset(self._context.default_packages if sign and hits else ())
            names = {}
            for rule, rename, entry in hits:
                old = entry.removeprefix(sign)
                new = rename.of(old)
                if sign:
                    # A default that has the old name exists under it, and is meant.
                    if new in self._entries or old in defaults:
                        continue
                elif f"-{new}" in self._entries:
                    self._warnings.append(
                        f"{old} is called {new} now, but the request removes {new}: left as it is"
                    )
                    continue
                names[entry] = self._traces[rule.name].renamed[entry] = sign + new
            if not names:
                continue
            renamed = True
            # New names take the place of old ones; one that is there already keeps its own place.
            before, self._entries = self._entries, {}
            for entry in before:
                if entry not in names:
                    self._entries[entry] = None
                elif names[entry] not in before:
                    self._entries[names[entry]] = None
            self._families = list(dict.fromkeys((*self._families, *names.values())))
        return renamed

    def _missing_defaults(self) -> tuple[str, ...]:
        """Defaults that are new since the running version, which the caller therefore could not name."""
        defaults = dict.fromkeys(self._context.default_packages)
        renamed = {new for trace in self._traces.values() for new in trace.renamed.values()}
        absent = [
            name
            for name in defaults
            if name not in self._asked
            and name[:1] != "-"
            and f"-{name}" not in self._asked
            and f"-{name}" not in defaults
            and renamed.isdisjoint((name, f"-{name}"))
        ]
        if not absent:
            return ()
        if self._context.from_defaults is None:
            self._warnings.append(
                "The default packages of the running version are not known: whether the defaults that this "
                "request leaves out are new could not be checked"
            )
            return ()
        # By their old and new names: who dropped the old one has dropped the new one.
        before = set(self._context.from_defaults)
        new: set[str] = set()
        for rename in (rename for rule in self._rules for rename in rule.rename):
            if rename.source.suffix is not None:
                new.update(rename.of(name) for name in before if rename.source.matches(name))
            elif rename.source.prefix in before:
                new.add(str(rename.target))
        return tuple(name for name in absent if name not in before and name not in new)
