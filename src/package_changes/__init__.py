"""Package changes: the rules that adapt a package list to a version, target and profile.

`rules` is the way in and pure; `watch` keeps a file's rules current; `service` answers over HTTP.
Nothing here knows the program that uses it.
"""
