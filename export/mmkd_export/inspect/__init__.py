"""What is in a file and what a machine has. Makes nothing."""
