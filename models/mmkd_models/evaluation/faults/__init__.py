"""Sensor faults: their effects, and one table."""
