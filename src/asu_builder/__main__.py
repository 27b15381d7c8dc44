"""`python -m asu_builder` is `asu-builder`."""

from asu_builder.cli import main

main()
