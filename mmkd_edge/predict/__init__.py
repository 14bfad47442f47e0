"""A window becomes a prediction: the four calls, and what is decided around them."""
