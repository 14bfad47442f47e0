"""Self-tests that were passed on this machine, kept by the hash of the bundle, so that a later start pays nothing.

A JSON file per bundle in the user's cache folder. Only what this user and root alone can write counts: a verdict of
somebody else would let a bundle answer untested. Reading never fails, and what cannot be written is tested again.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from mmkd_edge.bundle.files import cache_folder, read_own_file, write_file
from mmkd_edge.bundle.strict_json import JsonError, convert_object, json_bytes, parse_object
from mmkd_edge.errors import UsageError

FORMAT_VERSION = 2  # of 1 graphs were tried whose cost and indices nobody had looked at
_MOST_BYTES = 1 << 16
_MOST_PASSED = 64  # ways of one bundle: after as many the oldest are tested again


class PassedTrials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one bundle has passed here.

    Attributes:
        passed: the ways in which it did, as `way_of` names them, the latest last.
    """

    format_version: int = FORMAT_VERSION
    bundle_sha256: str
    passed: tuple[str, ...]


def passed_before(bundle_sha256: str) -> tuple[str, ...]:
    """The ways in which a bundle has passed here; none where nobody knows."""
    try:
        path = _path(bundle_sha256)
        _check_folder(path.parent)
        data = read_own_file(path, most_bytes=_MOST_BYTES)
        verdict = convert_object(parse_object(data), PassedTrials)
    except (OSError, UsageError, JsonError):
        return ()
    sound = verdict.format_version == FORMAT_VERSION and verdict.bundle_sha256 == bundle_sha256
    return verdict.passed if sound else ()


def remember_passed(bundle_sha256: str, ways: tuple[str, ...]) -> str:
    """Keep that a bundle has passed in these ways; gives why it could not be kept, else an empty text."""
    try:
        path = _path(bundle_sha256)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(path.parent)
        known = tuple(way for way in passed_before(bundle_sha256) if way not in ways)
        verdict = PassedTrials(bundle_sha256=bundle_sha256, passed=(*known, *ways)[-_MOST_PASSED:])
        write_file(path, json_bytes(verdict), own=True)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except UsageError as error:
        return str(error)
    return ""


def _path(bundle_sha256: str) -> Path:
    return cache_folder("verdicts") / f"{bundle_sha256}.json"


def _check_folder(folder: Path) -> None:
    facts = folder.stat()
    if facts.st_uid not in (0, os.geteuid()) or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(f"{folder}: others can write it; give it to this user alone: chmod 700")
