"""Keys, installed bundles, and the checks that a new bundle passes on this machine."""
