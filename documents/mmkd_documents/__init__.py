"""Schemas of all JSON documents, and the root of errors; imports nothing of the other packages."""
