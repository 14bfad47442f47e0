"""The page of benchmark runs."""
