"""Health of a predictor: drift, counters, timing, and hot swap."""
