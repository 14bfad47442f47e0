"""Samples become windows or steps."""
