"""How long teaching a camera and a microphone takes, from a dataset to bundles, and where the time goes.

    python benchmarks/proofs/distil_time.py grid_sentences -o out

Groups are drawn until they have `--windows` windows, of which a tenth is labelled and all teach; the others validate.
Trains a tiny teacher of all modalities with the usual members and steps, distils it into a tiny student of each, and
exports them. Every stage is a row: seconds on the wall and of a processor, and which of the latter went into drawing
and varying batches, the teacher's answers, forward and backward passes, validations, and members of the committee that
are not trained step by step. Front-ends, hearing and seeing, forward, are a part of the other columns. One thread.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch

from mmkd_export.plan import ExportPlan
from mmkd_export.run import export
from mmkd_models.data import Dataset
from mmkd_models.data.batches import BatchSource
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.labelled import Labelled
from mmkd_models.defaults import AUGMENT, STUDENT_TRAIN, TEACHER_TRAIN
from mmkd_models.distil.learner import DistillLearner, SupervisedLearner
from mmkd_models.distil.methods import default_recipe
from mmkd_models.networks.config import student_config, teacher_config
from mmkd_models.networks.fronts.frames import FrameFront
from mmkd_models.networks.fronts.log_mel import LogMelFront
from mmkd_models.training import committee, loop
from mmkd_models.training.checkpoint import file_sha256, write_student, write_teacher
from mmkd_models.training.closed_form.students import taught_student
from mmkd_models.training.inputs import TrainingData, TrainingRun, visible_labels
from mmkd_models.training.teacher_set import TaughtBy
from proofs.script import head, parser_of, row

LABELLED = Labelled(share=0.1)
PARTS: Mapping[str, tuple[Any, ...]] = {
    "batches": (BatchSource.at,),
    "answers": (DistillLearner._answers,),
    "forward": (SupervisedLearner.forward, DistillLearner.forward),
    "backward": (torch.Tensor.backward,),
    "validations": (loop._Loop._validate,),
    "other members": (committee._grown,),
    "front-ends": (FrameFront.forward, LogMelFront.forward),
}
"""The functions that each part is spent in."""

T = TypeVar("T")


def main() -> None:
    """Run the stages one after another, and print a row for each."""
    parser = parser_of(__doc__)
    parser.add_argument("data", help="dataset directory of sound and video")
    parser.add_argument("--windows", type=int, default=3000, help="that teach")
    parser.add_argument("--teacher-steps", type=int, default=TEACHER_TRAIN.steps)
    parser.add_argument("--student-steps", type=int, default=STUDENT_TRAIN.steps)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="for checkpoints and bundles")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(options.data)
    clock = Clock()
    print(head("stage", "wall, s", "processor, s", *PARTS, "the rest"), flush=True)
    clock.timed("loading libraries", load_libraries)
    data = clock.timed("reading", partial(divided, dataset, options.windows))
    taught_by = clock.timed("teacher", partial(teacher_of, data, options.teacher_steps, options.out), trains=True)
    for name in (modality.name for modality in dataset.spec.modalities):
        path = options.out / f"{name}.ckpt"
        teach = partial(student_of, data, name, options.student_steps, path, taught_by)
        clock.timed(f"student, {name}", teach, trains=True)
        plan = ExportPlan(source=path, output=path.with_suffix(".edge"), targets=("onnx",))
        clock.timed(f"export, {name}", partial(export, plan))
    print(row("all", *(f"{value:.1f}" for value in clock.total)))
    print(f"\n{len(data.train):,} windows teach, {len(data.valid):,} validate; {os.cpu_count()} processors")


class Clock:
    """Times stages, prints a row for each, and adds them up."""

    def __init__(self) -> None:
        self.total = np.zeros(3 + len(PARTS))

    def timed(self, stage: str, make: Callable[[], T], *, trains: bool = False) -> T:
        """Gives what is made. A training is profiled, which costs it little; an export, much of it Python, is not."""
        profile = cProfile.Profile(time.process_time)
        begin, before = time.perf_counter(), _processor_s()
        made = profile.runcall(make) if trains else make()
        wall_s, busy_s = time.perf_counter() - begin, _processor_s() - before
        spent = spent_in(profile) if trains else dict.fromkeys(PARTS, 0.0)
        rest = busy_s - sum(spent.values()) + spent["front-ends"]
        values = np.array([wall_s, busy_s, *spent.values(), rest])
        self.total += values
        print(row(stage, *(f"{value:.1f}" for value in values)), flush=True)
        return made


def spent_in(profile: cProfile.Profile) -> dict[str, float]:
    """Gives seconds of a processor in each of the parts; a student's forward pass is without the answers in it."""
    stats: Mapping[tuple[str, int, str], tuple[Any, ...]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    found = {}
    for part, functions in PARTS.items():
        codes = [function.__code__ for function in functions]
        keys = [(code.co_filename, code.co_firstlineno, code.co_name) for code in codes]
        found[part] = sum(stats[key][3] for key in keys if key in stats)
    return found | {"forward": found["forward"] - found["answers"]}


def _processor_s() -> float:
    """Seconds of processors that this process and its finished children used."""
    return sum(os.times()[:4])


def load_libraries() -> None:
    """What every training and every export begins with."""
    import lightning_fabric  # noqa: F401
    import onnxscript  # noqa: F401
    import sklearn.ensemble  # noqa: F401


def divided(dataset: Dataset, count: int) -> TrainingData:
    """Gives the training: groups in a drawn order until they have so many windows; the others validate."""
    windows = dataset.everything()
    groups, position = np.unique(windows.groups, return_inverse=True)
    place = np.random.default_rng(0).permutation(len(groups))[position.reshape(-1)]
    sizes = np.cumsum(np.bincount(place))
    teaches = place <= np.searchsorted(sizes, count)
    if teaches.all():
        raise SystemExit(f"--windows {count}: expected fewer than the {len(windows)} there are; some must validate")
    train, valid = windows.subset(np.flatnonzero(teaches)), windows.subset(np.flatnonzero(~teaches))
    for one in (train, valid):
        one.take(np.arange(len(one)))  # from here on the files are in memory
    seen = visible_labels(train, share=LABELLED.share, groups=None, seed=0)
    return TrainingData(train=train.with_labels(seen), valid=valid, sha256=dataset.sha256, labelled=LABELLED)


def teacher_of(data: TrainingData, steps: int, out: Path) -> TaughtBy:
    """Trains and writes the teacher."""
    run = TrainingRun(train=msgspec.structs.replace(TEACHER_TRAIN, steps=steps), augment=AUGMENT)
    members = committee.default_members(data.train.spec.modalities)
    made = committee.train_committee(data, teacher_config("tiny"), run, members=members, self_training=False)
    write_teacher(out / "teacher.ckpt", made.checkpoint)
    return TaughtBy(checkpoint=made.checkpoint, sha256=file_sha256(out / "teacher.ckpt"))


def student_of(data: TrainingData, name: str, steps: int, path: Path, taught_by: TaughtBy) -> None:
    """Distils and writes the student of one modality."""
    run = TrainingRun(train=msgspec.structs.replace(STUDENT_TRAIN, steps=steps), augment=AUGMENT)
    recipe, config = default_recipe(data.train.spec.task), student_config("tiny")
    write_student(path, taught_student(data, name, config, run, teachers=[taught_by], recipe=recipe))


if __name__ == "__main__":
    main()
