"""Figures of what the service costs: `python -m bench` (docs/performance.md)."""
