"""What apk or opkg would do with a selection, foretold from their indexes beside the service."""

from collections.abc import Sequence

from asu_builder.domain.preflight import Foretold, PackageIndexes
from asu_builder.loading import Late
from asu_builder.ports import PackageResolver


def _make_resolver() -> PackageResolver:
    from asu_builder.resolver.child import ChildResolver  # a start needs none of it

    return ChildResolver()


class LateResolver:
    """The resolver, loaded by the first question."""

    def __init__(self) -> None:
        self._resolver = Late(_make_resolver)

    def resolve(self, known: PackageIndexes, names: Sequence[str]) -> Foretold:
        """What is installed for these names, or why nothing can be."""
        return self._resolver().resolve(known, names)

    def close(self) -> None:
        """Ends what runs for it."""
        if self._resolver.value is not None:
            self._resolver.value.close()
