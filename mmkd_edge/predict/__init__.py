"""From a window to a prediction."""
