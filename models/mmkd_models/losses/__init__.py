"""Distillation losses, one idea a file."""
