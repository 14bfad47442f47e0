"""The rivals of one sensor on one fold, judged once: what they scored is a file, as networks are."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import CheckpointError
from mmkd_models.compare.fold_result import FoldRival
from mmkd_models.data.windows import Windows
from mmkd_models.evaluate.rivals import RivalName, rival_outcomes


class Rivals(msgspec.Struct, frozen=True, kw_only=True):
    """What the file keeps."""

    extra_trees: FoldRival
    mini_rocket: FoldRival


def rivals_on(
    train: Windows, valid: Windows, test: Windows, *, metric: str, modality: str, seed: int, path: Path
) -> Rivals:
    """Trains and judges both rivals, or reads what was found before.

    Where a rival cannot be run, that is told and nothing is kept, so that it is tried again where it can.

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

    def judged(rival: RivalName) -> FoldRival:
        found = rival_outcomes(rival, train, (valid, test), modality=modality, seed=seed)
        if isinstance(found, str):
            return FoldRival(reason=found)
        on_valid, on_test = found
        return FoldRival(judged=on_test, valid_score=on_valid.scores.metric(metric))

    rivals = Rivals(extra_trees=judged("extra_trees"), mini_rocket=judged("mini_rocket"))
    if not rivals.extra_trees.reason and not rivals.mini_rocket.reason:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, msgspec.json.encode(rivals))
    return rivals
