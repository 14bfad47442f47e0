"""From one person or machine to another: what adapting is worth, by our gate and by the methods of others.

    python benchmarks/proofs/adaptation_pairs.py mydata:acc --kind rocket --results build/adaptation_pairs

Each group is a source by itself: the first two thirds of each of its classes teach a teacher of all sensors and the
student of one, the rest validates. Its targets are the groups after it. Of each class of a target the first half of the
windows adapts without labels (a third of it judges), the second half is the truth that nobody sees. The arms:

- statistics: of the new values in the front-end, nothing else;
- SHOT: information maximisation with a frozen head and pseudo-labels by centroids (J. Liang, D. Hu, J. Feng, ICML 2020,
  equations 3 to 7), without old windows; convolutional features do not learn, so the pseudo-labels teach their head;
- TENT: scale and shift of the LayerNorms by entropy (D. Wang et al., ICLR 2021), of transformers alone, offline and for
  as many steps as the others;
- teacher: its answers alone, without a gate;
- gate: what `mmkd-adapt --teacher` writes, else the student as it was; and the same where all may be forgotten;
- oracle: the true labels of what adapts.

Each finished pair is one file in the results folder, and is not repeated. The table counts what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_edge.bundle.files import write_file
from mmkd_models.adapt.domains import Domain
from mmkd_models.adapt.run import AdaptationRequest, run_adaptation, task_of
from mmkd_models.adapt.ways import ADAPT_TRAIN, Task, adapted
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.windows import Windows
from mmkd_models.defaults import AUGMENT, STUDENT_PRESET, STUDENT_TRAIN, TEACHER_TRAIN
from mmkd_models.distil.methods import default_recipe
from mmkd_models.networks.config import StudentKind, student_config, teacher_config
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form.students import taught_student
from mmkd_models.training.committee import default_members, train_committee
from mmkd_models.training.predict import embeddings_of, inputs_of, scores_of
from mmkd_models.training.teacher_set import TaughtBy
from mmkd_models.training.trainings import TrainingData, TrainingRun
from mmkd_report.documents.adaptation import WayJudgement
from proofs.commissioning import answers_of, oracle_of, parts_of
from proofs.script import head, parser_of, row

Floats = NDArray[np.float64]

ARMS = ("before", "statistics", "SHOT", "TENT", "own answers", "teacher", "gate", "gate, may forget", "oracle")
FORGOTTEN = "it forgets"  # how the one refusal begins that does not count where all may be forgotten
PSEUDO = 0.3  # weight of pseudo-labels: SHOT, section 4.1
BATCH, TENT_RATE, LEAST_DROP = 32, 1e-3, 0.02


class PairFound(msgspec.Struct, frozen=True, kw_only=True):
    """One pair: class of every answer to the target's unseen half, by arm, the truth, and what the gate said."""

    dataset: str
    sensor: str
    kind: StudentKind
    source: str
    target: str
    source_score: float
    truth: list[int]
    answers: dict[str, list[int]]
    ways: list[WayJudgement]


def main() -> None:
    """Adapt over all pairs, and print what each arm was worth."""
    parser = parser_of(__doc__)
    parser.add_argument("set", metavar="DIR:SENSOR")
    parser.add_argument("--kind", choices=["rocket", "transformer"], default="rocket")
    parser.add_argument("--targets", type=int, default=3, help="of each source")
    parser.add_argument("--sources", type=int, default=None, help="at most so many; default all")
    parser.add_argument("--table", action="store_true", help="only the table of what there is")
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text, _, sensor = options.set.rpartition(":")
    path, kind = Path(text), options.kind
    if not options.table:
        for found in _pairs(path, sensor, kind, options.targets, options.sources, options.results):
            print(f"{found.source} to {found.target}", flush=True)
    kept = sorted(options.results.glob(f"{path.name}-{sensor}-{kind}-*.json"))
    print("\n".join(_table([msgspec.json.decode(one.read_bytes(), type=PairFound) for one in kept])))


