"""How figures and measures are written."""
