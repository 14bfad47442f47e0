"""A few labels of new people or machines: what replay of old windows is worth, and what it saves from being forgotten.

    python benchmarks/proofs/adaptation_labels.py mydata:acc other:eda --labels 5 --results build/adaptation_labels

Three groups are the old domain: a student of convolutional features learns the labels of the first two thirds of each
of their classes, the next sixth judges what is forgotten, and the last sixth nobody sees. Each of the three groups
after them is a new domain by itself: each class is cut into four stretches, of which the first and the third give the
labels, and nobody sees the second and the fourth; with `--later` the first half gives them, and nobody sees the second.
The last window of a stretch is left out, since neighbours overlap. So old and new are both measured on windows that
neither taught nor chose; but the first window that is measured of an old class may share samples with the one before
it, which judged. The arms:

- labels: what learns from the labels, all of the way and without a gate;
- gate: what `mmkd-adapt --labels` writes, a part of the way where all of it forgets too much, else the student before;
- gate, sure: the same where the gain on the labels must be sure, as it must be without labels;
- gate, all or nothing: all of the way, or the student as it was;
- gate, strict: the same where no standard error is allowed beside the point that may be forgotten;
- gate, replay thrice: all of the way, and where it forgets too much the old windows count three times the new ones;
- no replay: the same regression on the new labels alone, without old windows;
- anew on both: a student that is trained from nothing on the old labels and the new ones;
- all labels: as `labels`, with every label there is to give.

Prints balanced accuracy, and gains with the middle 95 % over draws of pairs; what the old domain changes also of those
students alone that an arm changes. What one old domain gave is one file in
the results folder, and is not repeated.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.bundle.files import write_file
from mmkd_models.adapt.domains import FEWEST, Domain, few_labels
from mmkd_models.adapt.judging import forgets, heard, judged, sure_errors
from mmkd_models.adapt.run import (
    FOLDS,
    AdaptationRequest,
    court_of,
    logits_of_others,
    parts_of_labels,
    run_adaptation,
    task_of,
)
from mmkd_models.adapt.ways import ADAPT_TRAIN, Task, adapted, old_answers, refitted
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.windows import Windows
from mmkd_models.defaults import AUGMENT, STUDENT_PRESET, STUDENT_TRAIN
from mmkd_models.networks.config import student_config
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form.students import labelled_student
from mmkd_models.training.closed_form.targets import label_answers
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_report.documents.adaptation import WayJudgement
from proofs.adaptation_pairs import LEAST_DROP
from proofs.commissioning import answers_of, halves_of
from proofs.gains import balanced_accuracy, gained, mean_where, recovered
from proofs.remembered import features_remembered
from proofs.script import head, parser_of, row

Rows = NDArray[np.int64]

STRETCHES = 4  # of each class
PART = "part of the way"
GROUPS = 3  # that are the old domain, and that are new ones after them
SURE, WHOLE, STRICT, THRICE = "gate, sure", "gate, all or nothing", "gate, strict", "gate, replay thrice"
ARMS = ("before", "labels", "gate", SURE, WHOLE, STRICT, THRICE, "no replay", "anew on both", "all labels")
MOST_FORGOTTEN = 1.0


class LabelledGroup(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one new group: by arm, the class of every answer to its unseen half and to the unseen old half.

    Attributes:
        labels: how many new windows showed theirs.
        ways: what the gate said of each way; answers of a way are those of the arm of its name, but of the labels
            of the arm `part of the way`.
        whole: what is to be said of the way `labels` gone to its end, whatever it forgets.
        thrice: the same where old windows count three times.
    """

    group: str
    labels: int
    ways: list[WayJudgement]
    whole: WayJudgement
    thrice: WayJudgement
    truth: list[int]
    old_truth: list[int]
    new: dict[str, list[int]]
    old: dict[str, list[int]]


class LabelledSource(msgspec.Struct, frozen=True, kw_only=True):
    """An old domain, and all new groups that its student was adapted to."""

    dataset: str
    sensor: str
    count: int
    old: list[str]
    groups: list[LabelledGroup]


def main() -> None:
    """Adapt to every new group with a few labels, and print what that was worth and what it cost."""
    parser = parser_of(__doc__)
    parser.add_argument("sets", nargs="+", metavar="DIR:SENSOR")
    parser.add_argument("--labels", type=int, default=5, help="of each class")
    parser.add_argument("--sources", type=int, default=None, help="at most so many old domains; default all")
    parser.add_argument("--later", action="store_true", help="judge by the later half of a recording")
    parser.add_argument("--table", action="store_true", help="only the tables of what there is")
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for text in options.sets:
        path, _, sensor = text.rpartition(":")
        name = f"{Path(path).name}-{sensor}-{options.labels}{'-later' if options.later else ''}"
        if not options.table:
            _measure(Path(path), sensor, options, options.results / name)
        files = sorted(options.results.glob(f"{name}-[0-9]*.json"))
        found = [msgspec.json.decode(file.read_bytes(), type=LabelledSource) for file in files]
        print(f"\n{name}: {options.labels} labels of each class, {len(found)} old domains\n")
        print("\n".join(_table([group for one in found for group in one.groups])), flush=True)


