"""Ed25519 keys (RFC 8032, by `cryptography`) that sign bundles."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from mmkd_edge.bundle.bundle import Bundle, KeyId, Signature, SignatureDocument, signed_message
from mmkd_edge.bundle.files import is_written_by_others, new_sha256, read_own_file, write_file
from mmkd_edge.bundle.strict_json import JsonError, decode_document, json_bytes
from mmkd_edge.errors import SignatureError, UnavailableError, UsageError, os_reason
from mmkd_edge.system import BINARY, NO_LINKS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT_VERSION = 1
PUBLIC_SUFFIX = ".pub"
REVOKED_FILE = "revoked.txt"
KEYS_VARIABLE = "MMKD_KEYS"
_MAX_KEY_BYTES = 1 << 16
_MAX_REVOKED_BYTES = 1 << 20
_MAX_KEYS = 64
_KEY_ID = re.compile(r"[0-9a-f]{16}\Z")


class PublicKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `.pub` file; the id is the first 16 hexadecimal digits of the SHA-256 of the key's 32 bytes."""

    format_version: int = FORMAT_VERSION
    key_id: KeyId
    ed25519: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


def make_keys(path: Path) -> tuple[PublicKey, Path]:
    """Write a private key (mode 600) and its public key, `path` + `.pub`; return the latter and its path."""
    ed25519, serialization = _cryptography()
    public_path = path.with_name(path.name + PUBLIC_SUFFIX)
    for file in (path, public_path):
        if file.exists():
            raise UsageError(f"{file}: exists, and keys are never overwritten; choose another name")
    private = ed25519.Ed25519PrivateKey.generate()
    pem: bytes = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = _make_public(private)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY | NO_LINKS, 0o600)
        with os.fdopen(descriptor, "wb") as private_file:
            private_file.write(pem)
            private_file.flush()
            os.fsync(private_file.fileno())
    except OSError as error:
        raise UsageError(f"{path}: cannot write it: {os_reason(error)}") from error
    write_file(public_path, json_bytes(public), own=True)
    return public, public_path


def sign(manifest_sha256: str, keys: Sequence[Path]) -> SignatureDocument:
    """Sign a manifest's hash with private keys, which nobody else may read."""
    signatures: list[Signature] = []
    for path in keys:
        private = _read_private(path)
        public = _make_public(private)
        if public.key_id in {signature.key_id for signature in signatures}:
            raise UsageError(f"{path}: this key was given twice; name each key once")
        signatures.append(Signature(key_id=public.key_id, ed25519=private.sign(signed_message(manifest_sha256)).hex()))
    return SignatureDocument(signatures=tuple(signatures))


def check_keys(keys: Sequence[Path]) -> None:
    """Raise the errors of `sign` before the work."""
    if keys:
        sign("0" * 64, keys)


