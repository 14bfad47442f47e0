"""Artifacts against their checkpoint: windows, answers, gates."""
