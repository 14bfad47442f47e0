"""Experiments: trainings in a folder, each made once, by several commands at a time."""
