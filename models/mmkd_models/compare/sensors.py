"""Which sensor is enough: the folds of a comparison, each sensor's faults and costs, and the table that decides.

Owns what is measured beside a comparison and in which words it is told. What was judged under faults is a file beside
the student: an interrupted evaluation goes on where it was. Latencies come from outside.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import msgspec

from mmkd_edge import __version__
from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.compare.comparison import teacher_path
from mmkd_models.compare.fold_result import ComparisonConfig
from mmkd_models.compare.one_fold import fold_data
from mmkd_models.compare.pool import WorkerPool, opened
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.windows import split_facts
from mmkd_models.evaluation.faults.table import NAMES as FAULT_NAMES
from mmkd_models.evaluation.faults.table import SEVERITIES
from mmkd_models.evaluation.report import Contestant
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.evaluation.suites import cost
from mmkd_models.evaluation.suites.cost_model import read_cost
from mmkd_models.evaluation.suites.inputs import ModelUnderTest, SuiteInputs
from mmkd_models.evaluation.suites.models import fit_rivals, model_from_checkpoint
from mmkd_models.evaluation.suites.table import judge, with_suites
from mmkd_models.networks.rocket import fits_kernels
from mmkd_models.ray_tasks import Executor
from mmkd_models.training.checkpoint import file_sha256, read_student, read_teacher
from mmkd_report.schema.demo import LABELS_ALONE, Contest, DemoDocument, DemoRival, Network
from mmkd_report.schema.evaluation import DataFacts
from mmkd_report.schema.judging import Competitor, JudgingDocument, SensorRow
from mmkd_report.schema.study import PairLatency

JUDGED_FILE, LATENCY_FILE = "judged.json", "latency.json"
_RIVALS: tuple[RivalName, ...] = ("extra_trees", "mini_rocket")

_WITHOUT_TEACHER: tuple[Competitor, ...] = ("extra_trees", "mini_rocket")

OnPart = Callable[[str], None]
MeasureLatency = Callable[[Path, Path], PairLatency]
"""From checkpoints of a student and a teacher to their latencies on this machine."""


@dataclass(frozen=True, kw_only=True)
class SensorsOrder:
    """What is judged beside a comparison's first fold; it can be pickled.

    Attributes:
        data: the dataset's directory.
        folder: of the fold, whose checkpoints are there.
        costs: by sensor the file of assumptions.
    """

    data: Path
    folder: Path
    seed: int
    config: ComparisonConfig
    costs: Mapping[str, Path]


def check_costs(dataset: Dataset, order: SensorsOrder) -> None:
    """Raises UsageError where costs cannot be reckoned of the test windows by these files, in one currency."""
    if not order.costs:
        return
    test = fold_data(dataset, seed=order.seed, labelled=order.config.labelled).test
    for file in order.costs.values():
        cost.check_cost(test, file)
    currencies = sorted({read_cost(file)[0].currency for file in order.costs.values()})
    if len(currencies) > 1:
        raise UsageError(f"--cost: expected one currency, got {' and '.join(currencies)}; reckon all sensors in one")


def judge_sensors(
    dataset: Dataset, order: SensorsOrder, *, workers: int, executor: Executor = "local", on_part: OnPart
) -> dict[str, JudgingDocument]:
    """Judges the student of every sensor under faults, beside labels alone, teacher and rivals, and reckons costs.

    Figures are the same for every number of workers, each with one thread.

    Raises:
        UsageError: a file of costs breaks a rule.
        CheckpointError: a checkpoint in the folder is damaged.
        MmkdError: a worker died.
    """
    names = order.config.modalities
    number = min(workers, len(names))

    def say(which: int) -> None:
        if number > 1 or executor == "ray":  # else what is judged says so itself
            on_part(f"{names[which]}: judged under faults")

    def here(name: str, on_step: object) -> None:
        judge_sensor(dataset, replace(order, costs={}), name, on_part=on_part)

    with WorkerPool(partial(_judge, order), number, here=here, executor=executor) as pool:
        pool.make(names, on_step=lambda which, step: None, on_end=say)
    return {name: judge_sensor(dataset, order, name, on_part=on_part) for name in names}


def _judge(order: SensorsOrder, name: str, on_step: object) -> None:
    """A worker's part: what it finds is a file, which is read afterwards; costs are reckoned there."""
    judge_sensor(opened(order.data), replace(order, costs={}), name)


def _rivals_of(modality: ModalitySpec) -> tuple[RivalName, ...]:
    """MiniRocket where it is installed and the windows are long enough for it."""
    return _RIVALS if find_spec("aeon") and fits_kernels(modality) else _RIVALS[:1]


def judge_sensor(
    dataset: Dataset, order: SensorsOrder, name: str, *, on_part: OnPart = lambda part: None
) -> JudgingDocument:
    """Judges one sensor, as `judge_sensors`; what is known of the same checkpoints is not judged again."""
    config = order.config
    fold = fold_data(dataset, seed=order.seed, labelled=config.labelled)
    train, valid, test = fold.training.train, fold.training.valid, fold.test
    data = DataFacts(
        name=dataset.spec.name,
        sha256=dataset.sha256,
        part=f"test windows of fold {order.seed}",
        windows=len(test),
        groups=test.group_count,
        split=split_facts(dataset.everything()),
        labels=dataset.spec.task.labels,
    )
    models = tuple(model_from_checkpoint(one, test, data) for one in _contestants(order, name))
    inputs = SuiteInputs(models=models, windows=test, train=train, calibration=valid, seed=order.seed)
    names = _rivals_of(dataset.spec.modality(name))
    path, key = order.folder / name / JUDGED_FILE, _key(models, names)
    kept = _kept(path, _Judged, key)
    if kept is None:
        metric, first = config.student_train.metric, models[0].facts
        rivals = fit_rivals(names, first, test, train=train, valid=valid, metric=metric, seed=order.seed)
        judged = replace(inputs, models=(*models, *rivals), on_part=lambda part: on_part(f"{name}: {part}"))
        kept = _Judged(key=key, document=judge(judged, ["faults"], data=data))
        write_file(path, msgspec.json.encode(kept))
    if name not in order.costs:
        return kept.document
    return with_suites(kept.document, {"cost": cost.run(replace(inputs, cost=order.costs[name]))})


