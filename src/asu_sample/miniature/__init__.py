"""A miniature ImageBuilder of our own: THE IMAGES IT MAKES FLASH NOTHING.

These modules are copied into the directory of every sample ImageBuilder and started by its Makefile with
whatever CPython (3.9 or newer) is there, so they use the standard library only and import each other
relatively. Shapes of texts, exit codes and files follow OpenWrt's ImageBuilder; all content is made up.
"""

MARKER = "ASU-BUILDER-SAMPLE: this image flashes nothing"
