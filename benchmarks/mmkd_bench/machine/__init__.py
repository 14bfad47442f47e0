"""Facts, power and disturbances of the machine."""
