"""The page of a running station: what it sees, how it looks, and who may look and touch."""
