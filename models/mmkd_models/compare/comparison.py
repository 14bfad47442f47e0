"""One fair comparison: teacher, baseline, student and rivals on the same fold with the same labels.

Owns what "fair" means: grouped folds; the same visible labels for everyone; the baseline runs the student's race with
the same steps and seed, but labels alone (without a race it has the student's architecture and augmentation, and its
own choice of learning rate by validation); the test windows are touched once, by finished models. A finished fold is a
file, and so is every finished network: an interrupted comparison continues where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UsageError
from mmkd_models.compare.fold_result import (
    ComparisonConfig,
    FoldResult,
    FoldSubsetScore,
    GroupCount,
    MissingCurve,
    ModalityResult,
    NetworkResult,
)
from mmkd_models.compare.fold_rivals import Rivals, are_kept, rivals_on, teach_with
from mmkd_models.compare.one_fold import (
    ANSWERS_FOLDER,
    CLAIM_FILE,
    RESULT_FILE,
    ComparedFold,
    ComparisonProgress,
    ComparisonStage,
    OnStep,
    another_comparison,
    finished_fold,
    fold_of,
    spread_in_time,
    take_folder,
)
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.spec import DatasetSpec
from mmkd_models.data.windows import split_facts
from mmkd_models.distillation.answers import BLOCKS
from mmkd_models.evaluation.gains import spread
from mmkd_models.evaluation.missing import scores_by_missing_share, scores_by_subset
from mmkd_models.evaluation.outcome import GroupConfusion, TestedNetwork, outcome_on
from mmkd_models.evaluation.rivals import Contestants, RivalName
from mmkd_models.metrics.measures import measures_of
from mmkd_models.networks.config import Preset, student_config, teacher_config
from mmkd_models.networks.student import values_of
from mmkd_models.training.checkpoint import (
    StudentCheckpoint,
    TeacherCheckpoint,
    file_sha256,
    read_student,
    read_teacher,
    write_student,
    write_teacher,
)
from mmkd_models.training.choosing.race import labelled_race, mixings, taught_race
from mmkd_models.training.committee import train_committee
from mmkd_models.training.inputs import with_learning_rate
from mmkd_models.training.predict import logits_of
from mmkd_models.training.teacher_set import TaughtBy
from mmkd_models.training.trainings import distil, keep_answers, train_baseline
from mmkd_report.schema.demo import TriedSize

NEAR_BEST = 0.005
"""How far below the best validation score, as a fraction, a smaller teacher may lie and still be taken."""


def compare_fold(
    dataset: Dataset, *, seed: int, config: ComparisonConfig, out: Path, on_step: OnStep | None = None
) -> FoldResult:
    """Trains and scores everything on one fold; a fold that is finished in `out` is read, not trained again.

    Args:
        dataset: where the windows come from.
        seed: number of the fold, and seed of everything random in it.
        config: what is compared.
        out: folder of this fold: `fold.json`, `teacher-<size>.ckpt`, `<modality>/student.ckpt`,
            `<modality>/baseline.ckpt`.
        on_step: called after every training step.

    Raises:
        UsageError: the folder belongs to another comparison.
        CheckpointError: a file in it is damaged.
    """
    split = split_facts(dataset.everything())
    finished = finished_fold(out / RESULT_FILE, dataset.sha256, seed, config, split)
    if finished is not None:
        return finished
    take_folder(out / CLAIM_FILE, dataset, seed, config)
    fold = fold_of(dataset, seed=seed, config=config, out=out, say=on_step)
    data, teacher = fold.data, _teacher(fold)
    network = teacher.network()
    result = FoldResult(
        config=config,
        dataset_sha256=dataset.sha256,
        seed=seed,
        windows={
            "train": len(data.training.train),
            "labelled": int(data.training.train.labelled.sum()),
            "valid": len(data.training.valid),
            "test": len(data.test),
        },
        groups=dataset.everything().group_count,
        train_groups=data.training.train.group_count,
        split=split,
        teacher=_network_result(teacher, outcome_on(data.test, logits_of(network, data.test, modality=None))),
        teacher_subsets=tuple(
            FoldSubsetScore(modalities=subset, figure=scores.metric(_first_measure(dataset.spec)))
            for subset, scores in scores_by_subset(network, data.test).items()
        ),
        spread_in_time=spread_in_time(data, config.labelled),
        students={name: _modality(fold, name, teacher) for name in config.modalities},
    )
    write_file(out / RESULT_FILE, msgspec.json.format(msgspec.json.encode(result), indent=1))
    shutil.rmtree(out / ANSWERS_FOLDER, ignore_errors=True)
    return result


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of a fold, that needs no other part of its phase; it can be pickled.

    Attributes:
        modality: whose it is; None where it is of all.
        block: of `BLOCKS`, to whose steps the teacher answers; None of everything else.
    """

    seed: int
    stage: ComparisonStage
    modality: str | None
    config: ComparisonConfig
    out: Path
    block: int | None = None


