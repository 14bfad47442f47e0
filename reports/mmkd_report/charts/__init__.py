"""The geometry of figures."""
