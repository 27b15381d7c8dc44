"""A made-up OpenWrt world for tests and the demo. ITS IMAGES FLASH NOTHING.

A miniature ImageBuilder, a miniature download server, and a container image made from files of this host.
Shapes of texts and files are OpenWrt's, all content is ours. An image's kernel is one line of text that says
so; no device boots it. The package imports nothing else of asu_builder.
"""
