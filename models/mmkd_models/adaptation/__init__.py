"""Adaptation of a trained student to a new machine, person or campaign; what gets no better is not written."""
