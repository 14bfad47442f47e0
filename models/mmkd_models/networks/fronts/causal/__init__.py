"""What causal students see of a series, of sound and of video."""
