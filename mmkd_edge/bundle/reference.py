"""The reference of one person, machine or session: mean and standard deviation, or scores of its normal running.

`mmkd-data reference` writes it for a per-group modality, `mmkd-edge commission` for a student of normal data.
`EdgePredictor.open(..., reference=FILE)` applies mean and standard deviation as a z-score, one number per channel:
`{"format_version": 1, "modality": "temp", "mean": [36.4], "std": [0.3]}`.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import msgspec

from mmkd_edge.bundle.files import read_first, write_file
from mmkd_edge.bundle.manifest import Normal, Sha256
from mmkd_edge.bundle.strict_json import JsonError, decode_document, json_bytes
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec, stored

FORMAT_VERSION = 1
MAX_BYTES = 1 << 20


class Commissioned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a machine's normal running was recorded.

    `student_sha256` is the hash of the student's golden windows; `unlike` the fraction of windows that the bundle's own
    level called unknown; `judgement` is `passed`, or `passed, with warnings: ...`, empty in files of earlier versions.
    """

    model_id: str
    student_sha256: Sha256
    source: str
    ended_utc: str
    minutes: float
    unlike: float
    judgement: str = ""


class Reference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Mean and standard deviation per channel of one group's valid raw values; 0 and 1 of a modality without groups.

    With `normal` also the scores of a machine's normal running, in blocks of time instead of groups.
    """

    format_version: int = stored(FORMAT_VERSION)
    modality: str
    mean: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]
    std: tuple[Annotated[float, msgspec.Meta(gt=0)], ...]
    normal: Normal | None = None
    commissioned: Commissioned | None = None


def read_reference(path: str | os.PathLike[str]) -> Reference:
    """Read a reference file; UsageError if it is missing or invalid."""
    path = Path(path)
    data = read_first(path, MAX_BYTES + 1, expected="a reference written by mmkd-data reference")
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: expected a reference of at most {MAX_BYTES} bytes, got more")
    try:
        return _decode(data)
    except JsonError as error:
        raise UsageError(f"{path}: not a reference: {error}; make it again with mmkd-data reference") from error


def write_reference(path: str | os.PathLike[str], reference: Reference) -> None:
    """Write a reference file atomically; UsageError if it is invalid or unwritable."""
    data = json_bytes(reference)
    try:
        _decode(data)
    except JsonError as error:
        raise UsageError(f"reference of modality {reference.modality!r}: {error}") from error
    write_file(Path(path), data)


def _decode(data: bytes) -> Reference:
    reference = decode_document(data, Reference, version=FORMAT_VERSION)
    expected, got = len(reference.mean), len(reference.std)
    if got != expected:
        raise JsonError("std", f"expected one number per channel, {expected} as in mean, got {got}")
    if bool(reference.normal) != bool(reference.commissioned):
        raise JsonError("normal", "expected it together with 'commissioned', got one of them")
    scores = reference.normal.scores if reference.normal else ()
    if any(low > high for low, high in pairwise(scores)):
        raise JsonError("normal.scores", "expected rising numbers, got others")
    return reference


def check_reference(reference: Reference, modality: ModalitySpec) -> None:
    """Raise UsageError for a reference of another modality."""
    if modality.normalise != "per_group" and not reference.normal:
        raise UsageError(f"modality {modality.name!r} takes raw values and no reference; open the bundle without one")
    if reference.modality != modality.name:
        raise UsageError(f"expected a reference of modality {modality.name!r}, got one of {reference.modality!r}")
    if len(reference.mean) != len(modality.channels):
        raise UsageError(
            f"reference of modality {modality.name!r}: expected {len(modality.channels)} channels "
            f"({', '.join(modality.channels)}), got {len(reference.mean)}"
        )
