"""The plan of windows: where each starts, what it is of, and who sees it."""
