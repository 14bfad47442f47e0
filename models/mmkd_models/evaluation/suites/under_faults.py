"""How models stand faults: every fault at every severity, on the same windows for all of them.

A fault is of the sensor: it comes before the modality's range and before normalisation by group, as on a device. Every
window has the same fault for every model, whatever else is judged: its generator is of window, fault and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mmkd_edge.frames import bytes_of, missing_frames, with_missing
from mmkd_edge.spec import ModalitySpec, TaskKind
from mmkd_models.data.kinds import Values, windows_at_once
from mmkd_models.data.sources import Rows, WindowSource
from mmkd_models.data.windows import Windows, mean_and_std, raw_values
from mmkd_models.evaluation.faults.sensor import FaultedChannels
from mmkd_models.evaluation.faults.table import FAULTS, NAMES, SEVERITIES, Fault, FaultName, hit_channels
from mmkd_models.evaluation.gains import FEWEST_GROUPS, interval_of
from mmkd_models.evaluation.outcome import TestedNetwork, drawn_figures, outcome_on
from mmkd_models.evaluation.suites.answering import AskedModel
from mmkd_report.schema.judging import FaultFigures, FaultsFacts, RelativeError

_BLOCKS_MEASURED = 2  # of training windows, of which a sensor's usual spread is
_DRAWS = 500
ERROR_OF: dict[TaskKind, str] = {"classification": "balanced_accuracy", "multi_label": "macro_f1", "regression": "rmse"}
"""Whose distance from the best is the error; of numbers the error itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FaultySource:
    """Windows of another source with a fault of these sensors."""

    source: WindowSource
    name: FaultName
    severity: float
    seed: int
    sensors: Mapping[str, FaultedChannels]

    @property
    def max_shift_s(self) -> float:
        """As of the sound source."""
        return self.source.max_shift_s

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: npt.NDArray[np.float64] | None) -> Values:
        """Gives new windows as the sound source does; a modality that cannot have the fault is as it was."""
        values = self.source.gather(modality, rows, shift_s=shift_s)
        fault = FAULTS[self.name]
        if modality.name not in self.sensors or not fault.can_hit(modality):
            return values
        chances = [np.random.default_rng([self.seed, NAMES.index(self.name), row]) for row in rows.tolist()]
        sensor = self.sensors[modality.name]
        if modality.kind == "video":
            return _broken_frames(values, fault, sensor, self.severity, chances)
        found = _broken_samples(values, fault, sensor, self.severity, chances)
        return np.clip(found, -1, 1) if modality.kind == "audio" else found


def _broken_samples(
    values: Values, fault: Fault, sensor: FaultedChannels, severity: float, chances: Sequence[np.random.Generator]
) -> Values:
    """(B, T, C): a generator for each window."""
    found: Values = values.copy()
    for window, rng in zip(found, chances, strict=True):
        hit = hit_channels(fault, window.shape[1], rng)
        of_these = FaultedChannels(mean=sensor.mean[hit], std=sensor.std[hit], rate_hz=sensor.rate_hz)
        window[:, hit] = fault.apply(window[:, hit].astype(np.float64), of_these, severity, rng)
    return found


def _broken_frames(
    values: Values, fault: Fault, sensor: FaultedChannels, severity: float, chances: Sequence[np.random.Generator]
) -> Values:
    """(B, T, H, W, C): a generator for each window."""
    found, missing = bytes_of(values).copy(), missing_frames(values)
    for number, rng in enumerate(chances):
        frames = np.where(missing[number, :, None, None, None], np.nan, found[number]).astype(np.float32)
        broken = fault.apply(frames, sensor, severity, rng)
        missing[number] = np.isnan(broken).any(axis=(1, 2, 3))
        found[number] = np.rint(np.nan_to_num(broken))
    return with_missing(found, missing)


def with_fault(
    windows: Windows, name: FaultName, severity: float, *, seed: int, sensors: Mapping[str, FaultedChannels]
) -> Windows:
    """Gives the same windows as broken sensors would have given them."""
    return replace(
        windows,
        source=FaultySource(source=windows.source, name=name, severity=severity, seed=seed, sensors=sensors),
    )


def sensors_of(train: Windows, names: Sequence[str]) -> dict[str, FaultedChannels]:
    """Measures mean and spread of these modalities on training windows, raw; those of video are told in shares."""
    found = {}
    for name in names:
        modality = train.spec.modality(name)
        if modality.kind == "video":
            unmeasured = np.full(len(modality.channels), np.nan)
            found[name] = FaultedChannels(mean=unmeasured, std=unmeasured, rate_hz=modality.rate_hz)
            continue
        count = min(_BLOCKS_MEASURED * windows_at_once(modality), len(train))
        rows = train.rows[np.unique(np.linspace(0, len(train) - 1, count).round().astype(int))]
        mean, std = mean_and_std(raw_values(train, modality=modality, rows=rows))
        found[name] = FaultedChannels(mean=mean, std=std, rate_hz=modality.rate_hz)
    return found


def faults_for(sensors: Sequence[ModalitySpec]) -> tuple[FaultName, ...]:
    """Gives the faults that one of these sensors or more can have."""
    return tuple(name for name in NAMES if any(FAULTS[name].can_hit(one) for one in sensors))


