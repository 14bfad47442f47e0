"""Which sensor is enough, and one student of two sensors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from statistics import mean

import msgspec
import numpy as np

from mmkd_documents.demo import LABELS_ONLY, DemoDocument, DemoRival, DemoSensor, Network
from mmkd_documents.figures import Interval
from mmkd_documents.judging import DataFacts, JudgingDocument, PairRow, PairScore, SensorModel, SensorRow
from mmkd_documents.study import PairLatency
from mmkd_edge import __version__
from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.windows import split_facts, without_each
from mmkd_models.evaluation.faults import NAMES as FAULT_NAMES
from mmkd_models.evaluation.faults import SEVERITIES
from mmkd_models.evaluation.outcome import TestedNetwork, outcome_on
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.evaluation.suites import cost
from mmkd_models.evaluation.suites.cost_model import read_cost
from mmkd_models.evaluation.suites.inputs import SuiteInputs
from mmkd_models.evaluation.suites.models import fit_rivals, model_from_checkpoint
from mmkd_models.evaluation.suites.table import judge, with_suites
from mmkd_models.experiments.experiment import Experiment, ResultTable, tests_of
from mmkd_models.experiments.variants import gain_between, reported_measure, score_interval
from mmkd_models.experiments.workers import Workers
from mmkd_models.networks.convolutions import fits_kernels
from mmkd_models.train_config import OnStep
from mmkd_models.training.checkpoint import read_student
from mmkd_models.training.predict import logits_of

JUDGED_FILE = "judged.json"
_UNTAUGHT: tuple[RivalName, ...] = ("extra_trees", "mini_rocket")
_FOLD = 0  # the one that is judged

Say = Callable[[str], None]


def check_costs(experiment: Experiment, costs: Mapping[str, Path]) -> None:
    """Raise UsageError if the files cannot price the test windows in one currency."""
    test = experiment.folder.fold(_FOLD).test
    for file in costs.values():
        cost.check_cost(test, file)
    currencies = sorted({read_cost(file)[0].currency for file in costs.values()})
    if len(currencies) > 1:
        raise UsageError(f"--cost: expected one currency, got {' and '.join(currencies)}; use one for all sensors")


def judge_sensors(experiment: Experiment, costs: Mapping[str, Path], *, say: Say) -> dict[str, JudgingDocument]:
    """Judge every sensor's student under faults, with baselines and costs."""
    plan = experiment.plan
    count = min(plan.workers, len(plan.sensors))
    if count > 1 or plan.executor == "ray":  # else progress comes from the judging itself
        with Workers(count, executor=plan.executor) as pool:
            pool.run(partial(_judge, experiment), plan.sensors, on_end=lambda name: say(f"{name}: judged under faults"))
    return {name: _judge_sensor(experiment, name, costs.get(name), say=say) for name in plan.sensors}


def _judge(experiment: Experiment, name: str, on_step: OnStep) -> None:
    _judge_sensor(experiment, name, None, say=lambda line: None)


def possible_rivals(modality: ModalitySpec) -> tuple[RivalName, ...]:
    """Return extra-trees, and MiniRocket if installed and the windows are long enough."""
    return _UNTAUGHT if find_spec("aeon") and fits_kernels(modality) else _UNTAUGHT[:1]


