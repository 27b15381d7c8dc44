"""The HTTP interface for programs: handler, documents and operations of one subject in one file."""
