"""What is wrong with an installation, and what to do: `asu-builder doctor`, and the banner of a start.

It may know every adapter, and changes nothing: no directory, no database, no container stays.
"""
