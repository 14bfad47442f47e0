"""Files on a device, opened with care and written atomically; the user's cache folder."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd_edge.errors import CURES, UsageError, os_reason
from mmkd_edge.system import BINARY, HAS_POSIX, NO_LINKS, NO_WAITING, read_at

if TYPE_CHECKING:
    from hashlib import _Hash

_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_LFS = b"version https://git-lfs.github.com/spec/"
_PART_BYTES = 1 << 16
_WRITE_ERRORS = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_path_error(error: OSError) -> bool:
    """Return whether an error is about the path; without a file name, only whether the file system refused to write."""
    return error.errno in CURES and (error.filename is not None or error.errno in _WRITE_ERRORS)


def open_file(path: Path, *, expected: str) -> int:
    """Open a regular file (also through links); UsageError, which names `expected`, for anything else."""
    try:
        # O_NONBLOCK: a pipe must give an error here, not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | BINARY | NO_WAITING)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: expected {expected}, found no such file; check the path") from error
    except OSError as error:
        raise UsageError(f"{path}: expected {expected}, cannot open it: {os_reason(error)}") from error
    except ValueError as error:
        raise UsageError(f"{path}: expected {expected}, cannot open it: the path holds a NUL character") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        got = "a directory" if stat.S_ISDIR(mode) else "something that is not a regular file"
        raise UsageError(f"{path}: expected {expected}, got {got}; name the file itself")
    return descriptor


def lfs_pointer(path: Path) -> str:
    """Return how an error describes a Git LFS pointer (git-lfs.com, specification 1), or empty for any other file."""
    with path.open("rb") as stream:
        is_pointer = stream.read(len(_LFS)) == _LFS
    return "got a Git LFS pointer in place of the file; run git lfs pull in its repository" if is_pointer else ""


def read_exactly(descriptor: int, size_bytes: int, *, offset: int) -> bytes:
    """Read `size_bytes` from `offset`; less only at the file's end."""
    parts: list[bytes] = []
    while size_bytes > 0:
        left = max(os.fstat(descriptor).st_size - offset, 0) + 1  # a buffer of `size_bytes` may exceed the memory
        part = read_at(descriptor, min(size_bytes, max(left, _PART_BYTES)), offset)
        if not part:
            break
        parts.append(part)
        size_bytes -= len(part)
        offset += len(part)
    return b"".join(parts)


def read_first(path: Path, size_bytes: int, *, expected: str) -> bytes:
    """Return the first bytes of a file, fewer if it has fewer; errors as `open_file`."""
    descriptor = open_file(path, expected=expected)
    try:
        return read_exactly(descriptor, min(os.fstat(descriptor).st_size, size_bytes), offset=0)
    finally:
        os.close(descriptor)


def is_written_by_others(facts: os.stat_result) -> bool:
    """Return whether anybody but this user and root can write it; Windows does not say so in a mode."""
    return HAS_POSIX and (facts.st_uid not in (0, os.geteuid()) or bool(facts.st_mode & _WRITTEN_BY_OTHERS))


def read_own_file(path: Path, *, max_bytes: int) -> bytes:
    """Read at most `max_bytes` + 1 of a regular file that only this user and root can write; OSError otherwise."""
    descriptor = os.open(path, os.O_RDONLY | BINARY | NO_WAITING)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if is_written_by_others(facts):
            raise OSError(errno.EPERM, "others can write it")
        return read_exactly(descriptor, max_bytes + 1, offset=0)
    finally:
        os.close(descriptor)


def cache_folder(kind: str) -> Path:
    """Return a folder for `profiles`, `engines` or `verdicts` in `XDG_CACHE_HOME` or `~/.cache`."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # The specification has relative paths ignored.
        cache = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise UsageError(
            f"{kind} lie in the user's cache folder, and this user has no home directory; set XDG_CACHE_HOME"
        ) from error
    return cache / "mmkd-edge" / kind


def make_cache_folder(folder: Path) -> Path:
    """Make a cache folder if absent, and return it; UsageError if that fails, or others can write it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{folder}: cannot make this folder: {reason}; set XDG_CACHE_HOME to another") from error
    if is_written_by_others(facts):
        raise UsageError(f"{folder}: others can write it; give it to this user alone: chmod 700")
    return folder


def write_file(path: Path, data: bytes, *, own: bool = False) -> None:
    """Write a file atomically: an interruption leaves the earlier or the whole new one.

    Links are followed, permissions stay. `own` lets only this user and root write it, as `read_own_file` requires.

    Raises:
        UsageError: the earlier file is intact; or only flushing the folder failed, as the message says.
    """
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    temporary = place.with_name(f".{place.name}.{os.urandom(4).hex()}.tmp")
    try:
        _write_new(temporary, data, earlier=place, masked=_WRITTEN_BY_OTHERS if own else 0)
        temporary.replace(place)
    except BaseException as error:  # also Ctrl-C
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise UsageError(f"{path}: cannot write it: {os_reason(error)}; an earlier file is left as it was") from error
    try:
        flush_folder(place.parent)
    except OSError as error:
        raise UsageError(
            f"{path}: the new file is in its place, but a power cut may still bring the earlier one back: the folder "
            f"cannot be flushed: {os_reason(error)}"
        ) from error


def _write_new(path: Path, data: bytes, *, earlier: Path, masked: int) -> None:
    """Name a file only when whole, if the system can; permissions are the earlier file's without masked ones."""

    def write(descriptor: int, name: bool) -> None:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.suppress(FileNotFoundError, AttributeError):  # Windows has no modes to set
                os.fchmod(descriptor, earlier.stat().st_mode & 0o777 & ~masked)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
            if name:
                # Python calls the linkat that follows links only with a directory.
                os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)

    if hasattr(os, "O_TMPFILE"):
        with contextlib.suppress(OSError):  # the file system or a security module forbids it
            write(os.open(path.parent, os.O_WRONLY | os.O_TMPFILE, 0o666 & ~masked), name=True)
            return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY | NO_LINKS
    write(os.open(path, flags, 0o666 & ~masked), name=False)


def flush_folder(path: Path) -> None:
    """Flush a folder's names to disk; Windows can open no folder, and its journal keeps them."""
    if not HAS_POSIX:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_sha256(data: bytes | memoryview = b"") -> _Hash:
    """Return a running SHA-256 of `data`."""
    import hashlib  # brings OpenSSL: 5 MB

    return hashlib.sha256(data)
