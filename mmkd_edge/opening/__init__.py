"""A bundle is opened: every student in the best way that opens here. The one place that times engines at start."""
