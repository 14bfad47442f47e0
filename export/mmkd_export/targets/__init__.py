"""Export targets: platforms, engines and other file formats."""
