"""The report of a dataset before training."""
