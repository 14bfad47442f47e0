"""Latency and memory of a bundle on the machine that runs it."""
