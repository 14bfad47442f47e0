"""Engines that run artifacts, one file each."""
