"""What one build may use. Constants of the runtimes, never a choice of a caller."""

from msgspec import Struct

_MIB = 1 << 20
_GIB = 1 << 30


class Limits(Struct, frozen=True):
    """Sizes are in bytes. Only tests construct one with other numbers."""

    memory: int = 2 * _GIB
    """All processes together; no swap beyond it."""
    cpus: float = 2.0
    processes: int = 1024
    open_files: int = 4096
    file_size: int = 2 * _GIB
    """Of any single file."""
    disk: int = 4 * _GIB
    """Written on top of the ImageBuilder, looked at every few seconds: it can be overshot."""
    log: int = 16 * _MIB
    """Kept of each output stream of one command; the rest is dropped."""
    collected_files: int = 128
    collected_size: int = 2 * _GIB
    """Of everything that is taken out of one container."""
    text: int = _MIB
    """Of a file that is read as text."""