def _measure(path: Path, sensor: str, options: Namespace, start: Path) -> None:
    dataset = open_dataset(path)
    windows = dataset.everything().with_modalities((sensor,))
    names = np.unique(windows.groups)
    for number in range(len(names))[: options.sources]:
        kept = start.with_name(f"{start.name}-{number}.json")
        if kept.exists():
            continue
        turned = np.roll(names, -number)
        old = old_rows(windows, turned[:GROUPS])
        student = _student(windows, old["learn"], old["judge"])
        groups = []
        for target in turned[GROUPS : 2 * GROUPS]:
            mine = np.flatnonzero(windows.groups == target)
            cut = halves_of if options.later else in_turns
            first, second = (np.sort(mine[rows]) for rows in cut(windows.subset(mine)))
            if min(len(first), len(second)) >= FEWEST:
                groups.append(_group(windows, old, student, first, second, count=options.labels))
        found = LabelledSource(
            dataset=dataset.spec.name,
            sensor=sensor,
            count=options.labels,
            old=[str(one) for one in turned[:GROUPS]],
            groups=groups,
        )
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_file(kept, msgspec.json.encode(found))


def in_turns(windows: Windows) -> tuple[Rows, Rows]:
    """Gives the rows of every other of four stretches of each class, and those of the others."""
    parts: tuple[list[int], list[int]] = ([], [])
    for number in np.unique(windows.labels):
        stretches = np.array_split(np.flatnonzero(windows.labels == number), STRETCHES)
        for place, rows in enumerate(stretches):
            parts[place % 2].extend(rows[:-1].tolist())
    first, second = (np.array(rows, dtype=np.int64) for rows in parts)
    return first, second


def old_rows(windows: Windows, groups: NDArray[np.generic]) -> dict[str, Rows]:
    """Gives the rows of the groups that teach, judge, and that nobody sees: of each class by their order."""
    parts: dict[str, list[int]] = {"learn": [], "judge": [], "unseen": []}
    for group in groups:
        for number in np.unique(windows.labels[windows.groups == group]):
            rows = np.flatnonzero((windows.groups == group) & (windows.labels == number)).tolist()
            first, second = 2 * len(rows) // 3, 5 * len(rows) // 6
            for name, part in zip(parts, (rows[:first], rows[first:second], rows[second:]), strict=True):
                parts[name] += part
    return {name: np.sort(np.array(rows, dtype=np.int64)) for name, rows in parts.items()}


def _student(windows: Windows, learn: Rows, judge: Rows) -> StudentCheckpoint:
    data = TrainingData(train=windows.subset(learn), valid=windows.subset(judge), sha256="old")
    run = TrainingRun(train=STUDENT_TRAIN, augment=AUGMENT)
    config = student_config(STUDENT_PRESET, kind="rocket")
    return labelled_student(data, windows.spec.modalities[0].name, config, run)


def _group(
    windows: Windows,
    old: dict[str, Rows],
    student: StudentCheckpoint,
    first: Rows,
    second: Rows,
    *,
    count: int,
) -> LabelledGroup:
    learn = windows.subset(first)
    asked = AdaptationRequest(
        student=student,
        student_sha256="student",
        # Labelled windows judge each other, so that no window of the first half is needed for it.
        new=Domain(learn=learn, judge=learn, name="new", sha256="new"),
        old=Domain(learn=windows.subset(old["learn"]), judge=windows.subset(old["judge"]), name="old", sha256="old"),
        teacher=None,
        labels=count,
        train=ADAPT_TRAIN,
        most_forgotten=MOST_FORGOTTEN,
    )
    base = task_of(asked)
    adaptation = run_adaptation(asked, base)
    free = run_adaptation(replace(asked, most_forgotten=float("inf")), base)
    chosen = few_labels(learn, count, seed=ADAPT_TRAIN.seed)
    shown = learn.subset(chosen)
    replayed, thrice = _thrice(asked, base, chosen)
    students = {
        "before": student,
        **adaptation.tried,
        PART: adaptation.tried["labels"],
        "labels": free.tried["labels"],
        "replay thrice": replayed,
        "no replay": refitted(student, [(shown, label_answers(student.task, shown.labels))]),
        "anew on both": _student(windows, np.sort([*old["learn"], *first[chosen]]), old["judge"]),
        "all labels": adapted(base, "labels", labelled=np.arange(len(learn))),
    }
    unseen = {"new": windows.subset(second), "old": windows.subset(old["unseen"])}
    said = {name: {arm: answers_of(one, part) for arm, one in students.items()} for name, part in unseen.items()}
    return LabelledGroup(
        group=str(windows.groups[first[0]]),
        labels=len(chosen),
        ways=list(adaptation.document.ways),
        whole=free.document.ways[-1],
        thrice=thrice,
        truth=unseen["new"].labels.tolist(),
        old_truth=unseen["old"].labels.tolist(),
        new=said["new"],
        old=said["old"],
    )


