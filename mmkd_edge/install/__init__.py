"""Keys, installed bundles, and checks of new bundles."""
