"""What Windows does with other calls than POSIX: locks, flags of files, reads at a place, names of users."""

from __future__ import annotations

import os
import threading
import time

try:
    import fcntl
except ImportError:
    HAS_POSIX = False
else:
    HAS_POSIX = True

# For `os.open`, 0 where a system lacks them.
BINARY = getattr(os, "O_BINARY", 0)  # Windows would change ends of lines
NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # Windows has no pipes among its files
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_LOCKED_BYTE = 1 << 30  # beyond the contents, since Windows lets nobody else read a locked byte
_RETRY_S = 0.05
_one_reader = threading.Lock()


def lock_file(descriptor: int, *, wait: bool) -> None:
    """Lock a file until it is closed. Raises BlockingIOError if another process has it, OSError without locks."""
    if HAS_POSIX:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return
    import msvcrt

    while True:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            if not wait:
                raise BlockingIOError(*error.args) from error
            time.sleep(_RETRY_S)
        else:
            return


def read_at(descriptor: int, size_bytes: int, offset: int) -> bytes:
    """Read at a place; Windows moves the file's position."""
    if HAS_POSIX:
        return os.pread(descriptor, size_bytes, offset)
    with _one_reader:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size_bytes)


def user_name() -> str:
    """Return this user's name, or number without one, as in containers."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"user {os.getuid()}" if HAS_POSIX else "an unknown user"


# Without it releases from 1.32 on report to their maker; their own `disable_telemetry_events` does not stop that.
_NO_REPORTS = ("ORT_DISABLE_TELEMETRY", "1")


def silence_reports() -> None:
    """Turn off ONNX Runtime's telemetry, unless the user set the variable."""
    os.environ.setdefault(*_NO_REPORTS)
