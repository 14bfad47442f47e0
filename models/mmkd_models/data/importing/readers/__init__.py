"""Readers of recordings, block by block."""
