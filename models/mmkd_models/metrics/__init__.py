"""Figures of answers for each kind of task."""
