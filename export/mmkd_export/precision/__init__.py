"""FP16 and INT8 graphs, and remedies for INT8."""
