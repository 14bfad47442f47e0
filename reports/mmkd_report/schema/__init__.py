"""The schema of every JSON document, and how one is read."""
