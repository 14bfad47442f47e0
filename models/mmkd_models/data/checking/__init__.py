"""The check of a dataset and the description of its content."""
