"""What the machine is, what it draws, and what disturbed it."""
