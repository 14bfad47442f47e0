"""Windows of recordings, with label and split."""
