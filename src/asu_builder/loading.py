"""One lock for every library that is loaded late."""

from threading import RLock

LOADING = RLock()
"""Held while a library is imported off the way to the first answer.

Background work begins in many threads at once. Python locks each module by itself, and two threads
that import modules which import each other (`importlib.abc` and `importlib.resources` do) then stop
each other with a deadlock error and leave one of them half loaded.
"""
