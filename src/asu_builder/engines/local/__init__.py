"""Builds on this host, in a sandbox, without a container engine."""
