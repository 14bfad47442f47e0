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
_MAX_DIRECTORY_BYTES = 1 << 20  # of an archive: some 10,000 arrays
_MAX_END_BYTES = 22 + (1 << 16)  # of a directory's end with its comment


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


def read_npz(file: Path, *, most_bytes: int | None = None) -> Mapping[str, NDArray[Any]]:
    """Return an `.npz`'s arrays by name; ArraysError if damaged, or unpacked above `most_bytes` or a usual multiple."""
    try:
        size = file.stat().st_size
        _refuse_many(file, size)
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked <= (max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * size) if most_bytes is None else most_bytes):
            with np.load(file, allow_pickle=False) as loaded:
                return {name: np.asarray(loaded[name]) for name in loaded.files}
    except Exception as error:
        raise ArraysError(_reason(error)) from error
    more = f"{MAX_UNPACKED_RATIO} times as many" if most_bytes is None else "as many"
    raise ArraysError(
        f"{size} bytes unpack to {unpacked}, more than {more}; save it with numpy.savez, which does not compress"
    )


def _refuse_many(file: Path, size: int) -> None:
    """Refuse an archive of very many members before all are listed in memory."""
    with file.open("rb") as stream:
        stream.seek(max(0, size - _MAX_END_BYTES))
        end = stream.read()
    # PKWARE's APPNOTE.TXT 4.3.14 to 16; where the directory's end is, and which one counts, as zipfile decides it
    is_plain = end[-22:-18] == b"PK\x05\x06" and end[-2:] == bytes(2)
    at = len(end) - 22 if is_plain else max(0, end.rfind(b"PK\x05\x06"))
    directory = int.from_bytes(end[at + 12 : at + 16], "little")
    if at >= 76 and end[at - 20 : at - 16] == b"PK\x06\x07":
        directory = int.from_bytes(end[at - 36 : at - 28], "little")
    if directory > _MAX_DIRECTORY_BYTES:
        raise ArraysError("an archive of too many arrays; save them apart")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
