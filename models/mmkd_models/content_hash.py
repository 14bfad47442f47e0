"""The header and the content's hash of a checkpoint; without torch, for `mmkd-inspect`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmkd_edge.bundle.files import lfs_pointer, read_first
from mmkd_edge.errors import CheckpointError

CONTENT_KEY = "content_sha256"
"""The key of the hash in the metadata of a checkpoint's file."""
LENGTH_BYTES = 8
# A tensor takes about 100 bytes of it; a million empty ones would take a gigabyte of memory to list.
_MAX_HEADER_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class TensorContent:
    """A tensor: `dtype` as torch writes it, `torch.float32`, little-endian bytes, last axis fastest."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def read_start(path: Path) -> bytes:
    """Return the bytes that hold the header's length. Raise CheckpointError if it is too long."""
    start = read_first(path, LENGTH_BYTES, expected="a checkpoint of mmkd-edge")
    if got := lfs_pointer(path):
        raise CheckpointError(f"{path}: expected a checkpoint of mmkd-edge, {got}")
    length = int.from_bytes(start, "little")
    if _MAX_HEADER_BYTES < length < path.stat().st_size:
        raise CheckpointError(
            f"{path}: expected a header of at most {_MAX_HEADER_BYTES} bytes, got {length}; "
            "it is no checkpoint of mmkd-edge, or was altered"
        )
    return start


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
