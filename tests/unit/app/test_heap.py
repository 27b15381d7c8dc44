import subprocess
import sys

import pytest

_BURST = """
from pathlib import Path
from asu_builder.app.background import give_back_memory

def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

# Larger than what Python's own allocator takes, and a few that stay in between.
burst = [bytearray(2000) for _ in range(20_000)]
stay = burst[::200]
del burst
before = resident()
give_back_memory()
print(before - resident())
"""

_THREADS = """
import ctypes, threading
from asu_builder.app.background import use_one_heap
use_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
found = []
threads = [threading.Thread(target=lambda: found.append(libc.malloc(5000))) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
heap = next(line for line in open("/proc/self/maps") if "[heap]" in line).split()[0]
first, last = (int(address, 16) for address in heap.split("-"))
print(sum(first <= address < last for address in found))
"""


def output_of(program: str) -> str:
    """What a Python of its own prints."""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return ended.stdout.strip()


@pytest.mark.process
def test_what_a_burst_has_freed_goes_back_to_the_system() -> None:
    assert int(output_of(_BURST)) > 20_000, "kilobytes, of forty thousand"


@pytest.mark.process
def test_all_threads_share_one_heap() -> None:
    assert output_of(_THREADS) == "4"
