"""Configs that passed on this machine, in the user's cache folder by bundle hash.

Files that others can write are ignored.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mmkd_edge.bundle.files import cache_folder, is_written_by_others, make_cache_folder, read_own_file, write_file
from mmkd_edge.bundle.strict_json import JsonError, decode_document, json_bytes
from mmkd_edge.errors import UsageError

FORMAT_VERSION = 2
_MAX_BYTES = 1 << 16
_MAX_PASSED = 64  # per bundle; older ones are checked again


class Verdicts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of a bundle's passed configs, the latest last."""

    format_version: int = FORMAT_VERSION
    bundle_sha256: str
    passed: tuple[str, ...]


def passed_before(bundle_sha256: str) -> tuple[str, ...]:
    """Return the keys of a bundle's configs that passed here."""
    try:
        path = _path(bundle_sha256)
        if is_written_by_others(path.parent.stat()):
            return ()
        verdicts = decode_document(read_own_file(path, max_bytes=_MAX_BYTES), Verdicts, version=FORMAT_VERSION)
    except (OSError, UsageError, JsonError):
        return ()
    return verdicts.passed if verdicts.bundle_sha256 == bundle_sha256 else ()


def remember_passed(bundle_sha256: str, keys: tuple[str, ...]) -> str:
    """Remember passed configs; return why that failed, or an empty text."""
    try:
        path = _path(bundle_sha256)
        make_cache_folder(path.parent)
        earlier = tuple(key for key in passed_before(bundle_sha256) if key not in keys)
        verdicts = Verdicts(bundle_sha256=bundle_sha256, passed=(*earlier, *keys)[-_MAX_PASSED:])
        write_file(path, json_bytes(verdicts), own=True)
    except UsageError as error:
        return str(error)
    return ""


def _path(bundle_sha256: str) -> Path:
    return cache_folder("verdicts") / f"{bundle_sha256}.json"
