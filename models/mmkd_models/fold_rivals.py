"""The rivals of one sensor on one fold, judged once: what they scored is a file, as networks are."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mmkd_edge.errors import CheckpointError
from mmkd_edge.files import write_file
from mmkd_models.data.windows import Windows
from mmkd_models.evaluate.judged import Judged
from mmkd_models.evaluate.rivals import extra_trees_judged, mini_rocket_judged
from mmkd_models.fold_result import RivalResult


class Rivals(msgspec.Struct, frozen=True, kw_only=True):
    """What the file keeps."""

    extra_trees: RivalResult
    mini_rocket: RivalResult


def rivals_on(train: Windows, test: Windows, *, modality: str, seed: int, path: Path) -> Rivals:
    """Trains and judges both rivals, or reads what was found before.

    Where MiniRocket cannot be run, that is told and nothing is kept, so that it is tried again where it can.

    Raises:
        CheckpointError: the file is damaged.
    """
    if path.exists():
        try:
            return msgspec.json.decode(path.read_bytes(), type=Rivals)
        except msgspec.DecodeError as error:
            raise CheckpointError(
                f"{path}: expected scores of rivals, got a damaged file ({error}); delete it"
            ) from error
    found = Rivals(
        extra_trees=_result(extra_trees_judged(train, test, modality=modality, seed=seed)),
        mini_rocket=_mini_rocket(train, test, modality=modality, seed=seed),
    )
    if not found.mini_rocket.reason:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, msgspec.json.encode(found))
    return found


def _mini_rocket(train: Windows, test: Windows, *, modality: str, seed: int) -> RivalResult:
    try:
        return _result(mini_rocket_judged(train, test, modality=modality, seed=seed))
    except ImportError:
        return RivalResult(class_scores=None, reason="aeon is not installed; run: pip install 'mmkd-edge[rivals]'")
    except ValueError as error:  # aeon refuses windows that are too short for its kernels
        return RivalResult(class_scores=None, reason=f"MiniRocket refused these windows: {error}")


def _result(judged: Judged) -> RivalResult:
    if judged.class_scores is msgspec.UNSET:
        return RivalResult(class_scores=None, judged=judged)
    return RivalResult(class_scores=judged.class_scores)
