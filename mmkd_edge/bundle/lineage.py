"""Where a student comes from that was adapted: from whom, to which recordings, and by what.

Owns one step of a lineage, as a checkpoint and a bundle's manifest keep it, and its words. Checks no hash.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

MOST_ADAPTED = 1000
TRAINING_HASH_BYTES = 8
MOST_TRAINING_HASHES = 8192

TrainingHashes = Annotated[bytes, msgspec.Meta(max_length=TRAINING_HASH_BYTES * MOST_TRAINING_HASHES)]
"""Keyed hashes of the groups and windows that trained a student, sorted, little-endian: evaluation knows them again."""


class Adapted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An adaptation that a student went through.

    Attributes:
        from_sha256: of the checkpoint that it came from.
        dataset: of the new domain.
        way: what it learnt from there.
        teacher_sha256: of the teacher that answered; None where none did.
        labels: how many labels of the new domain it saw.
        gain_points: of the estimate that chose it.
        forgotten_points: of the old domain.
        share: of the way from the checkpoint before to what was learnt; None, and not in the file, where all of it.
    """

    from_sha256: str
    dataset: str
    dataset_sha256: str
    way: str
    teacher_sha256: str | None
    labels: int
    gain_points: float
    forgotten_points: float
    share: float | None = None


def adapted_text(adapted: Adapted) -> str:
    """One adaptation in one line."""
    teacher = f", teacher {adapted.teacher_sha256}" if adapted.teacher_sha256 else ""
    part = f", {adapted.share:.0%} of the way" if adapted.share is not None else ""
    labels = f", {adapted.labels} labels" if adapted.labels else ""
    return (
        f"checkpoint {adapted.from_sha256} to {adapted.dataset} (SHA-256 {adapted.dataset_sha256}) by"
        f" {adapted.way!r}{part}{teacher}{labels}: estimate {adapted.gain_points:+.1f} points, old domain"
        f" {0 - adapted.forgotten_points:+.1f}"
    )
