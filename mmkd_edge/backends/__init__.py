"""Engines that run artifacts, one file each; `base` has their protocol, their table and `open_backend`."""
