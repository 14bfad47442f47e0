"""Clocks of sensors: times as logs write them, and how far one clock is off beside another."""
