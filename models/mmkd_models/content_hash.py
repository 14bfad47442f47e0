"""The hash of a checkpoint's content, whatever its layout; without torch, for `mmkd-inspect`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmkd_edge.errors import CheckpointError

CONTENT_KEY = "content_sha256"
"""The key of the hash in the metadata of a checkpoint's file."""


@dataclass(frozen=True, kw_only=True)
class TensorContent:
    """A tensor: `dtype` as torch writes it, `torch.float32`, little-endian bytes, last axis fastest."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def content_digest(parts: Iterable[TensorContent], document: bytes) -> str:
    """Return the hexadecimal SHA-256 of all tensors' name, dtype, shape and bytes, by name, then the document."""
    digest = hashlib.sha256()
    for part in sorted(parts, key=lambda part: part.name):
        digest.update(f"{part.name}\0{part.dtype}\0{part.shape}\0".encode())
        digest.update(part.data)
    digest.update(document)
    return digest.hexdigest()


def check_content(path: Path, found: str, *, written: str | None) -> None:
    """Raise CheckpointError unless the digest is the `written` one."""
    if written is None:
        raise CheckpointError(
            f"{path}: expected a checkpoint with the SHA-256 of its content ({CONTENT_KEY} in its metadata), got one "
            "without: another program wrote it again; copy it again from where it was made, or train again"
        )
    if found != written:
        raise CheckpointError(
            f"{path}: expected the content that was written, of SHA-256 {written}, got {found}: its tensors or its "
            "metadata were altered after training; copy it again from where it was made, or train again"
        )
