"""The only way out of a build: a process that fetches for it, and how the service starts it."""
