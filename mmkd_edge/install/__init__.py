"""What is trusted on this machine, and why: verdicts over bundles, kept by their hash."""
