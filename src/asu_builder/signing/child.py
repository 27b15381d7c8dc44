"""The process that holds a key while it signs.

Python cannot wipe what it has read. So the service reads no secret half: a separate process does, into which
nobody can look and which ends when there is nothing more to sign (docs/decisions/the-key-stays-outside.md).
It imports little, because it is started for each build.
"""

import ctypes
import os
import resource
import select

from asu_builder.signing import usign

_PR_SET_DUMPABLE = 4
_MOST_ASKED = 4096


def protect_memory() -> None:
    """From now on nothing of this process is in a core dump, and no other process can read it but root's."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def main(idle_seconds: float) -> None:
    """Signs what is asked for on standard input, until that ends or nothing comes for so long.

    A line names the files of a key and of a message, in hexadecimal digits. Its answer is a line too: the
    signature and the public half of the key that made it, in such digits, or `-` and what is wrong.
    """
    protect_memory()
    key: usign.SecretKey | None = None
    waiting = b""
    while True:
        while b"\n" not in waiting:
            if not select.select([0], [], [], idle_seconds)[0] or not (part := os.read(0, _MOST_ASKED)):
                return
            waiting += part
        line, _, waiting = waiting.partition(b"\n")
        key_file, message = (os.fsdecode(bytes.fromhex(word)) for word in line.decode().split())
        try:
            key = key or usign.read_secret_key(key_file)
            with usign.mapped(message) as content:
                answer = f"{key.sign(content).raw.hex()} {key.public.key_id}{key.public.raw.hex()}"
        except usign.BadKey as bad:
            answer = f"- {bad}"
        except (OSError, ValueError) as problem:  # an empty file has no map
            answer = f"- {message!a} cannot be read: {getattr(problem, 'strerror', problem)}"
        os.write(1, f"{answer}\n".encode())
