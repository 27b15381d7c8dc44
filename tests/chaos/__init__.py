"""Real builds while everything around them breaks: no request may be lost, none built twice.

Run with `make chaos`; `docs/chaos.md` says what it does and what its counts mean.
"""
