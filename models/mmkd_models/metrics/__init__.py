"""Figures of answers: which there are for each kind of task, and how they are computed."""
