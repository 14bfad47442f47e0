"""Graphs of lower precision: FP16, INT8 and the remedies that INT8 may need."""
