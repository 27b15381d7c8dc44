"""Which tests one worker runs, because they share something started: found by their names alone."""

import re

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

_FOLDERS = ("browser", "packaging")
"""One browser, and one folder `dist`, for all tests of the folder."""
_RIG = re.compile(r"\[(podman|bubblewrap|plain|fake)\b")


def group_of(name: str) -> str:
    """The group of a test by its node id: its module, unless its folder or its runtime says otherwise.

    Many modules start services of their own. For the others, handing out whole modules costs less than
    handing out thousands of tests.
    """
    path, _, test = name.partition("::")
    inner = path.removeprefix("tests/")
    if (folder := inner.partition("/")[0]) in _FOLDERS:
        return folder
    if inner.startswith("contract/") and (rig := _RIG.search(test)):
        return f"{path} {rig[1]}"
    return path


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker whole groups.

    pytest-xdist 3.8 has `--dist loadgroup`, but it renames tests to do so, which pytest 9.2 prevents.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
