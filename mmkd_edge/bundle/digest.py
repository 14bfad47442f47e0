"""SHA-256, without what its library costs a program that only imports this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash


def new_sha256(data: bytes | memoryview = b"") -> _Hash:
    """A running SHA-256 that has seen `data`."""
    import hashlib  # brings OpenSSL: 5 MB

    return hashlib.sha256(data)