class _Judged(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    document: JudgingDocument


def _judge_sensor(experiment: Experiment, name: str, costs: Path | None, *, say: Say) -> JudgingDocument:
    dataset, fold = experiment.dataset, experiment.folders[name].fold(_FOLD)
    train, valid, test = fold.training.train, fold.training.valid, fold.test
    data = DataFacts(
        name=dataset.spec.name,
        sha256=dataset.sha256,
        part=f"test windows of fold {_FOLD}",
        windows=len(test),
        groups=test.group_count,
        split=split_facts(dataset.everything()),
        labels=dataset.spec.task.labels,
    )
    paths = {  # by names of their own: both students' files are called student.ckpt
        "student": experiment.student_path(name, _FOLD),
        LABELS_ONLY: experiment.baseline_path(name, _FOLD),
        "teacher": experiment.teacher_path(_FOLD),
    }
    models = tuple(
        model_from_checkpoint(str(path), test, dataset.sha256).with_name(title) for title, path in paths.items()
    )
    inputs = SuiteInputs(models=models, windows=test, train=train, calibration=valid, seed=_FOLD)
    names = possible_rivals(dataset.spec.modality(name))
    path = experiment.student_path(name, _FOLD).with_name(JUDGED_FILE)
    decides = __version__, [(model.name, model.facts.sha256) for model in models], names, FAULT_NAMES, SEVERITIES
    key = hashlib.sha256(msgspec.json.encode(decides)).hexdigest()
    judged = None
    with suppress(FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        judged = msgspec.json.decode(path.read_bytes(), type=_Judged)
    if judged is None or judged.key != key:
        metric, first = experiment.plan.conditions.student_train.metric, models[0].facts
        rivals = fit_rivals(names, first, train=train, valid=valid, metric=metric, seed=_FOLD)
        everything = replace(inputs, models=(*models, *rivals), on_part=lambda part: say(f"{name}: {part}"))
        judged = _Judged(key=key, document=judge(everything, ["faults"], data=data))
        write_file(path, msgspec.json.encode(judged))
    if costs is None:
        return judged.document
    return with_suites(judged.document, {"cost": cost.run(replace(inputs, cost=costs))})


def sensor_rows(
    compared: DemoDocument, judged: Mapping[str, JudgingDocument], latencies: Mapping[str, PairLatency]
) -> tuple[SensorRow, ...]:
    """Return a row for each sensor, the best on validation first."""
    rows = [
        _row(compared, name, sensor, judged[name], latencies.get(name)) for name, sensor in compared.students.items()
    ]
    return tuple(sorted(rows, key=lambda row: math.inf if row.valid_score is None else -row.valid_score))


def _row(
    compared: DemoDocument, name: str, sensor: DemoSensor, judged: JudgingDocument, latency: PairLatency | None
) -> SensorRow:
    measure = compared.reported_metric
    who: dict[SensorModel, Network | DemoRival | None] = {
        "extra_trees": sensor.extra_trees,
        "mini_rocket": sensor.mini_rocket,
        "labels_only": sensor.baseline,
        "distilled": sensor.student,
        "teacher": compared.teacher,
    }
    valid = {
        key: model.valid_score.mean for key, model in who.items() if model is not None and model.valid_score is not None
    }
    scores = {
        key: score for key, model in who.items() if model is not None and (score := model.score(measure)) is not None
    }
    untaught: tuple[SensorModel, ...] = ("extra_trees", "mini_rocket")
    gain, faults, first = sensor.gain_points, judged.faults, judged.models[0].name
    assert gain is not None
    assert faults is not None  # every sensor was judged under faults
    return SensorRow(
        sensors=(name,),
        scores=scores,
        parameters=sensor.student.parameters or 0,
        gain=msgspec.convert(gain, Interval, from_attributes=True),
        valid_score=valid["distilled"],
        chance=sensor.student.chance,
        is_distilled=not sensor.student.shipped or any(form != LABELS_ONLY for form in sensor.student.shipped),
        ahead=tuple(key for key in untaught if valid.get(key, -math.inf) > valid["distilled"]),
        under_faults=sum(sum(fault.errors[first]) / len(fault.errors[first]) for fault in faults.faults)
        / len(faults.faults),
        worst_fault=faults.faults[0].name,
        latency_ms=None if latency is None else latency.student_ms["p50"],
        worth={}
        if judged.cost is None
        else {option: result.net_present_value for option, result in judged.cost.results.items()},
    )


def pair_experiment(experiment: Experiment) -> Experiment:
    """Return an experiment of every two sensors that can be joined."""
    names, reasons = list[str](), list[str]()
    for pair in combinations(experiment.plan.sensors, 2):
        try:
            names.append(experiment.dataset.spec.modality("+".join(pair)).name)
        except UsageError as error:
            reasons.append(str(error))
    if not names:
        raise UsageError(f"--pairs: {reasons[0] if reasons else 'expected two sensors or more, got one; name another'}")
    return replace(experiment, plan=msgspec.structs.replace(experiment.plan, sensors=tuple(names), rivals=()))


def pair_rows(pairs: Experiment, table: ResultTable, paired: ResultTable) -> tuple[PairRow, ...]:
    """Return a row for each pair, the best on validation first; `table` is of single sensors, `paired` of pairs."""
    measure, rows = reported_measure(paired), []

    def valid(table: ResultTable, name: str) -> float:
        return mean(each.result.score or 0.0 for each in table.student(name))

    for name in pairs.plan.sensors:
        sensors = tuple(part.name for part in pairs.dataset.spec.modality(name).sources)
        better, other = sorted(sensors, key=lambda sensor: -valid(table, sensor))
        scores = []
        answers = zip(*(_answers(pairs, name, seed) for seed in pairs.plan.seeds), strict=True)
        for missing, student in zip(("", *sensors), answers, strict=True):
            single = other if missing == better else better
            tests = tests_of(table.student(single))
            figures = [score_interval(tests, measure) for tests in (student, tests)]
            gain = gain_between(student, tests, measure)
            scores.append(PairScore(missing=missing, single=single, pair=figures[0], alone=figures[1], gain=gain))
        rows.append(PairRow(sensors=sensors, valid_score=valid(paired, name), scores=tuple(scores)))
    return tuple(sorted(rows, key=lambda row: -row.valid_score))


def _answers(pairs: Experiment, name: str, seed: int) -> list[TestedNetwork]:
    """Return how a pair's student answers with both sensors, and without each."""
    test = pairs.folders[name].fold(seed).test
    logits = logits_of(read_student(pairs.student_path(name, seed)).network(), without_each(test, name), modality=name)
    return [outcome_on(test, part) for part in np.split(logits, len(logits) // len(test))]
