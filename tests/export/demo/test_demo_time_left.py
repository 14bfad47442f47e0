"""How long a demo will still take: by hand, and over a clock that does not run by itself."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mmkd_export.demo.time_left import PartTime, seconds_left
from mmkd_export.demo.watch import PhaseProgress
from mmkd_models.compare.comparison import Part
from mmkd_models.compare.fold_result import ComparisonConfig
from mmkd_models.compare.one_fold import ComparisonProgress, ComparisonStage
from mmkd_models.distillation.answers import BLOCKS
from mmkd_models.networks.config import MemberKind
from mmkd_models.train_config import TrainingProgress


def test_nothing_is_guessed_before_anything_was_measured() -> None:
    assert seconds_left([[PartTime(stage="teacher")]], workers=2) is None


def test_a_part_goes_on_at_its_own_pace_and_others_at_that_of_their_stage() -> None:
    begun = PartTime(stage="baseline", done=0.25, measured=0.25, elapsed_s=10)  # 40 s in all
    assert seconds_left([[begun, PartTime(stage="baseline")]], workers=1) == 30 + 40


def test_a_stage_that_nobody_has_begun_is_guessed_by_its_cost() -> None:
    teacher = PartTime(stage="teacher", done=0.5, measured=0.5, elapsed_s=50)  # 100 s in all
    answers = [PartTime(stage="answers", cost=0.25)] * 4  # 32 s in all
    assert seconds_left([[teacher], answers], workers=2) == pytest.approx(50 + 16)


def test_two_workers_take_parts_in_their_order_and_a_phase_waits_for_the_one_before() -> None:
    first = [
        PartTime(stage="teacher", done=0.5, measured=0.5, elapsed_s=60),  # 60 s left
        PartTime(stage="baseline", done=0.5, measured=0.5, elapsed_s=20),  # 20 s left, then the next one's 40
        PartTime(stage="baseline"),
    ]
    students = [PartTime(stage="student", done=0, measured=0)] * 3  # 0.3 of 160 s of cost 1.25 that took 80 s
    each_s = 0.3 * 80 / (0.5 * 1 + 0.5 * 0.25)
    assert seconds_left([first, students], workers=2) == pytest.approx(60 + 2 * each_s)


def test_what_an_earlier_run_did_counts_as_done_and_not_as_fast() -> None:
    resumed = PartTime(stage="student", done=0.75, measured=0.25, elapsed_s=10)  # 40 s in all, a quarter left
    assert seconds_left([[resumed]], workers=1) == 10


class Clock:
    """Seconds that pass when told so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_time_left_is_true_on_a_clock_that_keeps_the_costs(demo_config: ComparisonConfig, tmp_path: Path) -> None:
    """Two workers: 100 s of a teacher beside a baseline, then 38 s of answers, then a student of 15 s, then 30 s."""

    def part(stage: ComparisonStage, block: int | None = None) -> Part:
        return Part(seed=0, stage=stage, modality=None, config=demo_config, out=tmp_path, block=block)

    phases = [part("teacher"), part("baseline")], [part("answers", k) for k in range(BLOCKS)], [part("student")]
    clock, told = Clock(), list[float | None]()

    def tell(line: str, so_far_s: float, left_s: float | None, is_end: bool) -> None:
        told.append(left_s)

    watch = PhaseProgress(phases, workers=2, afterwards_s=30, tell=tell, clock=clock)
    total_s = 100 + 16 + 30 + 30

    def step(phase: int, number: int, stage: ComparisonStage, at: int, steps: int) -> None:
        progress = TrainingProgress(step=at, steps=steps, terms={}, best_score=None)
        watch.on_step(phase, number, ComparisonProgress(seed=0, stage=stage, modality=None, progress=progress))

    assert watch.left_s() is None
    for at in range(1, 44):  # the first generation takes 43 s, and beside it a baseline 25 s
        clock.now_s += 1
        step(0, 0, "teacher", at, 43)
        if at <= 25:
            step(0, 1, "baseline", at, 25)
        if at == 25:
            watch.on_end(0, 1)
        if at > 1:
            assert told[-1] == pytest.approx(total_s - at)
    for at in range(1, 58):
        clock.now_s += 1
        step(0, 0, "teacher", at, 57)
        assert told[-1] == pytest.approx(total_s - 43 - at)
    watch.on_end(0, 0)
    assert watch.left_s() == pytest.approx(total_s - 100)


@pytest.mark.parametrize(
    ("self_training", "trainings"), [(True, (43, 57, 43, 57, 43, 57)), (False, (43, 43, 43))], ids=["two", "one"]
)
def test_every_transformer_of_a_teacher_is_reckoned_with_from_its_first_step(
    demo_config: ComparisonConfig, tmp_path: Path, self_training: bool, trainings: tuple[int, ...]
) -> None:
    """Every training is reported by the second, and afterwards a student takes 30."""
    members: tuple[MemberKind, ...] = ("transformer", "transformer", "transformer", "trees")
    config = msgspec.structs.replace(demo_config, members=members, self_training=self_training)
    teacher, student = (
        Part(seed=0, stage=stage, modality=None, config=config, out=tmp_path) for stage in ("teacher", "student")
    )
    clock, told = Clock(), list[float | None]()

    def tell(line: str, so_far_s: float, left_s: float | None, is_end: bool) -> None:
        told.append(left_s)

    watch, total_s = (
        PhaseProgress(([teacher], [student]), workers=1, afterwards_s=0, tell=tell, clock=clock),
        sum(trainings),
    )
    for steps in trainings:
        for at in range(1, steps + 1):
            clock.now_s += 1
            progress = TrainingProgress(step=at, steps=steps, terms={}, best_score=None)
            watch.on_step(0, 0, ComparisonProgress(seed=0, stage="teacher", modality=None, progress=progress))
            total_s -= 1
            if len(told) > 1:  # what came before the first step is not known
                assert told[-1] == pytest.approx(total_s + 30)
    watch.on_end(0, 0)
    assert watch.left_s() == pytest.approx(30)