def _thrice(asked: AdaptationRequest, base: Task, chosen: Rows) -> tuple[StudentCheckpoint, WayJudgement]:
    """What learns from the labels where old windows count three times, and what is to be said of it."""
    student, learn = asked.student, base.new.learn
    old = [(base.old.learn, old_answers(base))] * 3

    def learnt(rows: Rows) -> StudentCheckpoint:
        shown = learn.subset(rows)
        return refitted(student, [(shown, label_answers(student.task, shown.labels)), *old])

    part = parts_of_labels(learn.labels[chosen])
    others = [learnt(chosen[part != number]) for number in range(FOLDS)]
    logits = logits_of_others(learn.subset(chosen), part, others)
    court, whole = court_of(asked, base, chosen), learnt(chosen)
    before, after = heard(court, student), heard(court, whole, new_logits=logits)
    return whole, judged(court, "labels", before, after, seconds=0.0)


def _table(groups: Sequence[LabelledGroup]) -> Iterator[str]:
    yield head(
        *("arm", "pairs", "changed", "new", "gain", "worse by 1 point"),
        *("recovered of the drop, %", "old", "change", "of those changed", "forgets above 1 point"),
    )
    written = {arm: [_answered_by(arm, one) for one in groups] for arm in ARMS}
    scores, kept = (
        {arm: balanced([_part(g, one, is_old) for g, one in zip(groups, written[arm], strict=True)]) for arm in ARMS}
        for is_old in (False, True)
    )
    drops = kept["before"] - scores["before"]
    fell = drops > LEAST_DROP
    for arm in ARMS:
        gains, changes = scores[arm] - scores["before"], kept[arm] - kept["before"]
        is_changed = [one != "before" for one in written[arm]]
        yield row(
            arm,
            len(groups),
            sum(is_changed),
            f"{100 * scores[arm].mean():.1f}",
            gained(gains),
            int((gains < -0.01).sum()),
            recovered(gains[fell], drops[fell]),
            f"{100 * kept[arm].mean():.1f}",
            gained(changes),
            mean_where(changes, is_changed),
            int((changes < -0.01).sum()),
        )


def _part(group: LabelledGroup, arm: str, is_old: bool) -> tuple[list[int], list[int]]:
    return (group.old_truth, group.old[arm]) if is_old else (group.truth, group.new[arm])


def _answered_by(arm: str, group: LabelledGroup) -> str:
    """The arm whose answers are those of what an arm writes; `before` where it writes nothing."""
    if arm in (WHOLE, STRICT):
        return "labels" if may_be_written(group.whole, strict=arm == STRICT) else "before"
    if arm == THRICE:
        steps = {"labels": group.whole, "replay thrice": group.thrice}
        return next((name for name, one in steps.items() if may_be_written(one)), "before")
    found = written_by(arm, group.ways)
    return PART if arm.startswith("gate") and found == "labels" else found


def may_be_written(found: WayJudgement, *, strict: bool = False) -> bool:
    """Tells whether it gains anything, forgets no more than it may, and says every class."""
    too_much = found.forgotten_points > MOST_FORGOTTEN if strict else forgets(found, MOST_FORGOTTEN)
    return found.gain_points > 0 and not too_much and not found.vanished


def written_by(arm: str, ways: Sequence[WayJudgement]) -> str:
    """Gives the way that a gate writes, the best that it lets pass, or `before`; of other arms the arm itself.

    Earlier versions let also other ways than `labels` pass by any gain; what they kept is judged as it is now.
    """
    if not arm.startswith("gate"):
        return arm
    bars = {one.way: sure_errors(len(ways)) for one in ways}
    if arm == "gate":
        bars["labels"] = 0.0
    passed = [one for one in ways if not one.refusals and one.gain_points > bars[one.way] * one.standard_error_points]
    return max(passed, key=lambda one: one.estimate).way if passed else "before"


def balanced(parts: Sequence[tuple[list[int], list[int]]]) -> NDArray[np.float64]:
    """Gives the balanced accuracy of each of these truths and answers."""
    return np.array([balanced_accuracy(truth, said) for truth, said in parts])


if __name__ == "__main__":
    with features_remembered():
        main()
