"""ASU Builder: an attended sysupgrade server that is HTTP API and build workers in one process."""

__version__ = "0.1.0"
