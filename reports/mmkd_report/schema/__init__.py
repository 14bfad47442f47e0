"""The schema of every JSON document."""
