"""Package changes: the rules that adapt a package list to a version, target and profile.

`rules` is the way in and pure; `files` reads rules files, watches one and runs its examples.
Nothing here knows the program that uses it.
"""
