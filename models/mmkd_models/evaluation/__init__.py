"""Judging models: scores, gains, rivals, faults."""
