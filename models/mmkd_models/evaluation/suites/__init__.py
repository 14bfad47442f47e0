"""Suites of `mmkd-evaluate`: faults, groups, confidence, cost, and the verdict in words."""
