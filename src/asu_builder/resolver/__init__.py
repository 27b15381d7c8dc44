"""What apk or opkg would do with a selection, foretold from their indexes beside the service."""
