"""From a bundle to opened students: verify, choose a config, load, self-test, swap."""
