"""Engines for artifacts: one file each, and one table."""
