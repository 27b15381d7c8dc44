"""Where builds run: in Podman containers or in copies of an ImageBuilder on this host."""
