"""What the program does, in its own words; the world is reached through `ports`."""
