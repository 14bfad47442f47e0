"""Faults of sensors: what a broken sensor would have given, by kind, and their one table."""
