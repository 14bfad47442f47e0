"""The rivals of one sensor on one fold, judged once: what they scored is a file, as networks are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import CheckpointError
from mmkd_models.compare.fold_result import FoldRival
from mmkd_models.data.windows import Windows
from mmkd_models.evaluate.rivals import JudgeRival, extra_trees_judged, mini_rocket_judged


class Rivals(msgspec.Struct, frozen=True, kw_only=True):
    """What the file keeps."""

    extra_trees: FoldRival
    mini_rocket: FoldRival


def rivals_on(
    train: Windows, valid: Windows, test: Windows, *, metric: str, modality: str, seed: int, path: Path
) -> Rivals:
    """Trains and judges both rivals, or reads what was found before.

    Where MiniRocket cannot be run, that is told and nothing is kept, so that it is tried again where it can.

    Args:
        train: windows to learn from.
        valid: windows on which they are held against students, by `metric`.
        test: windows to judge by.
        metric: what validation chooses by.
        modality: their sensor.
        seed: of what is drawn.
        path: of the file.

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

    def judged(judge: JudgeRival) -> FoldRival:
        on_valid, on_test = judge(train, (valid, test), modality=modality, seed=seed)
        return FoldRival(judged=on_test, valid_score=on_valid.scores.metric(metric))

    found = Rivals(extra_trees=judged(extra_trees_judged), mini_rocket=_mini_rocket(judged))
    if not found.mini_rocket.reason:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, msgspec.json.encode(found))
    return found


def _mini_rocket(judged: Callable[[JudgeRival], FoldRival]) -> FoldRival:
    try:
        return judged(mini_rocket_judged)
    except ImportError:
        return FoldRival(reason="aeon is not installed; run: pip install 'mmkd-edge[rivals]'")
    except ValueError as error:  # aeon refuses windows that are too short for its kernels
        return FoldRival(reason=f"MiniRocket refused these windows: {error}")
