"""Adaptation of a student to a new machine, person or campaign."""
