"""The examples in a rules file: a request, and what must come out of it."""

from package_changes.document import Place
from package_changes.model import Context, Example

_KEYS = (
    *("version", "target", "profile", "packages", "default_packages", "diff_packages"),
    *("from_version", "from_defaults", "from_revision", "becomes", "unchanged"),
)


def read_examples(place: Place | None) -> tuple[Example, ...]:
    """A rule's examples; that it has some which fire is checked when they are run."""
    return tuple(_read_example(entry) for entry in (place.entries() if place else ()))


def _read_example(place: Place) -> Example:
    fields = place.fields(_KEYS, required=("version", "packages"))
    packages = _texts(fields["packages"])
    unchanged = "unchanged" in fields and fields["unchanged"].flag()
    if unchanged == ("becomes" in fields):
        raise place.problem("expected either 'becomes' with a list, or 'unchanged: true'")
    context = Context(
        version=fields["version"].text(),
        target=_text(fields.get("target"), "x86/64"),
        profile=_text(fields.get("profile"), "generic"),
        packages=packages,
        default_packages=_texts(fields.get("default_packages")),
        diff_packages="diff_packages" in fields and fields["diff_packages"].flag(),
        from_version=fields["from_version"].text() if "from_version" in fields else None,
        from_defaults=_texts(fields["from_defaults"]) if "from_defaults" in fields else None,
        from_revision=fields["from_revision"].number() if "from_revision" in fields else None,
    )
    becomes = packages if unchanged else _texts(fields["becomes"])
    return Example(place.line, context, becomes, fires=not unchanged)


def _texts(place: Place | None) -> tuple[str, ...]:
    return tuple(entry.text() for entry in (place.entries() if place else ()))


def _text(place: Place | None, otherwise: str) -> str:
    return place.text() if place else otherwise
