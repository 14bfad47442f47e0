"""The bundle: the one verified file that devices get.

Its hashes prove integrity, not authenticity: whoever can write the file can write them. `signature.json`, the last
member of a signed bundle, has key ids and signatures of the manifest's hash.
"""

from __future__ import annotations

import os
import shlex
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated

import msgspec

from mmkd_edge.bundle import archive
from mmkd_edge.bundle.archive import Member
from mmkd_edge.bundle.files import lfs_pointer, new_sha256, open_file, read_exactly, write_file
from mmkd_edge.bundle.golden import Golden, golden_bytes, golden_from_bytes
from mmkd_edge.bundle.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, FileEntry, Manifest, ModelEntry, member_files
from mmkd_edge.bundle.manifest_json import decode_manifest, encode_manifest
from mmkd_edge.bundle.strict_json import JsonError, decode_document, json_bytes
from mmkd_edge.errors import BundleError, ManifestError, UsageError

__all__ = ["Bundle", "Golden", "example_bundle", "golden_bytes", "write_bundle"]

MAX_BUNDLE_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20
_COMMENT = b"mmkd-edge sha256 "
_COMMENT_BYTES = len(_COMMENT) + 64
_END_BYTES = archive.END_RECORD_BYTES + _COMMENT_BYTES
_AGAIN = "copy or export it again"
SIGNATURE_FILE = "signature.json"
MAX_SIGNATURE_BYTES = 1 << 16
SIGNATURE_VERSION = 1
_CONTEXT = b"mmkd-edge manifest 1\0"  # used for no other message

KeyId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key's signature, 64 bytes in hexadecimal (RFC 8032)."""

    key_id: KeyId
    ed25519: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]


class SignatureDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`signature.json`."""

    format_version: int = SIGNATURE_VERSION
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(min_length=1, max_length=16)]


class Bundle:
    """An open, verified bundle. Use it in `with`, or call `close()`.

    `read` verifies again. `signatures` are not verified; None if unsigned.
    """

    def __init__(
        self,
        path: Path,
        descriptor: int,
        *,
        manifest: Manifest,
        sha256: str,
        manifest_sha256: str,
        signatures: SignatureDocument | None,
        offsets: Mapping[str, int],
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.sha256 = sha256
        self.manifest_sha256 = manifest_sha256
        self.signatures = signatures
        self._descriptor = descriptor
        self._closing = weakref.finalize(self, os.close, descriptor)  # if dropped without close()
        self._offsets = offsets
        self._entries = {entry.file: entry for entry in member_files(manifest)}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open a bundle and verify everything in it.

        Raises:
            UsageError: the file is absent or unreadable.
            BundleError: it is no bundle, is truncated, or a byte was changed.
            ManifestError: its manifest is invalid, or of a newer version.
        """
        path = Path(path)
        descriptor = open_file(path, expected="a bundle written by mmkd-export")
        try:
            return _verify(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def model(self, name: str) -> ModelEntry:
        """Return a student's manifest entry; UsageError for an unknown name."""
        for entry in self.manifest.models:
            if entry.name == name:
                return entry
        names = ", ".join(repr(entry.name) for entry in self.manifest.models)
        raise UsageError(f"{self.path}: model {name!r} is unknown; expected one of {names}")

    def read(self, member: str) -> bytes:
        """Return a member's bytes, verified again; BundleError if the file has changed."""
        self._check_open()
        entry = self._entries.get(member)
        if entry is None:
            names = ", ".join(repr(name) for name in self._entries)
            raise UsageError(f"{self.path}: member {member!r} is unknown; expected one of {names}")
        data = read_exactly(self._descriptor, entry.size_bytes, offset=self._offsets[member])
        if new_sha256(data).hexdigest() != entry.sha256:
            raise BundleError(f"{self.path}: {member!r} was changed while the bundle was open; open it again")
        return data

    def whole(self) -> bytes:
        """Return all bytes of the file, verified again."""
        self._check_open()
        data = read_exactly(self._descriptor, MAX_BUNDLE_BYTES + 1, offset=0)
        if new_sha256(data).hexdigest() != self.sha256:
            raise BundleError(f"{self.path}: the file was changed while the bundle was open; open it again")
        return data

    def golden(self, model: str) -> Golden:
        """Return a student's golden windows."""
        entry = self.model(model)
        try:
            return golden_from_bytes(self.read(entry.golden.file), entry)
        except BundleError as error:
            raise BundleError(f"{self.path}: {error}") from error

    def _check_open(self) -> None:
        if not self._closing.alive:
            raise UsageError(f"{self.path}: the bundle is closed; open it again")

    def close(self) -> None:
        """Close the file; repeated calls are allowed."""
        self._closing()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_bundle(
    path: str | os.PathLike[str],
    *,
    manifest: Manifest,
    members: Mapping[str, bytes],
    signatures: SignatureDocument | None = None,
) -> None:
    """Write a bundle atomically and deterministically.

    `members` excludes the manifest. Raises ManifestError for an invalid manifest, BundleError for a member that is
    missing, extra or different.
    """
    path = Path(path)
    files = {MANIFEST_FILE: encode_manifest(manifest)}
    entries = member_files(manifest)
    for name in sorted({entry.file for entry in entries} ^ set(members)):
        got = "is not in the manifest" if name in members else "is in the manifest and missing"
        raise BundleError(f"{path}: {name!r} {got}; a bundle holds exactly what its manifest lists")
    for entry in entries:
        _check_content(entry, members[entry.file], where=str(path))
        files[entry.file] = members[entry.file]
    if signatures is not None:
        files[SIGNATURE_FILE] = json_bytes(signatures)
    body, headers = archive.archive_body(files)
    comment = _COMMENT + new_sha256(body).hexdigest().encode("ascii")
    data = body + archive.end_record(headers, comment=comment)
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleError(f"{path}: expected at most {MAX_BUNDLE_BYTES} bytes, got {len(data)}; leave an artifact out")
    write_file(path, data)


def example_bundle(name: str = "watch_acc") -> Path:
    """Return the path of a trained bundle shipped with mmkd-edge; UsageError for an unknown name."""
    folder = Path(__file__).parents[1] / "bundles"
    names = sorted(file.stem for file in folder.glob("*.edge"))
    if name not in names:
        listed = ", ".join(repr(other) for other in names) or "none in this installation"
        raise UsageError(f"example bundle {name!r} is unknown; expected one of: {listed}")
    return folder / f"{name}.edge"


def _verify(path: Path, descriptor: int) -> Bundle:
    size = os.fstat(descriptor).st_size
    if size > MAX_BUNDLE_BYTES:
        raise BundleError(f"{path}: expected at most {MAX_BUNDLE_BYTES} bytes, got {size}; this is not a bundle")
    tail = _read_end_record(path, descriptor, size)
    sha256 = _check_digest(path, descriptor, size, tail)
    length = _member_size(descriptor, MANIFEST_FILE, offset=0)
    if length is None or length > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{path}: expected {MANIFEST_FILE} of at most {MAX_MANIFEST_BYTES} bytes as the first member; "
            "the file was not written by mmkd-export"
        )
    content = read_exactly(descriptor, length, offset=archive.LOCAL_HEADER_BYTES + len(MANIFEST_FILE))
    try:
        manifest = decode_manifest(content)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error
    digest = new_sha256(content).hexdigest()
    offsets: dict[str, int] = {}
    headers: list[Member] = []
    begins = [0]

    def read_member(name: str, size_bytes: int) -> bytes:
        offsets[name] = begins[-1] + archive.LOCAL_HEADER_BYTES + len(name.encode())
        data = read_exactly(descriptor, size_bytes, offset=offsets[name])
        headers.append(Member(name=name, size_bytes=size_bytes, crc32=zlib.crc32(data)))
        begins.append(begins[-1] + headers[-1].stored_bytes)
        return data

    for entry in (FileEntry(file=MANIFEST_FILE, sha256=digest, size_bytes=length), *member_files(manifest)):
        _check_content(entry, read_member(entry.file, entry.size_bytes), where=str(path))
    length, signatures = _member_size(descriptor, SIGNATURE_FILE, offset=begins[-1]), b""
    if length is not None:
        if length > MAX_SIGNATURE_BYTES:
            raise BundleError(f"{path}: {SIGNATURE_FILE}: expected at most {MAX_SIGNATURE_BYTES} bytes, got {length}")
        signatures = read_member(SIGNATURE_FILE, length)
    expected = [archive.local_header(header) for header in headers]
    expected.append(archive.central_directory(headers) + archive.end_record(headers, comment=tail[-_COMMENT_BYTES:]))
    read = [read_exactly(descriptor, len(part), offset=begin) for begin, part in zip(begins, expected, strict=True)]
    if read != expected or read_exactly(descriptor, 1, offset=begins[-1] + len(expected[-1])):  # nothing may follow
        raise BundleError(
            f"{path}: expected exactly the members that the manifest lists, as mmkd-export writes them, got another "
            f"archive; {_AGAIN}"
        )
    try:
        document = None if length is None else decode_signatures(signatures)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    return Bundle(
        path, descriptor, manifest=manifest, sha256=sha256, manifest_sha256=digest, signatures=document, offsets=offsets
    )


