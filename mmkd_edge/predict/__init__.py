"""A window becomes a prediction: the four calls and their settings."""
