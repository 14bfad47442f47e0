"""Suites of `mmkd-evaluate`."""
