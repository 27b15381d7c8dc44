"""Where published images lie."""