def parts_of(
    dataset: Dataset, *, seed: int, config: ComparisonConfig, out: Path
) -> tuple[tuple[Part, ...], tuple[Part, ...], tuple[Part, ...]]:
    """Gives what a fold lacks, in phases: the parts of each can be made side by side, those of later ones after it.

    `make_part` makes one, and `compare_fold` finds what was made.

    Raises:
        UsageError: the folder belongs to another comparison.
    """
    take_folder(out / CLAIM_FILE, dataset, seed, config)
    if (out / RESULT_FILE).exists():
        return (), (), ()
    part = partial(Part, seed=seed, config=config, out=out)
    names = config.modalities
    teacher = () if teacher_path(out, config.teacher).exists() else (part(stage="teacher", modality=None),)
    baselines = [part(stage="baseline", modality=one) for one in names if not (out / one / "baseline.ckpt").exists()]
    rivals = [part(stage="rivals", modality=one) for one in names if not are_kept(*_untaught(out, one, config))]
    taught = [part(stage="taught", modality=one) for one in names if not are_kept(*_taught(out, one, config))]
    students = [part(stage="student", modality=one) for one in names if not (out / one / "student.ckpt").exists()]
    looks_inside = any(term.compares_layers() for term in config.recipe.terms)
    answers = [
        part(stage="answers", modality=None, block=block)
        for block in range(0 if looks_inside or not students else BLOCKS)
    ]
    return (*teacher, *baselines, *rivals), tuple(answers), (*students, *taught)


def make_part(dataset: Dataset, part: Part, on_step: OnStep) -> None:
    """Makes a part, where it is not there yet."""
    fold = fold_of(dataset, seed=part.seed, config=part.config, out=part.out, say=on_step)
    if part.stage == "teacher":
        _teacher(fold)
    elif part.stage == "answers":
        _answers(fold, part)
    else:
        assert part.modality is not None  # of the others
        if part.stage == "baseline":
            _baseline(fold, part.modality)
        elif part.stage == "rivals":
            _rivals(fold, part.modality)
        else:
            teacher = read_teacher(teacher_path(part.out, part.config.teacher))
            if part.stage == "taught":
                _rivals(fold, part.modality, teacher)
            else:
                _student(fold, part.modality, teacher)


def _answers(fold: ComparedFold, part: Part) -> None:
    assert part.block is not None  # of answers
    path, config = teacher_path(fold.out, fold.config.teacher), fold.config
    teachers = (TaughtBy(checkpoint=read_teacher(path), sha256=file_sha256(path)),)
    run = fold.run(config.student_train, "answers", "answers")
    for augment in mixings(config.augment) if config.choose else (config.augment,):
        own = replace(run, augment=augment)
        keep_answers(fold.data.training, own, part.block, teachers=teachers, recipe=config.recipe)


