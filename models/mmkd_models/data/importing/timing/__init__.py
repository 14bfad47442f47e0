"""The clocks of sensors, and samples at the rates of the dataset."""
