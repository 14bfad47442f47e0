"""Checks and description of a dataset."""