def keys_folder(keys: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the public keys' folder: the argument, `MMKD_KEYS`, or None; UsageError for an empty text."""
    if keys is not None and not os.fspath(keys):
        raise UsageError(
            f"keys: expected a folder of public keys, got an empty text; name it, or leave keys out for {KEYS_VARIABLE}"
        )
    named = os.environ.get(KEYS_VARIABLE, "") if keys is None else os.fspath(keys)
    return Path(named) if named else None


def check_signed(bundle: Bundle, keys: str | os.PathLike[str] | None = None) -> str:
    """Return the id of the trusted key that signed a bundle; empty if no key folder is named.

    Raises SignatureError, with the reason for each signature, if none is valid.
    """
    folder = keys_folder(keys)
    if folder is None:
        return ""
    public, revoked = read_keys(folder)
    if bundle.signatures is None:
        raise SignatureError(
            f"{bundle.path}: it is not signed, and {folder} names the keys that must have; export it with --sign"
        )
    reasons = []
    for signature in bundle.signatures.signatures:
        reason = _invalidity(signature, public, revoked, bundle.manifest_sha256)
        if not reason:
            return signature.key_id
        reasons.append(f"key {signature.key_id} {reason}")
    raise SignatureError(
        f"{bundle.path}: no key of {folder} has signed it: {'; '.join(reasons)}; have it signed by one that counts"
    )


def read_keys(folder: Path) -> tuple[dict[str, PublicKey], frozenset[str]]:
    """Return a folder's public keys by id, and the revoked ids; UsageError if others can write them."""
    try:
        if is_written_by_others(folder.stat()):
            raise UsageError(f"{folder}: others can write this folder of keys; give it to this user alone: chmod 755")
        paths = sorted(folder.glob(f"*{PUBLIC_SUFFIX}"))
        files = [(path, read_own_file(path, max_bytes=_MAX_KEY_BYTES)) for path in paths[:_MAX_KEYS]]
    except OSError as error:
        raise UsageError(f"{folder}: this folder of keys cannot be read: {os_reason(error)}") from error
    if not files:
        raise UsageError(f"{folder}: expected public keys (*{PUBLIC_SUFFIX}), found none; mmkd-edge keygen makes one")
    if len(paths) > _MAX_KEYS:
        raise UsageError(f"{folder}: expected at most {_MAX_KEYS} keys, got {len(paths)}")
    public = {key.key_id: key for key in (_decode_public(path, data) for path, data in files)}
    return public, _read_revoked(folder / REVOKED_FILE)


def _read_revoked(path: Path) -> frozenset[str]:
    """A broken link counts as a file."""
    if not os.path.lexists(path):
        return frozenset()
    refusal = f"{path}: the list of revoked keys cannot be read, so no bundle is opened"
    try:
        data = read_own_file(path, max_bytes=_MAX_REVOKED_BYTES)
    except OSError as error:
        raise UsageError(f"{refusal}: {os_reason(error)}") from error
    if len(data) > _MAX_REVOKED_BYTES:
        raise UsageError(f"{refusal}: expected at most {_MAX_REVOKED_BYTES} bytes, got more; remove comments")
    ids = [line.split(b"#")[0].strip().decode("ascii", "replace") for line in data.split(b"\n")]
    wrong = [key_id for key_id in ids if key_id and _KEY_ID.match(key_id) is None]
    if wrong:
        raise UsageError(f"{path}: expected the id of a key on each line, 16 hexadecimal digits, got {wrong[0]!a}")
    return frozenset(ids)


def _invalidity(
    signature: Signature, public: dict[str, PublicKey], revoked: frozenset[str], manifest_sha256: str
) -> str:
    key = public.get(signature.key_id)
    if key is None:
        return "is not among them"
    if key.key_id in revoked:
        return "is revoked"
    ed25519, _ = _cryptography()
    from cryptography.exceptions import InvalidSignature

    try:
        ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.ed25519)).verify(
            bytes.fromhex(signature.ed25519), signed_message(manifest_sha256)
        )
    except (InvalidSignature, ValueError):
        return "has signed something else"
    return ""


def _decode_public(path: Path, data: bytes) -> PublicKey:
    again = "copy it again from where it was made"
    try:
        key = decode_document(data, PublicKey, version=FORMAT_VERSION)
    except JsonError as error:
        raise UsageError(f"{path}: expected a public key of mmkd-edge keygen: {error}; {again}") from error
    if key.key_id != _key_id(bytes.fromhex(key.ed25519)):
        raise UsageError(f"{path}: expected a public key with its own id, got the id {key.key_id}; {again}")
    return key


def _read_private(path: Path) -> Ed25519PrivateKey:
    ed25519, serialization = _cryptography()
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UsageError(f"{path}: others can read or write this private key; chmod 600, or make another")
        data = read_own_file(path, max_bytes=_MAX_KEY_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: expected a private key of mmkd-edge keygen: {os_reason(error)}") from error
    try:
        private = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: expected a private key of mmkd-edge keygen, got another file") from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise UsageError(f"{path}: expected an Ed25519 key, got another kind; mmkd-edge keygen makes one")
    key: Ed25519PrivateKey = private
    return key


def _make_public(private: Ed25519PrivateKey) -> PublicKey:
    raw = private.public_key().public_bytes_raw()
    return PublicKey(key_id=_key_id(raw), ed25519=raw.hex())


def _key_id(raw: bytes) -> str:
    return new_sha256(raw).hexdigest()[:16]


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise UnavailableError(
            "signatures need cryptography, which is not installed; install it with pip install 'mmkd-edge[sign]'"
        ) from error
    return ed25519, serialization
