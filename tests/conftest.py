"""Fixtures that several kinds of tests share."""

pytest_plugins = ["podman_service"]
