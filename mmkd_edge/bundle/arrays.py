"""NumPy's file formats without pickles; damaged or hostile files raise one error type."""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_UNPACKED_BYTES = 1 << 30
MAX_UNPACKED_RATIO = 20
"""A larger archive may unpack to this multiple of its size: recorded float32 packs to a half, int16 to a fifth."""


class ArraysError(ValueError):
    """A fault of an array file; the caller names the file."""


def map_array(file: Path) -> NDArray[Any]:
    """Map a `.npy` file read-only; ArraysError if unreadable."""
    try:
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except ValueError:
            array = np.load(file, allow_pickle=False)  # an empty array cannot be mapped
    except Exception as error:
        raise ArraysError(_reason(error)) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ArraysError("an archive of several arrays")
    return array


def check_whole(array: NDArray[Any]) -> None:
    """Raise ArraysError if a mapped file was cut short, since reading on would be a SIGBUS."""
    owner = _find_owner(array)
    name, base = str(getattr(owner, "filename", "") or ""), owner.base
    if isinstance(base, mmap.mmap) and base.size() < len(base):
        raise ArraysError(f"{name}: the file was cut short while it was in use: {len(base)} bytes became {base.size()}")


def let_go(array: NDArray[Any], *, least_bytes: int = 0) -> None:
    """Return a mapped file's pages to the kernel, which counts them as process memory, from `least_bytes` on."""
    owner = _find_owner(array)
    base = owner.base
    is_read_only = isinstance(owner, np.memmap) and owner.mode == "r"
    if is_read_only and isinstance(base, mmap.mmap) and len(base) >= least_bytes and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)


def _find_owner(array: NDArray[Any]) -> NDArray[Any]:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def read_npz(file: Path) -> Mapping[str, NDArray[Any]]:
    """Return an `.npz`'s arrays by name; ArraysError if damaged, or far larger unpacked."""
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
        size = file.stat().st_size
        fits = unpacked <= max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * size)
        if fits:
            with np.load(file, allow_pickle=False) as loaded:
                return {name: np.asarray(loaded[name]) for name in loaded.files}
    except Exception as error:
        raise ArraysError(_reason(error)) from error
    raise ArraysError(
        f"{size} bytes unpack to {unpacked}, more than {MAX_UNPACKED_RATIO} times as many; "
        "save it with numpy.savez, which does not compress"
    )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
