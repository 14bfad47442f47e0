"""Comparison of artifacts with their checkpoint: windows, answers, gates."""
