"""The words LuCI's page has for what a build is doing."""

STEPS = {
    "init": "Received build request",
    "container_setup": "Setting up ImageBuilder",
    "download_imagebuilder": "Downloading ImageBuilder archive",
    "unpack_imagebuilder": "Unpacking ImageBuilder",
    "validate_revision": "Validating revision",
    "validate_manifest": "Validating package selection",
    "calculate_packages_hash": "Calculate package hash",
    "building_image": "Generating firmware image",
    "signing_images": "Signing images",
    "done": "Completed",
    "failed": "Failed",
}
"""The page indexes its table of steps with whatever it is told."""
STEPS_OF_23_05 = {
    name: STEPS[name]
    for name in (
        "init",
        "download_imagebuilder",
        "unpack_imagebuilder",
        "calculate_packages_hash",
        "building_image",
    )
}
