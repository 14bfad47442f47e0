"""Outputs of commands: checked before the work, locked against other commands; rows as CSV."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmkd_edge.errors import UsageError, os_reason
from mmkd_edge.system import BINARY, lock_file, read_at, user_name

logger = logging.getLogger(__name__)

_MIN_FREE_BYTES = 16_000_000  # logs, resume states, pages
_OWNER_BYTES = 512


def check_folder(folder: Path, *, needs_bytes: int = 0) -> None:
    """Raise UsageError for a folder that cannot be made or written, or lacks room for `needs_bytes`."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UsageError(f"{folder}: cannot write there: {there} is a file, not a folder; choose another folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            free_bytes = shutil.disk_usage(there).free
    except OSError as error:
        raise UsageError(f"{folder}: cannot write there: {os_reason(error)}") from error
    needs_bytes = max(needs_bytes, _MIN_FREE_BYTES)
    if free_bytes < needs_bytes:
        raise UsageError(
            f"{folder}: expected {needs_bytes / 1e6:,.0f} MB free, got {free_bytes // 1_000_000:,} MB; "
            "free some space, or choose another folder"
        )


def check_file(file: Path) -> None:
    """Raise UsageError for a file that cannot be written in an existing folder."""
    if file.is_dir():
        raise UsageError(f"{file}: expected the name of a file, got a directory; name a file in it")
    if not file.parent.is_dir():
        raise UsageError(f"{file}: cannot be written: there is no directory {file.parent}; make it first")
    check_folder(file.parent)


def check_name(output: Path, suffix: str) -> None:
    """Raise UsageError for another suffix."""
    if output.suffix != suffix:
        raise UsageError(f"{output}: expected a name that ends in {suffix}; name it {output.with_suffix(suffix)}")


@contextlib.contextmanager
def lock_output(output: Path, *, is_folder: bool = False, needs_bytes: int = 0) -> Iterator[None]:
    """Lock an output until the block ends; make its folder if absent. A killed process leaves no lock."""
    absolute = Path(os.path.abspath(output))  # noqa: PTH100 - resolve() would follow a link that is to be replaced
    folder = absolute if is_folder else absolute.parent
    check_folder(output if is_folder else output.parent, needs_bytes=needs_bytes)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / (".lock" if is_folder else f".{absolute.name}.lock")
    descriptor = _lock(lock, output)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(descriptor)
        if is_new:
            with contextlib.suppress(OSError):  # something was written in it
                folder.rmdir()


def _lock(lock: Path, output: Path) -> int:
    while True:
        descriptor = _open_lock(lock)
        try:
            lock_file(descriptor, wait=False)
        except BlockingIOError:
            owner = read_at(descriptor, _OWNER_BYTES, 0).decode(errors="replace") or "another command"
            os.close(descriptor)
            raise UsageError(f"{output}: {owner} is writing it; wait until it ends, or choose another name") from None
        except OSError as error:
            logger.warning("%s: nothing keeps another command from writing it too: %s", output, os_reason(error))
            return descriptor
        is_still = False
        with contextlib.suppress(FileNotFoundError):
            is_still = os.path.samestat(os.fstat(descriptor), lock.stat())
        if is_still:
            with contextlib.suppress(OSError):  # another user's, read-only
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                who = f"{Path(sys.argv[0]).name} (process {os.getpid()} of {user_name()} on {socket.gethostname()}"
                os.write(descriptor, f"{who}, since {time.strftime('%Y-%m-%d %H:%M:%S')})".encode())
            return descriptor
        os.close(descriptor)  # its owner has removed it


def _open_lock(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
    except PermissionError:
        return os.open(lock, os.O_RDONLY | BINARY)


# A cell that begins with one of these is a formula to a spreadsheet (OWASP, CSV Injection).
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    r"""Return rows as CSV; a text that a spreadsheet would run as a formula gets a `'` before it.

    Example:
        >>> csv_text([["label", "change"], ["=1+1", -0.5], ["@home", "-3"]])
        "label,change\n'=1+1,-0.5\n'@home,-3\n"
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    escaped = f"'{value}" if value.startswith(_FORMULA_STARTS) and not _is_number(value) else value
    return escaped.replace("\r", "\n")  # the writer quotes "\n"; a bare "\r" would begin a row


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
