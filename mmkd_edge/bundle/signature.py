"""`signature.json`, the last member of a signed bundle: key ids and signatures of the manifest's hash."""

from __future__ import annotations

from typing import Annotated

import msgspec

from mmkd_edge.bundle.strict_json import JsonError, decode_document
from mmkd_edge.errors import BundleError

SIGNATURE_FILE = "signature.json"
MAX_SIGNATURE_BYTES = 1 << 16
FORMAT_VERSION = 1
_CONTEXT = b"mmkd-edge manifest 1\0"  # used for no other message

KeyId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key's signature, 64 bytes in hexadecimal (RFC 8032)."""

    key_id: KeyId
    ed25519: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]


class SignatureDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`signature.json`."""

    format_version: int = FORMAT_VERSION
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(min_length=1, max_length=16)]


def signed_message(manifest_sha256: str) -> bytes:
    """Return what a key signs: a context, and the manifest's 32-byte hash."""
    return _CONTEXT + bytes.fromhex(manifest_sha256)


def decode_signatures(data: bytes) -> SignatureDocument:
    """Read the file; BundleError if it is invalid."""
    try:
        return decode_document(data, SignatureDocument, version=FORMAT_VERSION)
    except JsonError as error:
        raise BundleError(f"{SIGNATURE_FILE}: {error}; upgrade mmkd-edge, or sign the bundle again") from error
