"""The report of a dataset before training: facts, probes and findings."""
