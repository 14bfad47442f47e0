"""What a data engineer looks at before training: facts, probes and findings of a dataset."""
