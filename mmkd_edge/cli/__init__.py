"""Shared parts of all commands: running one, its options, tables and outputs."""
