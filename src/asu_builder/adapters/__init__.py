"""How the outside world is really reached: SQLite, Podman, the disk, the download server."""
