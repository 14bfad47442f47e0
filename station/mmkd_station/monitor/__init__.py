"""The page of a running station."""
