"""The other side of our HTTP interface: asks a server, follows a build, fetches and verifies images."""
