"""The canonical ZIP: a list of members has exactly one archive.

PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (end record).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

import msgspec

LOCAL_SIGNATURE = b"PK\x03\x04"
_LOCAL = struct.Struct("<4sHHHHHLLLHH")
_CENTRAL = struct.Struct("<4sHHHHHHLLLHHHHHLL")
_END = struct.Struct("<4sHHHHLLH")
LOCAL_HEADER_BYTES = _LOCAL.size
END_RECORD_BYTES = _END.size
_NEEDED = 20  # ZIP 2.0: stored files in folders
_MADE_BY = (3 << 8) | _NEEDED  # Unix
_DATE = (1 << 5) | 1  # 1980-01-01, the first day of ZIP
_MODE = 0o100644 << 16
_UTF8 = 1 << 11


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """The header fields of one member."""

    name: str
    size_bytes: int
    crc32: int

    @property
    def stored_bytes(self) -> int:
        """Size with the local header."""
        return LOCAL_HEADER_BYTES + len(self.name.encode()) + self.size_bytes


def local_header(member: Member) -> bytes:
    """Return the header of a member."""
    name = member.name.encode()
    size = member.size_bytes
    fields = (LOCAL_SIGNATURE, _NEEDED, _flags(name), 0, 0, _DATE, member.crc32, size, size, len(name), 0)
    return _LOCAL.pack(*fields) + name


def central_directory(members: Sequence[Member]) -> bytes:
    """Return the bytes after the last member."""
    parts: list[bytes] = []
    offset = 0
    for member in members:
        name = member.name.encode()
        size = member.size_bytes
        fixed = (b"PK\x01\x02", _MADE_BY, _NEEDED, _flags(name), 0, 0, _DATE, member.crc32, size, size, len(name))
        parts.append(_CENTRAL.pack(*fixed, 0, 0, 0, 0, _MODE, offset) + name)
        offset += member.stored_bytes
    return b"".join(parts)


def _flags(name: bytes) -> int:
    return 0 if name.isascii() else _UTF8


def end_record(members: Sequence[Member], *, comment: bytes) -> bytes:
    """Return the last bytes of the archive."""
    count = len(members)
    size = len(central_directory(members))
    offset = sum(member.stored_bytes for member in members)
    return _END.pack(b"PK\x05\x06", 0, 0, count, count, size, offset, len(comment)) + comment


def archive_body(files: Mapping[str, bytes]) -> tuple[bytes, tuple[Member, ...]]:
    """Return everything before the end record, and its members, in the given order."""
    members = tuple(Member(name=name, size_bytes=len(data), crc32=zlib.crc32(data)) for name, data in files.items())
    parts: list[bytes] = []
    for member in members:
        parts += (local_header(member), files[member.name])
    return b"".join(parts) + central_directory(members), members


def member_size(header: bytes) -> int:
    """Return a member's size from its local header; 0 if cut off."""
    return int(_LOCAL.unpack_from(header)[7]) if len(header) >= LOCAL_HEADER_BYTES else 0
