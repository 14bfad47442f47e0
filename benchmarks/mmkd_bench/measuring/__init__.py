"""The measuring process and its start."""
