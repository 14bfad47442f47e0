"""Clocks of sensors, and resampling."""
