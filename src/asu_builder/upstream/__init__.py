"""The download server: its documents, fetched, remembered and understood."""