def _contestants(order: SensorsOrder, name: str) -> Iterator[Contestant]:
    """Student, labels alone and teacher; none of them knows the windows that judge."""
    for path in (order.folder / name / "student.ckpt", order.folder / name / "baseline.ckpt"):
        yield Contestant(path=str(path), sha256=file_sha256(path), checkpoint=read_student(path))
    path = teacher_path(order.folder, order.config.teacher)
    yield Contestant(path=str(path), sha256=file_sha256(path), checkpoint=read_teacher(path))


class _Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What was judged, and what decided it."""

    key: str
    document: JudgingDocument


class _Latency(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and what decided it."""

    key: str
    latency: PairLatency


_Known = TypeVar("_Known", _Judged, _Latency)


def _kept(path: Path, of: type[_Known], key: str) -> _Known | None:
    """What is in the file, unless something else decided it or nobody can read it: then it is made again."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=of)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if found.key == key else None


def _key(models: Sequence[ModelUnderTest], rivals: Sequence[RivalName]) -> str:
    return _hash_of([one.facts.sha256 for one in models], rivals, FAULT_NAMES, SEVERITIES)


def _hash_of(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode((__version__, *parts))).hexdigest()


def latencies_of(
    order: SensorsOrder, measure: MeasureLatency, *, conditions: Mapping[str, object], on_part: OnPart
) -> dict[str, PairLatency]:
    """Measures each sensor's student and the teacher in turn; what was measured under the same conditions is kept.

    Args:
        conditions: what else decides a latency: how long it is measured, on which machine, with which libraries.
    """
    found = {}
    teacher = teacher_path(order.folder, order.config.teacher)
    for name in order.config.modalities:
        student, path = order.folder / name / "student.ckpt", order.folder / name / LATENCY_FILE
        key = _hash_of(file_sha256(student), file_sha256(teacher), conditions)
        kept = _kept(path, _Latency, key)
        if kept is None:
            on_part(f"{name}: latency")
            kept = _Latency(key=key, latency=measure(student, teacher))
            write_file(path, msgspec.json.encode(kept))
        found[name] = kept.latency
    return found


def sensor_rows(
    compared: DemoDocument,
    judged: Mapping[str, JudgingDocument],
    latencies: Mapping[str, PairLatency],
) -> tuple[SensorRow, ...]:
    """Gives a row for each sensor, that whose student validates best first."""
    rows = [_row(compared, name, one, judged[name], latencies.get(name)) for name, one in compared.students.items()]
    return tuple(sorted(rows, key=lambda row: math.inf if row.valid_score is None else -row.valid_score))


def _row(
    compared: DemoDocument, name: str, contest: Contest, judged: JudgingDocument, latency: PairLatency | None
) -> SensorRow:
    measure = compared.reported_metric
    who: dict[Competitor, Network | DemoRival | None] = {
        "extra_trees": contest.extra_trees,
        "mini_rocket": contest.mini_rocket,
        "labels_alone": contest.baseline,
        "distilled": contest.student,
        "teacher": compared.teacher,
    }
    valid = {key: one.valid_score.mean for key, one in who.items() if one is not None and one.valid_score is not None}
    gain, faults = contest.gain_points, judged.faults
    assert gain is not None
    assert faults is not None  # of a comparison, and of its sensors
    first = judged.models[0].name
    return SensorRow(
        sensors=(name,),
        scores={
            key: found for key, one in who.items() if one is not None and (found := one.score(measure)) is not None
        },
        parameters=contest.student.parameters or 0,
        gain=gain.mean,
        low=gain.low,
        high=gain.high,
        valid_score=valid["distilled"],
        guessing=contest.student.guessing,
        is_taught=not contest.student.shipped or any(one != LABELS_ALONE for one in contest.student.shipped),
        ahead=tuple(key for key in _WITHOUT_TEACHER if valid.get(key, -math.inf) > valid["distilled"]),
        under_faults=sum(sum(one.errors[first]) / len(one.errors[first]) for one in faults.faults) / len(faults.faults),
        relative=faults.relative.get(first),
        worst_fault=faults.faults[0].name,
        latency_ms=None if latency is None else latency.student_ms["p50"],
        teacher_latency_ms=None if latency is None else latency.teacher_ms["p50"],
        worth={} if judged.cost is None else {way: one.net_present_value for way, one in judged.cost.results.items()},
    )


def pair_rows(compared: DemoDocument) -> tuple[SensorRow, ...]:
    """Gives a row for every pair of sensors, in the dataset's order: the teacher's answers while the others are absent.

    Of two sensors in all the pair is the teacher, and there is none.
    """
    measure, teacher = compared.reported_metric, compared.teacher
    names = [one.name for one in compared.dataset.modalities]
    if len(names) == 2:
        return ()
    found = {frozenset(one.modalities): one.score(measure) for one in teacher.missing or ()}
    return tuple(
        SensorRow(sensors=pair, scores={"teacher": score}, parameters=teacher.parameters or 0)
        for pair in combinations(names, 2)
        if (score := found.get(frozenset(pair))) is not None
    )
