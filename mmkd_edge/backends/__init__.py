"""What executes an artifact: one file an engine, and one table of them all."""
