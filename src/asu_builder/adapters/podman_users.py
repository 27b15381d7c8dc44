"""The user of an image by number: Podman then need not look the name up at every copy of files.

For a user that an image names, Podman starts four processes of itself in the container's root for each
archive that is put in or taken out, to read `/etc/passwd` and `/etc/group`. That takes longer than
the copying, a tenth of a second each time and half a second on a busy machine.
"""

import re
from collections.abc import Mapping
from threading import Lock
from typing import IO, cast

from asu_builder.adapters import archive
from asu_builder.adapters.podman_calls import ContainerCalls
from asu_builder.adapters.podman_images import Image
from asu_builder.domain.errors import BuildFailed

_PASSWD = "/etc/passwd"
_LONGEST = 1 << 20
_KNOWN = 256
"""Images whose users are remembered; moving tags bring new ones every day."""
_NUMBERS = re.compile(r"[0-9]{1,10}:[0-9]{1,10}")


class Users:
    """What `/etc/passwd` of images says about their users; every thread may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._numbers: dict[str, str] = {}

    def setting(self, image: Image) -> Mapping[str, str]:
        """What a container of this image is created with; nothing as long as the number is not known."""
        numbers = self._numbers.get(image.id, "")
        return {"user": numbers} if numbers else {}

    def learn(self, calls: ContainerCalls, image: Image) -> None:
        """Looks the user up in a container in which nothing was run yet. Raises `EngineUnavailable`.

        Supplementary groups are dropped by it; what a build needs belongs to its user.
        """
        if not image.user or image.id in self._numbers or ":" in image.user:
            return
        numbers = _numbers(_passwd(calls), image.user)
        with self._lock:
            if len(self._numbers) >= _KNOWN:
                del self._numbers[next(iter(self._numbers))]
            self._numbers[image.id] = numbers


def _passwd(calls: ContainerCalls) -> str:
    """Empty where it cannot be had: then the name is used as before."""
    with calls.archive(_PASSWD) as stream:
        if stream.begin() != 200:
            return ""
        try:
            return archive.read_one(cast(IO[bytes], stream), limit=_LONGEST).decode(errors="replace")
        except BuildFailed:
            return ""


def _numbers(passwd: str, user: str) -> str:
    """`uid:gid` of a user given by name or number; empty when it is not there as Podman would find it."""
    found = re.search(
        rf"^(?:{re.escape(user)}:[^:\n]*+:([0-9]*+)|[^:\n]*+:[^:\n]*+:({re.escape(user)})):([0-9]*+):",
        passwd,
        re.MULTILINE,
    )
    numbers = f"{found[1] or found[2]}:{found[3]}" if found else ""
    return numbers if _NUMBERS.fullmatch(numbers) else ""
