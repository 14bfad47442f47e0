"""How a predictor is doing, and another bundle under load."""
