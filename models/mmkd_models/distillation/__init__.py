"""How a student learns from teachers."""
