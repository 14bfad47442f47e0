"""A fold whose students race: made in parts, at once or after an interruption, it is the same fold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mmkd_models.compare.comparison import compare_fold, make_part, parts_of
from mmkd_models.compare.fold_result import ComparisonConfig
from mmkd_models.compare.one_fold import ComparisonProgress
from mmkd_models.data import Dataset
from mmkd_models.training.checkpoint import read_student


class Interrupted(Exception):  # noqa: N818 - not an error of the code under test
    pass


@pytest.fixture(scope="module")
def config(comparison: Callable[..., ComparisonConfig]) -> ComparisonConfig:
    return comparison(choose=True, self_training=False, baseline_learning_rates=(1e-3,))


@pytest.fixture(scope="module")
def in_parts(machines: Dataset, config: ComparisonConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fold whose parts were made by themselves, the teacher's answers to both mixings kept."""
    out: Path = tmp_path_factory.mktemp("raced") / "parts"
    for phase in parts_of(machines, seed=1, config=config, out=out):
        for part in phase:
            if part.stage not in ("rivals", "taught"):
                make_part(machines, part, lambda step: None)
    assert len([path for path in (out / "answers").rglob("*") if path.is_file()]) == 2 * 4
    return out


@pytest.mark.slow
def test_an_interrupted_race_ends_with_the_bytes_of_one_that_was_made_in_parts(
    machines: Dataset, config: ComparisonConfig, in_parts: Path, tmp_path: Path
) -> None:
    steps: list[int] = []

    def interrupt(step: ComparisonProgress) -> None:
        if step.stage == "student" and step.progress is not None:
            steps.append(step.progress.step)
            if len(steps) == 10:  # six with mixed windows, and the fourth of those without
                raise Interrupted

    with pytest.raises(Interrupted):
        compare_fold(machines, seed=1, config=config, out=tmp_path, on_step=interrupt)
    assert steps == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4]
    steps.clear()

    def note(step: ComparisonProgress) -> None:
        if step.progress is not None:
            assert step.stage == "student"
            steps.append(step.progress.step)

    result = compare_fold(machines, seed=1, config=config, out=tmp_path, on_step=note)
    assert steps == [4, 5, 6]  # the last validation was at 3, and what was finished is not trained again
    for name in ("acc/student.ckpt", "acc/baseline.ckpt"):
        assert (tmp_path / name).read_bytes() == (in_parts / name).read_bytes()
    raced = read_student(tmp_path / "acc" / "student.ckpt").facts
    assert [one.name for one in raced.race or ()][:3] == [
        "transformer of mixed windows",
        "transformer of unmixed windows",
        "convolutional features",
    ]
    assert result.students["acc"].student.valid_score == raced.score
    assert compare_fold(machines, seed=1, config=config, out=in_parts) == result
