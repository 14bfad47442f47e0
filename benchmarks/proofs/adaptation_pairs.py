"""From one person or machine to another: what adapting is worth, by our gate and by the methods of others.

    python benchmarks/proofs/adaptation_pairs.py mydata:acc --kind rocket --results build/adaptation_pairs

Each group, or each domain that `--by` makes of groups, is a source by itself: the first two thirds of each of its
classes teach a teacher of all sensors and the student of one, the rest validates. Its targets are the domains after it.
Of each class of a target the first half of the windows adapts without labels (a third of it judges), the second half is
the truth that nobody sees, but for its first window, which may share samples with the half before. With `--grown` the
teacher has no transformer, so that it is made in seconds. The arms:

- statistics: of the new values in the front-end, nothing else;
- SHOT, TENT (of transformers alone), and the teacher by class or evened (of convolutional features alone): the rivals
  of `adaptation_rivals.py`;
- teacher, 25 to 100 %: its answers alone, without a gate, taken a share of the way, of convolutional features alone;
- teacher: as `mmkd-adapt` takes it, without a gate;
- gate: what `mmkd-adapt --teacher` writes, else the student as it was; and the same where all may be forgotten;
- oracle: the true labels of what adapts.

Each finished pair is one file in the results folder, under the name of its options, and is not repeated. The table
counts what there is. With `--keep` teachers and students stay in a folder, so that another gate is measured without
training anew.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.bundle.files import write_file
from mmkd_models.adapt.domains import Domain
from mmkd_models.adapt.run import AdaptationRequest, court_of, run_adaptation, task_of
from mmkd_models.adapt.ways import ADAPT_TRAIN
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.windows import Windows
from mmkd_models.networks.config import StudentKind
from mmkd_models.training.checkpoint import (
    StudentCheckpoint,
)
from mmkd_models.training.inputs import TrainingData
from mmkd_models.training.predict import scores_of
from mmkd_models.training.teacher_set import TaughtBy
from mmkd_report.documents.adaptation import WayJudgement
from proofs.adaptation_rivals import BY_CLASS, EVENED, rivals
from proofs.adaptation_rules import SHARES, Evidence, JudgedPair, evidence_of, rule_tables, step_arm, steps_of
from proofs.commissioning import answers_of, oracle_of, parts_of
from proofs.domains import domains_of, one_against_others
from proofs.gains import balanced_accuracy, gained, recovered
from proofs.remembered import features_remembered
from proofs.script import head, parser_of, row
from proofs.taught import taught

Floats = NDArray[np.float64]

ARMS = (
    *("before", "statistics", "SHOT", "TENT", "own answers", "consistency"),
    *(*map(step_arm, SHARES), BY_CLASS, EVENED, "teacher"),
    *("gate", "gate, may forget", "oracle"),
)
FORGOTTEN = "it forgets"  # how the one refusal begins that does not count where all may be forgotten
LEAST_DROP = 0.02


class PairFound(msgspec.Struct, frozen=True, kw_only=True):
    """One pair: class of every answer to the target's unseen half, by arm, the truth, and what the gate said.

    Attributes:
        evidence: what rules are judged by; None of other students than rocket, and of teachers without a transformer.
    """

    dataset: str
    sensor: str
    kind: StudentKind
    source: str
    target: str
    source_score: float
    truth: list[int]
    answers: dict[str, list[int]]
    ways: list[WayJudgement]
    evidence: Evidence | None = None


def main() -> None:
    """Adapt over all pairs, and print what each arm was worth."""
    parser = parser_of(__doc__)
    parser.add_argument("set", metavar="DIR:SENSOR", nargs="?", help="none: the table of all pairs that there are")
    parser.add_argument("--kind", choices=["rocket", "transformer"], default="rocket")
    parser.add_argument("--by", default=None, help="a column, or so many groups in order, is a domain; default a group")
    parser.add_argument("--against", default=None, help="this class against all others together")
    parser.add_argument("--grown", action="store_true", help="rocket and trees teach, and no transformer")
    parser.add_argument("--targets", type=int, default=3, help="of each source")
    parser.add_argument("--sources", type=int, default=None, help="at most so many; default all")
    parser.add_argument("--keep", type=Path, default=None, help="folder of the trained teachers and students")
    parser.add_argument("--table", action="store_true", help="only the table of what there is")
    parser.add_argument("--rules", action="store_true", help="also what other gates would have passed")
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    if options.grown and options.kind != "rocket":
        parser.error("--grown: expected --kind rocket, got transformer, which looks into its teacher's transformer")
    torch.set_num_threads(1)
    start, kind = "*", options.kind
    if options.set is not None:
        text, _, sensor = options.set.rpartition(":")
        path = Path(text)
        start = "-".join(filter(None, [path.name, sensor, options.by, options.against, options.grown and "grown"]))
        if not options.table:
            for found in _pairs(path, sensor, kind, options, f"{start}-{kind}"):
                print(f"{found.source} to {found.target}", flush=True)
    kept = sorted(options.results.glob(f"{start}-{kind}-*.json"))
    pairs = [msgspec.json.decode(one.read_bytes(), type=PairFound) for one in kept]
    print("\n".join([*_table(pairs), "", _refused(pairs)]))
    if options.rules:
        print("\n".join(["", *rule_tables([_judgeable(one, one.evidence) for one in pairs if one.evidence])]))


def _judgeable(pair: PairFound, evidence: Evidence) -> JudgedPair:
    before = score_of(pair, "before")
    return JudgedPair(
        source=pair.source,
        evidence=evidence,
        gains={arm: score_of(pair, arm) - before for arm in map(step_arm, SHARES)},
    )


def _pairs(path: Path, sensor: str, kind: StudentKind, options: Namespace, start: str) -> Iterator[PairFound]:
    windows = one_against_others(open_dataset(path).everything(), options.against)
    domains = domains_of(windows, options.by)
    names = [one for one in _in_order(domains) if len(np.unique(windows.labels[domains == one])) > 1]
    for number, source in enumerate(names[: options.sources]):
        after = [names[(number + step) % len(names)] for step in range(1, options.targets + 1)]
        files = {target: options.results / f"{start}-{source}-{target}.json" for target in after}
        missing = {target: file for target, file in files.items() if not file.exists()}
        if not missing:
            continue
        data = _source(windows.subset(np.flatnonzero(domains == source)), source)
        parts = [path.name, options.by, options.against, source, options.grown and "grown"]
        teacher, student = taught(
            data,
            sensor,
            kind,
            preset="tiny",
            seed=ADAPT_TRAIN.seed,
            kept=options.keep and options.keep / "-".join(filter(None, parts)),
            grown=options.grown,
        )
        for target, file in missing.items():
            mine = windows.subset(np.flatnonzero(domains == target))
            found = _pair(data, mine, teacher, student, names=(source, target), proves=not options.grown)
            if found is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_file(file, msgspec.json.encode(found))
                yield found


def _in_order(domains: NDArray[np.str_]) -> list[str]:
    """The names of domains, numbers by their size."""
    return sorted(np.unique(domains).tolist(), key=lambda name: (len(name) if name.isdigit() else 0, name))


def _source(mine: Windows, name: str) -> TrainingData:
    learn, judge = [], []
    for number in np.unique(mine.labels):
        rows = np.flatnonzero(mine.labels == number)
        learn.append(rows[: 2 * len(rows) // 3])
        judge.append(rows[2 * len(rows) // 3 :])
    train, valid = (mine.subset(np.sort(np.concatenate(rows))) for rows in (learn, judge))
    return TrainingData(train=train, valid=valid, sha256=name)


def _pair(
    data: TrainingData,
    target: Windows,
    teacher: TaughtBy,
    student: StudentCheckpoint,
    *,
    names: tuple[str, str],
    proves: bool,
) -> PairFound | None:
    sensor = student.modality.name
    parts = parts_of(target)
    if parts is None:
        return None
    learn, judge, unseen = parts
    one = (sensor,)
    source = [windows.with_modalities(one) for windows in (data.train, data.valid)]
    asked = AdaptationRequest(
        student=student,
        student_sha256="student",
        new=Domain(learn=learn, judge=judge, name=names[1], sha256=names[1]),
        old=Domain(learn=source[0], judge=source[1], name=names[0], sha256=names[0]),
        teacher=teacher,
        labels=0,
        train=ADAPT_TRAIN,
        most_forgotten=1.0,
    )
    base = task_of(asked)
    adaptation = run_adaptation(asked, base)
    students: dict[str, StudentCheckpoint] = {"before": student, "oracle": oracle_of(base, learn), **rivals(base)}
    students.update(adaptation.tried)
    evidence = None
    if student.config.kind == "rocket":
        steps, by_share = steps_of(base, court_of(asked, base, None))
        students.update(by_share)
        evidence = evidence_of(base, teacher, _both(target, learn, judge), steps) if proves else None
    unseen = unseen.with_modalities(one)
    return PairFound(
        dataset=data.train.spec.name,
        sensor=sensor,
        kind=student.config.kind,
        source=names[0],
        target=names[1],
        source_score=scores_of(student.network(), source[1], modality=sensor).metric("balanced_accuracy"),
        truth=unseen.labels.tolist(),
        answers={name: answers_of(found, unseen) for name, found in students.items()},
        ways=list(adaptation.document.ways),
        evidence=evidence,
    )


def _both(target: Windows, learn: Windows, judge: Windows) -> Windows:
    return target.subset(np.flatnonzero(np.isin(target.rows, [*learn.rows, *judge.rows])))


def _table(pairs: Sequence[PairFound]) -> Iterator[str]:
    common = [arm for arm in ARMS if pairs and all(_has(one, arm) for one in pairs)]
    scores = {arm: np.array([score_of(one, arm) for one in pairs]) for arm in common}
    yield head("arm", "pairs", "balanced accuracy", "gain", "recovered of the drop, %", "changed", "worse by 1 point")
    for arm, found in scores.items():
        gains, drops = found - scores["before"], np.array([one.source_score for one in pairs]) - scores["before"]
        fell = drops > LEAST_DROP
        is_gate = arm.startswith("gate")
        yield row(
            arm,
            len(found),
            f"{100 * found.mean():.1f}",
            gained(gains),
            recovered(gains[fell], drops[fell]),
            sum(_chosen(one, arm) != "" for one in pairs) if is_gate else int((gains != 0).sum()),
            int((gains < -0.01).sum()),
        )


def _refused(pairs: Sequence[PairFound]) -> str:
    """What the teacher's way would have done to the pairs that the gate leaves as they are."""
    refused = [one for one in pairs if not _chosen(one, "gate")]
    gains = np.array([score_of(one, "teacher") - score_of(one, "before") for one in refused])
    better, worse = int((gains > 0.01).sum()), int((gains < -0.01).sum())
    return (
        f"of {len(refused)} that the gate refuses the teacher would make {better} better by a point and {worse} worse"
    )


def _has(pair: PairFound, arm: str) -> bool:
    return arm in pair.answers or arm.startswith("gate")


def _chosen(pair: PairFound, arm: str) -> str:
    """The way that the gate writes; nothing where it writes none."""
    passed = [
        one for one in pair.ways if not [why for why in one.refusals if arm == "gate" or not why.startswith(FORGOTTEN)]
    ]
    return max(passed, key=lambda one: one.estimate).way if passed else ""


def score_of(pair: PairFound, arm: str) -> float:
    """Gives the balanced accuracy of an arm on the target's unseen half."""
    return balanced_accuracy(
        pair.truth, pair.answers[(_chosen(pair, arm) or "before") if arm.startswith("gate") else arm]
    )


if __name__ == "__main__":
    with features_remembered():
        main()
