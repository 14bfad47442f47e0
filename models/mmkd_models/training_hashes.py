"""Hashes of training windows, and of groups in datasets of one name, to recognise but not to read them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.manifest import MAX_TRAINING_HASHES, TRAINING_HASH_BYTES
from mmkd_models.data.spec import windows_at_once
from mmkd_models.data.windows import Windows

_MAX_WINDOWS = 1024  # of a training, evenly spread; 8 kB
_MIN_DIFFERENT = 8  # values in a window: two that hardly move are soon equal

Hashes = npt.NDArray[np.uint64]


def training_hashes(train: Windows, modality: str, *, key: str) -> bytes:
    """Hash the groups, and up to 1,024 windows by one modality's values; `key` is the SHA-256 of the dataset."""
    rows = np.unique(np.linspace(0, len(train) - 1, min(len(train), _MAX_WINDOWS)).round().astype(np.int64))
    windows = _window_hashes(train.subset(rows), modality, key=key)
    groups = _group_hashes(train, key=key)[1] if train.has_groups else np.zeros(0, dtype=np.uint64)
    return _pack_hashes(np.concatenate([windows[windows > 0], groups]))


def joined_hashes(parts: Sequence[bytes]) -> bytes:
    """Join hashes with one key, thinned out evenly if too many."""
    return _pack_hashes(np.concatenate([np.frombuffer(part, dtype="<u8") for part in parts]))


def trained_windows(windows: Windows, modality: str, hashes: bytes, *, key: str) -> npt.NDArray[np.bool_]:
    """(N,) True if a window or its group is among the hashes."""
    known = np.frombuffer(hashes, dtype="<u8")
    if not windows.spec.has(modality):
        return np.zeros(len(windows), dtype=bool)
    trained = np.isin(_window_hashes(windows, modality, key=key), known)
    if windows.has_groups:
        number, groups = _group_hashes(windows, key=key)
        trained |= np.isin(groups, known)[number]
    return trained


def _group_hashes(windows: Windows, *, key: str) -> tuple[npt.NDArray[np.int64], Hashes]:
    names, number = np.unique(windows.groups, return_inverse=True)
    hashes = [_hash(f"{windows.spec.name}\0{name}".encode(), key) for name in names.tolist()]
    return number, np.array(hashes, dtype=np.uint64)


def _window_hashes(windows: Windows, modality: str, *, key: str) -> Hashes:
    narrowed = windows.with_modalities([modality])
    hashes = np.zeros(len(windows), dtype=np.uint64)
    step = windows_at_once(narrowed.spec.modalities[0])
    for start in range(0, len(windows), step):
        block = narrowed.take(np.arange(start, min(start + step, len(windows))))[modality]
        for offset, values in enumerate(block):
            plain = np.ascontiguousarray(np.ma.filled(values, 0))
            if len(np.unique(plain[~np.isnan(plain)] if plain.dtype.kind == "f" else plain)) >= _MIN_DIFFERENT:
                hashes[start + offset] = _hash(plain.tobytes(), key)
    return hashes


def _hash(data: bytes, key: str) -> int:
    digest = hashlib.blake2b(data, digest_size=TRAINING_HASH_BYTES, key=key.encode()[:64])
    return int.from_bytes(digest.digest(), "little")


def _pack_hashes(hashes: Hashes) -> bytes:
    unique = np.unique(hashes)
    step = -(-len(unique) // MAX_TRAINING_HASHES) or 1
    return unique[::step].astype("<u8").tobytes()
