"""What a data engineer looks at before training: facts, probes and suspicions of a dataset."""
