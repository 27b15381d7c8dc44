"""What nodes share and can lose."""