def _describe_start(path: Path, start: bytes) -> str:
    """Return what another file is: a checkpoint is safetensors, a length before a JSON header."""
    header = start[8:]
    if header.startswith(b'{"__metadata__":{"student":'):
        return f"the checkpoint of a student; make its bundle with: {shlex.join(['mmkd-export', str(path)])}"
    if header.startswith(b'{"__metadata__":{"teacher":'):
        return "the checkpoint of a teacher; distil a student with mmkd-distill, and export that with mmkd-export"
    return "something else"


def _read_end_record(path: Path, descriptor: int, size: int) -> bytes:
    start = read_exactly(descriptor, len(archive.LOCAL_SIGNATURE), offset=0)
    if start != archive.LOCAL_SIGNATURE:
        got = lfs_pointer(path)
        if not got:
            start = read_exactly(descriptor, 64, offset=0)
            got = f"got {'an empty file' if size == 0 else _describe_start(path, start)}"
        raise BundleError(f"{path}: expected a bundle written by mmkd-export, {got}")
    tail = read_exactly(descriptor, _END_BYTES, offset=max(0, size - _END_BYTES))
    if len(tail) < _END_BYTES or not tail[-_COMMENT_BYTES:].startswith(_COMMENT):
        raise BundleError(f"{path}: the bundle is truncated or changed: its end record is missing; {_AGAIN}")
    return tail


def _check_digest(path: Path, descriptor: int, size: int, tail: bytes) -> str:
    digest = new_sha256()
    for offset in range(0, size - _END_BYTES, _CHUNK_BYTES):
        expected_bytes = min(_CHUNK_BYTES, size - _END_BYTES - offset)
        chunk = read_exactly(descriptor, expected_bytes, offset=offset)
        if len(chunk) < expected_bytes:
            raise BundleError(f"{path}: the bundle became shorter while it was read; {_AGAIN}")
        digest.update(chunk)
    expected = tail[-64:].decode("ascii", "replace")
    if digest.hexdigest() != expected:
        raise BundleError(
            f"{path}: the bundle is damaged or changed: expected SHA-256 {expected}, got {digest.hexdigest()}; {_AGAIN}"
        )
    digest.update(tail)
    return digest.hexdigest()


def _member_size(descriptor: int, name: str, *, offset: int) -> int | None:
    """None if another member begins there."""
    header = read_exactly(descriptor, archive.LOCAL_HEADER_BYTES + len(name), offset=offset)
    return archive.member_size(header) if header[archive.LOCAL_HEADER_BYTES :] == name.encode() else None


def _check_content(entry: FileEntry, data: bytes, *, where: str) -> None:
    if len(data) != entry.size_bytes:
        raise BundleError(f"{where}: {entry.file!r}: expected {entry.size_bytes} bytes, got {len(data)}; {_AGAIN}")
    digest = new_sha256(data).hexdigest()
    if digest != entry.sha256:
        raise BundleError(f"{where}: {entry.file!r}: expected SHA-256 {entry.sha256}, got {digest}; {_AGAIN}")


def signed_message(manifest_sha256: str) -> bytes:
    """Return what a key signs: a context, and the manifest's 32-byte hash."""
    return _CONTEXT + bytes.fromhex(manifest_sha256)


def decode_signatures(data: bytes) -> SignatureDocument:
    """Read the file; BundleError if it is invalid."""
    try:
        return decode_document(data, SignatureDocument, version=SIGNATURE_VERSION)
    except JsonError as error:
        raise BundleError(f"{SIGNATURE_FILE}: {error}; upgrade mmkd-edge, or sign the bundle again") from error