def _pairs(
    path: Path, sensor: str, kind: StudentKind, targets: int, sources: int | None, results: Path
) -> Iterator[PairFound]:
    windows = open_dataset(path).everything()
    names = np.unique(windows.groups)
    for number, source in enumerate(names[:sources]):
        after = [names[(number + step) % len(names)] for step in range(1, targets + 1)]
        files = {target: results / f"{path.name}-{sensor}-{kind}-{source}-{target}.json" for target in after}
        missing = {target: file for target, file in files.items() if not file.exists()}
        if not missing:
            continue
        data = _source(windows, source)
        teacher, student = _trained(data, sensor, kind)
        for target, file in missing.items():
            mine = windows.subset(np.flatnonzero(windows.groups == target))
            found = _pair(data, mine, teacher, student, names=(str(source), str(target)))
            if found is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_file(file, msgspec.json.encode(found))
                yield found


def _source(windows: Windows, group: object) -> TrainingData:
    mine = windows.subset(np.flatnonzero(windows.groups == group))
    learn, judge = [], []
    for number in np.unique(mine.labels):
        rows = np.flatnonzero(mine.labels == number)
        learn.append(rows[: 2 * len(rows) // 3])
        judge.append(rows[2 * len(rows) // 3 :])
    train, valid = (mine.subset(np.sort(np.concatenate(rows))) for rows in (learn, judge))
    return TrainingData(train=train, valid=valid, sha256=str(group))


def _trained(data: TrainingData, sensor: str, kind: StudentKind) -> tuple[TaughtBy, StudentCheckpoint]:
    run = TrainingRun(train=TEACHER_TRAIN, augment=AUGMENT)
    members = default_members(data.train.spec.modalities)
    trained = train_committee(data, teacher_config("tiny"), run, members=members, self_training=False)
    teacher = TaughtBy(checkpoint=trained.checkpoint, sha256="teacher")
    student = taught_student(
        data,
        sensor,
        student_config(STUDENT_PRESET, kind=kind),
        replace(run, train=STUDENT_TRAIN),
        teachers=[teacher],
        recipe=default_recipe(data.train.spec.task),
    )
    return teacher, student


def _pair(
    data: TrainingData, target: Windows, teacher: TaughtBy, student: StudentCheckpoint, *, names: tuple[str, str]
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
    students: dict[str, StudentCheckpoint] = {"before": student, "oracle": oracle_of(base, learn), **_rivals(base)}
    students.update(adaptation.tried)
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
    )


def _rivals(base: Task) -> dict[str, StudentCheckpoint]:
    if base.student.config.kind == "rocket":
        truth = np.eye(len(base.student.task.labels))[_pseudo_labels(base, base.student.network())]
        return {"SHOT": adapted(replace(base, answers=truth), "teacher")}
    return {"SHOT": _shot(base), "TENT": _tent(base)}


def _shot(base: Task) -> StudentCheckpoint:
    network = base.student.network()
    pseudo = torch.zeros(0)

    def loss(step: int, rows: Tensor, logits: Tensor) -> Tensor:
        nonlocal pseudo
        if step % (base.train.steps // 4) == 0:
            pseudo = torch.from_numpy(_pseudo_labels(base, network.eval()))
            network.train()
        mean = torch.softmax(logits, -1).mean(0)
        apart = nn.functional.cross_entropy(logits, pseudo[rows])
        return _entropy(logits) + (mean * (mean + 1e-8).log()).sum() + PSEUDO * apart

    parameters = [value for name, value in network.named_parameters() if not name.startswith("head.")]
    return _stepped(base, network, parameters, base.train.learning_rate, loss)


def _tent(base: Task) -> StudentCheckpoint:
    network = base.student.network()
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    parameters = [value for norm in norms for value in norm.parameters()]
    return _stepped(base, network, parameters, TENT_RATE, lambda _, __, logits: _entropy(logits))


def _entropy(logits: Tensor) -> Tensor:
    return -(torch.softmax(logits, -1) * torch.log_softmax(logits, -1)).sum(-1).mean()


def _stepped(
    base: Task,
    network: nn.Module,
    parameters: Sequence[nn.Parameter],
    rate: float,
    loss: Callable[[int, Tensor, Tensor], Tensor],
) -> StudentCheckpoint:
    windows, name = base.new.learn, base.student.modality.name
    inputs = inputs_of(windows.take(np.arange(len(windows))), windows)[name]
    optimiser = torch.optim.Adam(parameters, lr=rate)
    chance = torch.Generator().manual_seed(base.train.seed)
    for step in range(base.train.steps):
        rows = torch.randperm(len(windows), generator=chance)[:BATCH]
        optimiser.zero_grad()
        loss(step, rows, network(*(one[rows] for one in inputs)).logits).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    state = {key: value.detach().clone() for key, value in network.state_dict().items()}
    return replace(base.student, state=state)


def _pseudo_labels(base: Task, network: nn.Module) -> NDArray[np.int64]:
    """(N,) the nearest of the classes' centroids by cosine, which the answers weigh and then the labels: SHOT, 4 to 6.

    A class that no window is called keeps its first centroid.
    """
    name, student = base.student.modality.name, network
    found = embeddings_of(student, base.new.learn, modality=name).astype(np.float64)
    with torch.no_grad():
        chances = torch.softmax(student.head(torch.from_numpy(found).float()), -1).double().numpy()  # type: ignore[operator]
    if base.student.config.kind == "rocket":
        found = found - found.mean(axis=0)  # shares of positive values all point the same way
    unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    centroids = chances.T @ found / (chances.sum(axis=0)[:, None] + 1e-8)
    for _ in range(2):
        sides = centroids / np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
        labels = (unit @ sides.T).argmax(axis=1)
        called = [number for number in range(len(centroids)) if (labels == number).any()]
        centroids[called] = [found[labels == number].mean(axis=0) for number in called]
    return np.asarray(labels, dtype=np.int64)


def _table(pairs: Sequence[PairFound]) -> Iterator[str]:
    scores = {arm: np.array([_score(one, arm) for one in pairs]) for arm in ARMS if pairs and _has(pairs[0], arm)}
    yield head("arm", "pairs", "balanced accuracy", "gain", "recovered of the drop, %", "changed", "worse by 1 point")
    for arm, found in scores.items():
        gains, drops = found - scores["before"], np.array([one.source_score for one in pairs]) - scores["before"]
        fell = drops > LEAST_DROP
        recovered = _recovered(gains[fell], drops[fell])
        is_gate = arm.startswith("gate")
        yield row(
            arm,
            len(found),
            f"{100 * found.mean():.1f}",
            _gained(gains),
            recovered,
            sum(_chosen(one, arm) != "" for one in pairs) if is_gate else int((gains != 0).sum()),
            int((gains < -0.01).sum()),
        )


def _gained(gains: Floats) -> str:
    return _with_interval(lambda rows: 100 * float(gains[rows].mean()), len(gains))


def _recovered(gains: Floats, drops: Floats) -> str:
    return _with_interval(lambda rows: 100 * float(gains[rows].sum() / drops[rows].sum()), len(gains))


def _with_interval(figure: Callable[[NDArray[np.int64]], float], count: int) -> str:
    """A figure of pairs with the middle 95 % of it over 2,000 draws of pairs."""
    if count < 2:
        return ""
    rng = np.random.default_rng(0)
    drawn = [figure(rng.integers(0, count, count)) for _ in range(2000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{figure(np.arange(count)):+.1f} [{low:+.1f}, {high:+.1f}]"


def _has(pair: PairFound, arm: str) -> bool:
    return arm in pair.answers or arm.startswith("gate")


def _chosen(pair: PairFound, arm: str) -> str:
    """The way that the gate writes; nothing where it writes none."""
    passed = [
        one for one in pair.ways if not [why for why in one.refusals if arm == "gate" or not why.startswith(FORGOTTEN)]
    ]
    return max(passed, key=lambda one: one.estimate).way if passed else ""


def _score(pair: PairFound, arm: str) -> float:
    said = np.array(pair.answers[(_chosen(pair, arm) or "before") if arm.startswith("gate") else arm])
    truth = np.array(pair.truth)
    return float(np.mean([np.mean(said[truth == number] == number) for number in np.unique(truth)]))


if __name__ == "__main__":
    main()
