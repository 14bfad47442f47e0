"""Manifest, report, card and sealed bundle of one or several students."""
