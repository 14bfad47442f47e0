"""The page of a fleet: many benchmark runs of several devices, grouped."""
