"""How a predictor does: drift, counters, timing, and which bundle answers."""
