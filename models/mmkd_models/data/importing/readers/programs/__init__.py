"""Formats that measuring programs and robots write, each read by a library that only its users need."""
