"""Recordings in other forms become dataset directories."""
