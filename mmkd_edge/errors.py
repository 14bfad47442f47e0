"""The errors of mmkd-edge. Every error a user can cause or meet is an `MmkdError`.

A message has four parts: where, what was expected, what came, how to fix it.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterable

from mmkd_documents.errors import MmkdError as MmkdError
from mmkd_documents.errors import UsageError as UsageError
from mmkd_edge.system import HAS_POSIX

CURES = {
    errno.ENOENT: "check the path",
    errno.EEXIST: "choose another name",
    errno.ENOTEMPTY: "choose another name",
    errno.ENOTDIR: "a part of the path is a file; correct it",
    errno.EISDIR: "name a file in it",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link of the path leads back to itself; correct it",
    errno.EACCES: "choose a path that this user may use",
    errno.EPERM: "choose a path that this user may use",
    errno.EROFS: "choose another folder",
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EFBIG: "choose another folder, or raise the limit (ulimit -f)",
}
"""How to fix an operating system's error about a path."""

# Control characters (ECMA-48, C0 and C1), line separators, halves of surrogate pairs, and marks of the bidirectional
# algorithm (Unicode Standard Annex 9, section 2) could repaint a screen, forge a row, or make one name look like
# another. Letters of any script, and what joins them (U+200C, U+200D), may be in a name.
_UNPRINTABLE = "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"


_ON_WINDOWS = ("mmkd", "mmkd-edge", "mmkd-run")


class DatasetError(UsageError):
    """A dataset directory or an interchange file that breaks its contract."""


class InputError(UsageError):
    """A window that does not fit the model."""


class UnavailableError(MmkdError):
    """A library, device or backend that this machine lacks; the message names the extra to install."""

    exit_code = 3


class BackendError(MmkdError):
    """A backend that is installed and fails to open or to run an artifact."""

    exit_code = 3


class GateError(MmkdError):
    """An accuracy or parity gate that did not pass."""

    exit_code = 4


class PerformanceError(MmkdError):
    """A performance gate that did not pass."""

    exit_code = 5


class ArtifactError(MmkdError):
    """A file made by mmkd-edge that is damaged or incompatible."""

    exit_code = 6


class CheckpointError(ArtifactError):
    """A checkpoint (`*.ckpt`) that cannot be used."""


class ManifestError(ArtifactError):
    """A bundle's `manifest.json` that breaks its contract."""


class BundleError(ArtifactError):
    """A bundle (`*.edge`) that is damaged, altered or not a bundle."""


class SignatureError(BundleError):
    """A bundle that no key which is trusted here has signed."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, printable; its type if it has none."""
    text = str(error).strip()
    return printable(text.splitlines()[0]) if text else type(error).__name__


def os_reason(error: OSError) -> str:
    """Return the system's reason and the cure: `read-only file system; choose another folder`."""
    reason = (error.strerror or str(error)).lower()
    cure = CURES.get(error.errno or 0)
    return reason if cure is None else f"{reason}; {cure}"


def unprintable_in(names: Iterable[str]) -> str:
    """Return the first name that could mislead a terminal or a reader, or empty."""
    return next((name for name in names if not name.isprintable() and re.search(_UNPRINTABLE, name)), "")


def printable(text: str, *, lines: bool = False) -> str:
    r"""Escape characters of a text that could mislead a terminal or a reader; `lines` keeps line breaks and tabs.

    >>> printable("ok\x1b[2J\nworn")
    'ok\\x1b[2J\\nworn'
    """
    return re.sub(_UNPRINTABLE, lambda match: match[0] if lines and match[0] in "\n\t" else ascii(match[0])[1:-1], text)


def find_error_class(name: str) -> type[MmkdError]:
    """Return the class of an error that another process sent."""
    kind = globals()[name]
    assert isinstance(kind, type)
    assert issubclass(kind, MmkdError)
    return kind


def check_system(command: str) -> None:
    """Raise UnavailableError on Windows for a command that is not for devices."""
    if not (HAS_POSIX or command in _ON_WINDOWS):
        raise UnavailableError(
            f"{command} needs Linux or macOS, and this is {sys.platform}; here {' and '.join(_ON_WINDOWS[1:])} run; "
            f"run {command} in WSL 2"
        )
