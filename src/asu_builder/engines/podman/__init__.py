"""Builds in Podman containers, through the official bindings."""
