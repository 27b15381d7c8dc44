"""What `make help` prints."""

HELP = """\
Available Commands:
	help:	This help text
	info:	Show a list of available target profiles
	clean:	Remove images and temporary build files
	image:	Build an image (see below for more information).
	manifest: Show all package that will be installed into the image
	package_whatdepends: Show which packages have a dependency on this
	package_depends: Show installation dependency of the package

Building images:
	By default 'make image' will create an image with the default
	target profile and package set. You can use the following parameters
	to change that:

	make image PROFILE="<profilename>" # override the default target profile
	make image PACKAGES="<pkg1> [<pkg2> [<pkg3> ...]]" # include extra packages
	make image FILES="<path>" # include extra files from <path>
	make image BIN_DIR="<path>" # alternative output directory
	make image EXTRA_IMAGE_NAME="<string>" # add this to the file names
	make image DISABLED_SERVICES="<svc1> [<svc2>]" # disable these services
	make image ADD_LOCAL_KEY=1 # store the local signing key in images
	make image ROOTFS_PARTSIZE="<size>" # root partition size in MegaBytes

This is the sample ImageBuilder of ASU Builder. Its images flash nothing."""
