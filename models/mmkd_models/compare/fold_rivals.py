"""The rivals of one sensor on one fold, judged once: what they scored is a file, as networks are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from torch import nn

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import CheckpointError
from mmkd_models.compare.fold_result import FoldRival
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.rivals import Contestants, RivalName, Teach
from mmkd_models.evaluation.settled import Answers
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_models.training.predict import logits_of

Rivals = dict[RivalName, FoldRival]
"""What the file keeps, by name."""


def rivals_on(contestants: Contestants, names: Sequence[RivalName], *, metric: str, path: Path) -> Rivals:
    """Trains and judges the rivals, or reads what was found before.

    What cannot be run here is told and not kept, so that it is tried again where it can.

    Raises:
        CheckpointError: the file is damaged.
    """
    kept = _kept(path)
    missing = [name for name in names if name not in kept]
    if not missing:
        return {name: kept[name] for name in names}
    found = {name: _judged(contestants, name, metric) for name in missing}
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = kept | {name: rival for name, rival in found.items() if not rival.reason}
    if whole:
        write_file(path, msgspec.json.encode(whole))
    return {name: (kept | found)[name] for name in names}


def are_kept(path: Path, names: Sequence[RivalName]) -> bool:
    """Says whether nothing is left to judge."""
    return set(names) <= set(_kept(path))


def _kept(path: Path) -> Rivals:
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=Rivals)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: expected scores of rivals, got a damaged file ({error}); delete it") from error


def _judged(contestants: Contestants, rival: RivalName, metric: str) -> FoldRival:
    found = contestants.judged(rival)
    if isinstance(found, str):
        return FoldRival(reason=found)
    on_valid, on_test = found
    return FoldRival(judged=on_test, valid_score=on_valid.scores.metric(metric))


def teach_with(network: nn.Module) -> Teach:
    """Gives what a teacher of all modalities says to windows: probabilities, or numbers."""

    def teach(windows: Windows) -> Answers:
        logits = logits_of(network, windows, modality=None).astype("float64")
        kind = windows.spec.task.kind
        return logits if kind == "regression" else probabilities_of(logits, kind=kind)

    return teach
