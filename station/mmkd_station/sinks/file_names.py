"""Names of files and folders from texts of people: readable, and told apart where they look alike."""

from __future__ import annotations

import hashlib

_MOST = 40  # characters: names of files have 255 bytes, and a character up to four


def readable(text: str) -> str:
    """The beginning of a text, with `_` for signs that files should not have."""
    return "".join(char if char.isalnum() else "_" for char in text)[:_MOST]


def told_apart(text: str, *, by: str) -> str:
    """A readable name with a hash of what tells it from others."""
    return f"{readable(text)}-{hashlib.sha256(by.encode()).hexdigest()[:8]}"
