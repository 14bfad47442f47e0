"""What is wrong with a dataset, and what is in it."""