def broken_windows(
    windows: Windows, names: Sequence[str], *, train: Windows, severities: Sequence[float], seed: int
) -> Iterator[Windows]:
    """Gives the windows under every fault that sensors of these names can have, at each severity."""
    sensors = sensors_of(train, names)
    for name in faults_for([windows.spec.modality(one) for one in names]):
        for severity in severities:
            yield with_fault(windows, name, severity, seed=seed, sensors=sensors)


def judge_faults(
    models: Sequence[AskedModel],
    windows: Windows,
    *,
    train: Windows,
    baseline: str | None,
    seed: int,
    on_part: Callable[[str], None],
) -> FaultsFacts:
    """Judges models under every fault that the first one's sensors can have, worst for the first model first.

    Args:
        models: the first one's modalities are what breaks.
        baseline: the name of the model whose error the others are told in; None without one.
    """
    names = models[0].facts.modalities
    sensors = sensors_of(train, names)
    breaking = [windows.spec.modality(name) for name in names]
    sound = {one.facts.name: outcome_on(windows, one.answers(windows)) for one in models}
    outcomes: dict[FaultName, dict[str, list[TestedNetwork]]] = {}
    for name in faults_for(breaking):
        on_part(f"fault: {name}")
        broken = [with_fault(windows, name, severity, seed=seed, sensors=sensors) for severity in SEVERITIES]
        outcomes[name] = {one.facts.name: [outcome_on(windows, one.answers(part)) for part in broken] for one in models}
    kind = windows.spec.task.kind
    figures = [_figures(name, found, models, breaking, kind, baseline) for name, found in outcomes.items()]
    first = models[0].facts.name
    return FaultsFacts(
        sensors=tuple(names),
        severities=SEVERITIES,
        measure=ERROR_OF[kind],
        sound={name: error_of(one, kind) for name, one in sound.items()},
        faults=tuple(sorted(figures, key=lambda one: -sum(one.errors[first]))),
        left_out=tuple(
            name for name in NAMES if name not in outcomes and any(one.kind in FAULTS[name].kinds for one in breaking)
        ),
        relative={}
        if baseline is None
        else {
            one.facts.name: _relative(outcomes, one.facts.name, baseline, kind, seed)
            for one in models
            if one.facts.name != baseline
        },
    )


def error_of(judged: TestedNetwork, kind: TaskKind) -> float:
    """Gives how far answers are from the best: one minus balanced accuracy or macro-F1, or the RMSE of numbers."""
    figure = judged.scores.metric(ERROR_OF[kind])
    return figure if kind == "regression" else 1 - figure


def _figures(
    name: FaultName,
    found: Mapping[str, Sequence[TestedNetwork]],
    models: Sequence[AskedModel],
    breaking: Sequence[ModalitySpec],
    kind: TaskKind,
    baseline: str | None,
) -> FaultFigures:
    errors = {model: tuple(error_of(one, kind) for one in judged) for model, judged in found.items()}
    practice = FAULTS[name].practice
    hit = [one for one in breaking if FAULTS[name].can_hit(one)]
    if practice == "channel_dropout" and any(one.kind != "video" and len(one.channels) == 1 for one in hit):
        practice = None  # augmentation never hides a sensor's only channel; of video it drops frames
    return FaultFigures(
        name=name,
        what=FAULTS[name].what,
        practised={
            one.facts.name: None if one.practised is None else practice is not None and practice in one.practised
            for one in models
        },
        errors=errors,
        relative={}
        if baseline is None or sum(errors[baseline]) == 0
        else {model: sum(of) / sum(errors[baseline]) for model, of in errors.items() if model != baseline},
    )


def _relative(
    outcomes: Mapping[FaultName, Mapping[str, Sequence[TestedNetwork]]],
    model: str,
    baseline: str,
    kind: TaskKind,
    seed: int,
) -> RelativeError | None:
    """Mean over faults of summed error over the baseline's (D. Hendrycks and T. Dietterich, ICLR 2019, section 4.2).

    The interval resamples whole groups, the same ones for both. None where the baseline makes no error.
    """
    ratios = [_ratio(found, model, baseline, kind) for found in outcomes.values()]
    if any(ratio is None for ratio in ratios):
        return None
    mean = float(np.mean([ratio for ratio in ratios if ratio is not None]))
    groups = [one.group for one in next(iter(outcomes.values()))[model][0].by_group]
    if len(groups) < FEWEST_GROUPS:
        return RelativeError(mean=mean, low=None, high=None)
    weights = np.random.default_rng(seed).multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=_DRAWS)
    drawn = np.zeros(_DRAWS)
    with np.errstate(invalid="ignore", divide="ignore"):
        for found in outcomes.values():
            ours, theirs = (_drawn_errors(found[one], groups, weights, kind) for one in (model, baseline))
            drawn += ours / theirs / len(outcomes)
    low, high = interval_of(np.where(np.isfinite(drawn), drawn, np.nan))
    return RelativeError(mean=mean, low=low, high=high)


def _ratio(found: Mapping[str, Sequence[TestedNetwork]], model: str, baseline: str, kind: TaskKind) -> float | None:
    ours, theirs = (sum(error_of(one, kind) for one in found[name]) for name in (model, baseline))
    return ours / theirs if theirs > 0 else None


def _drawn_errors(
    judged: Sequence[TestedNetwork], groups: list[int | str], weights: npt.NDArray[np.int64], kind: TaskKind
) -> npt.NDArray[np.float64]:
    """(D,) the summed error over severities."""
    figures = sum(drawn_figures(one, groups, weights, ERROR_OF[kind]) for one in judged)
    return np.asarray(figures if kind == "regression" else len(judged) - figures)
