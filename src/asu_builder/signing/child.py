"""The process that holds a key while it signs.

Python cannot wipe what it has read. So the service reads no secret half: a separate process does. Other
processes cannot read its memory, and it ends when there is nothing more to sign
(docs/decisions/the-key-stays-outside.md). It imports little, because it is started for each build.
"""

import ctypes
import os
import resource
import select
from typing import TYPE_CHECKING

from asu_builder.signing import usign

if TYPE_CHECKING:
    from asu_builder.signing import pem

_PR_SET_DUMPABLE = 4
_MOST_ASKED = 4096


def protect_memory() -> None:
    """From now on nothing of this process is in a core dump, and no other process can read it but root's."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def main(idle_seconds: float) -> None:
    """Signs what is asked for on standard input, until that ends or nothing comes for so long.

    A line names the kind of a key, its file and, where something is to be signed, the file of a message; both
    in hexadecimal digits. Its answer is a line too: in such digits the text of the public half and the
    signature, or `-` and what is wrong.
    """
    protect_memory()
    key: usign.SecretKey | pem.SecretKey | None = None
    waiting = b""
    while True:
        while b"\n" not in waiting:
            if not select.select([0], [], [], idle_seconds)[0] or not (part := os.read(0, _MOST_ASKED)):
                return
            waiting += part
        line, _, waiting = waiting.partition(b"\n")
        kind, *words = line.decode().split()
        key_file, *messages = (os.fsdecode(bytes.fromhex(word)) for word in words)
        try:
            key = key or _read(kind, key_file)
            answer = key.public.text().encode().hex()
            for message in messages:
                with usign.mapped(message, prefault=True) as content:
                    answer += f" {key.sign(content).raw.hex()}"
        except usign.BadKey as bad:
            answer = f"- {bad}"
        except (OSError, ValueError) as problem:  # an empty file has no map
            answer = (
                f"- {(messages or [key_file])[-1]!a} cannot be read: {getattr(problem, 'strerror', problem)}"
            )
        os.write(1, f"{answer}\n".encode())


def _read(kind: str, path: str) -> "usign.SecretKey | pem.SecretKey":
    if kind == "usign":
        return usign.read_secret_key(path)
    from asu_builder.signing import pem  # with more of a library than the other kind needs

    return pem.read_secret_key(path)