def _teacher(fold: ComparedFold) -> TeacherCheckpoint:
    config = fold.config
    path = teacher_path(fold.out, config.teacher)
    if path.exists():
        return read_teacher(path)
    name = f"teacher-{config.teacher}"
    run = fold.run(config.teacher_train, name, "teacher")
    teacher = train_committee(
        fold.data.training,
        teacher_config(config.teacher),
        run,
        members=config.members,
        self_training=config.self_training,
    ).checkpoint
    write_teacher(path, teacher)
    fold.drop_states(name)
    return teacher


def teacher_path(out: Path, preset: Preset) -> Path:
    """Gives where a fold keeps its teacher of that size."""
    return out / f"teacher-{preset}.ckpt"


def choose_teacher(
    dataset: Dataset,
    *,
    seeds: Sequence[int],
    presets: Sequence[Preset],
    config: ComparisonConfig,
    folder: Callable[[int], Path],
    on_step: OnStep | None = None,
) -> tuple[TriedSize, ...]:
    """Trains a teacher of each size on every fold and chooses the smallest within half a point of the best.

    The score is the one that training maximises, on validation.

    A single size is chosen without training anything. The teachers stay in their folds' folders, where `compare_fold`
    finds them.
    """
    if len(presets) == 1:
        return (TriedSize(preset=presets[0], parameters=None, valid_score=None, chosen=True),)
    for seed in seeds:
        take_folder(folder(seed) / CLAIM_FILE, dataset, seed, config)
    tried = []
    for preset in presets:
        sized = msgspec.structs.replace(config, teacher=preset)
        teachers = [
            _teacher(fold_of(dataset, seed=seed, config=sized, out=folder(seed), say=on_step)) for seed in seeds
        ]
        parameters = sum(parameter.numel() for parameter in teachers[0].transformer().parameters())
        tried.append((parameters, preset, [teacher.facts.score for teacher in teachers]))
    best = max(float(np.mean(scores)) for _, _, scores in tried)
    near = [size for size in sorted(tried) if float(np.mean(size[2])) >= best - NEAR_BEST]
    return tuple(
        TriedSize(preset=preset, parameters=parameters, valid_score=spread(scores), chosen=preset == near[0][1])
        for parameters, preset, scores in tried
    )


def _modality(fold: ComparedFold, name: str, teacher: TeacherCheckpoint) -> ModalityResult:
    baseline, student = _baseline(fold, name), _student(fold, name, teacher)
    rivals = _rivals(fold, name) | _rivals(fold, name, teacher)
    test, seed = fold.data.test, fold.seed
    first = _first_measure(test.spec)
    networks = {"baseline": baseline.network(), "student": student.network()}
    judged = {who: outcome_on(test, logits_of(network, test, modality=name)) for who, network in networks.items()}
    missing = {
        who: scores_by_missing_share(network, test, modality=name, seed=seed) for who, network in networks.items()
    }
    return ModalityResult(
        baseline=_network_result(baseline, judged["baseline"]),
        student=_network_result(student, judged["student"]),
        **rivals,
        missing=MissingCurve(
            shares=tuple(missing["student"]),
            student=tuple(scores.metric(first) for scores in missing["student"].values()),
            baseline=tuple(scores.metric(first) for scores in missing["baseline"].values()),
        ),
    )


def _first_measure(spec: DatasetSpec) -> str:
    return measures_of(spec.task)[0].name


def _baseline(fold: ComparedFold, name: str) -> StudentCheckpoint:
    path, config = fold.out / name / "baseline.ckpt", fold.config
    if path.exists():
        return read_student(path)
    if config.choose:
        run_name = f"{name}-baseline"
        run = fold.run(config.student_train, run_name, "baseline", name)
        chosen = labelled_race(fold.data.training, name, student_config(config.student), run)
        write_student(path, chosen)
        fold.drop_states(run_name)
        return chosen
    runs = {rate: f"{name}-baseline-{rate:g}" for rate in config.baseline_learning_rates}
    best: StudentCheckpoint | None = None
    for rate, run_name in runs.items():
        run = with_learning_rate(fold.run(config.student_train, run_name, "baseline", name), rate)
        tried = train_baseline(fold.data.training, name, student_config(config.student), run)
        if best is None or tried.facts.score > best.facts.score:
            best = tried
    if best is None:
        raise UsageError("baseline: expected one or more learning rates, got none; name some")
    write_student(path, best)
    fold.drop_states(*runs.values())
    return best


def _student(fold: ComparedFold, name: str, teacher: TeacherCheckpoint) -> StudentCheckpoint:
    path, run_name, config = fold.out / name / "student.ckpt", f"{name}-student", fold.config
    teacher_sha256 = file_sha256(teacher_path(fold.out, config.teacher))
    if path.exists():
        finished = read_student(path)
        asked = finished.facts.teachers_sha256 or finished.facts.beaten_teachers_sha256
        if asked and asked != (teacher_sha256,):  # an earlier file does not say whom labels alone have beaten
            raise another_comparison(path)
        return finished
    data, size = fold.data.training, student_config(config.student)
    run = fold.run(config.student_train, run_name, "student", name)
    if config.choose:
        student = taught_race(
            data,
            name,
            size,
            run,
            teachers=(TaughtBy(checkpoint=teacher, sha256=teacher_sha256),),
            recipe=config.recipe,
            labelled=_baseline(fold, name),
        )
    else:
        student = distil(data, name, size, run, teacher=teacher, teacher_sha256=teacher_sha256, recipe=config.recipe)
    write_student(path, student)
    fold.drop_states(run_name)
    return student


def _untaught(out: Path, name: str, config: ComparisonConfig) -> tuple[Path, tuple[RivalName, ...]]:
    """Where those of a modality are kept that nobody teaches, and who they are."""
    return out / name / "rivals.json", config.untaught_rivals


def _taught(out: Path, name: str, config: ComparisonConfig) -> tuple[Path, tuple[RivalName, ...]]:
    """Those that the teacher of this size teaches: several sizes may be tried in a folder."""
    return out / name / f"rivals-{config.teacher}.json", config.taught_rivals


def _rivals(fold: ComparedFold, name: str, teacher: TeacherCheckpoint | None = None) -> Rivals:
    """Those that nobody teaches, or with a teacher those that it teaches."""
    training, config = fold.data.training, fold.config
    path, names = (_untaught if teacher is None else _taught)(fold.out, name, config)
    stage: ComparisonStage = "rivals" if teacher is None else "taught"
    if not are_kept(path, names):
        fold.say(ComparisonProgress(seed=fold.seed, stage=stage, modality=name, progress=None))
    contestants = Contestants(
        train=training.train,
        parts=(training.valid, fold.data.test),
        modality=name,
        seed=fold.seed,
        metric=config.student_train.metric,
        teach=None if teacher is None else teach_with(teacher.network()),
    )
    return rivals_on(contestants, names, metric=config.student_train.metric, path=path)


def _network_result(checkpoint: StudentCheckpoint | TeacherCheckpoint, judged: TestedNetwork) -> NetworkResult:
    facts, of_classes = checkpoint.facts, judged.class_scores is not msgspec.UNSET
    network = checkpoint.transformer() if isinstance(checkpoint, TeacherCheckpoint) else checkpoint.network()
    return NetworkResult(
        class_scores=judged.class_scores,
        by_group=tuple(_right_of(one) for one in judged.confusions or ()) if of_classes else msgspec.UNSET,
        judged=msgspec.UNSET if of_classes else judged,
        parameters=values_of(network),
        kind=checkpoint.config.kind if isinstance(checkpoint, StudentCheckpoint) else msgspec.UNSET,
        shipped=facts.shipped,
        learning_rate=facts.training.learning_rate,
        valid_score=facts.score,
        curve=facts.curve,
    )


def _right_of(group: GroupConfusion) -> GroupCount:
    counts = np.array(group.confusion)
    return GroupCount(group=group.group, right=int(np.trace(counts)), windows=int(counts.sum()))
