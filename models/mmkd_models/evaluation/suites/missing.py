"""Scores with sensors missing: subsets of modalities, single samples, and bursts of samples.

Missing samples depend on window and seed, not on the model.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.spec import Values
from mmkd_models.data.windows import Rows, Windows, WindowSource
from mmkd_models.evaluation.chance import compare_with_chance
from mmkd_models.evaluation.gains import gain_on_windows
from mmkd_models.evaluation.outcome import outcome_on
from mmkd_models.evaluation.suites.inputs import Suite, SuiteInputs, cell_text, figure_text, gain_cell, heading_text
from mmkd_report.schema.evaluation import WindowGain
from mmkd_report.schema.figures import Measure
from mmkd_report.schema.judging import SuiteChart, SuiteResult, SuiteTable

FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
MAX_SUBSETS = 31
_HALF = 0.5  # the fraction that the verdict names


class _MissingFigures(msgspec.Struct, frozen=True, kw_only=True):
    left: tuple[str, ...]
    fraction: float
    burst: bool
    scores: dict[str, float]
    gain: WindowGain | None
    is_chance: bool


class _MissingFacts(msgspec.Struct, frozen=True, kw_only=True):
    measure: Measure
    compared_with: str | None
    rows: tuple[_MissingFigures, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _MissingSource:
    source: WindowSource
    absent: tuple[str, ...] = ()
    fraction: float = 0.0
    burst: bool = False
    seed: int = 0

    @property
    def max_shift_s(self) -> float:
        return self.source.max_shift_s

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: npt.NDArray[np.float64] | None) -> Values:
        values = self.source.gather(modality, rows, shift_s=shift_s)
        if modality.name in self.absent:
            gone = np.ones(values.shape[:2], dtype=bool)
        else:
            name = zlib.crc32(modality.name.encode())
            seeds = ([self.seed, round(self.fraction * 1000), self.burst, name, row] for row in rows.tolist())
            gone = np.stack([self._missing(values.shape[1], np.random.default_rng(seed)) for seed in seeds])
        if values.dtype == np.uint8:
            return mask_missing(frame_bytes(values), gone | missing_frames(values))
        return np.where(gone[..., None], np.float32(np.nan), values)

    def _missing(self, samples: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        if not self.burst:
            return np.asarray(rng.uniform(size=samples) < self.fraction)
        length = round(self.fraction * samples)
        place = np.arange(samples) - rng.integers(samples - length + 1)
        return np.asarray((place >= 0) & (place < length))


def with_missing_samples(windows: Windows, fraction: float, *, seed: int, burst: bool = False) -> Windows:
    """Return windows without a fraction of the samples, singly or in one burst."""
    return replace(windows, source=_MissingSource(source=windows.source, fraction=fraction, burst=burst, seed=seed))


def without_modalities(windows: Windows, absent: Sequence[str]) -> Windows:
    """Return windows in which these modalities recorded nothing."""
    return replace(windows, source=_MissingSource(source=windows.source, absent=tuple(absent)))


def subsets_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the non-empty subsets, the largest first, at most 31."""
    return [subset for size in range(len(names), 0, -1) for subset in combinations(names, size)][:MAX_SUBSETS]


def _conditions(inputs: SuiteInputs) -> Iterator[tuple[tuple[str, ...], float, bool, Windows]]:
    windows, names = inputs.windows, inputs.first.modalities
    for subset in subsets_of(names):
        absent = [name for name in names if name not in subset]
        yield subset, 0.0, False, without_modalities(windows, absent) if absent else windows
    for burst in (False, True):
        for fraction in FRACTIONS[1:]:
            yield names, fraction, burst, with_missing_samples(windows, fraction, seed=inputs.seed, burst=burst)


def _judge_missing(inputs: SuiteInputs) -> _MissingFacts:
    measure, first = inputs.measure, inputs.first
    compared_with = inputs.baseline or (inputs.names[1] if len(inputs.models) > 1 else None)
    rows, part = [], ""
    for left, fraction, burst, windows in _conditions(inputs):
        if part != (part := "bursts" if burst else "missing samples" if fraction else "missing sensors"):
            inputs.on_part(part)
        absent = set(first.modalities) - set(left)
        judged = {
            model.name: outcome_on(inputs.windows, model.answers(windows))
            for model in inputs.models
            if not set(model.facts.modalities) <= absent
        }
        outcome, reference = judged[first.name], judged.get(compared_with or "")
        rows.append(
            _MissingFigures(
                left=left,
                fraction=fraction,
                burst=burst,
                scores={name: each.scores.metric(measure.name) for name, each in judged.items()},
                gain=None if reference is None else gain_on_windows(outcome, reference, measure.name, seed=inputs.seed),
                is_chance=not compare_with_chance([outcome], measure.name, seed=inputs.seed).is_better,
            )
        )
    return _MissingFacts(measure=measure, compared_with=compared_with, rows=tuple(rows))


def run(inputs: SuiteInputs) -> SuiteResult:
    """Judge the models with the first one's sensors and samples missing."""
    facts = _judge_missing(inputs)
    measure = facts.measure
    return SuiteResult(
        title="When sensors or samples are missing",
        lead=(
            "Missing samples are single ones, drawn with that probability; a burst is one span of every window. Models "
            "see them as missing, and nothing is filled in."
        ),
        facts=facts,
        verdict=tuple(_verdict(inputs.first.name, facts)),
        tables=(_table(inputs, facts),),
        charts=tuple(
            SuiteChart(
                title="Bursts" if burst else "Missing samples",
                x_label="fraction of the window missing" if burst else "fraction of the samples missing",
                x=FRACTIONS,
                lines={name: tuple(row.scores[name] for row in _curve(facts, burst)) for name in inputs.names},
                is_fraction=measure.is_fraction,
            )
            for burst in (False, True)
        ),
    )


def _curve(facts: _MissingFacts, burst: bool) -> list[_MissingFigures]:
    return [facts.rows[0], *(row for row in facts.rows if row.fraction and row.burst == burst)]


def _condition(row: _MissingFigures, first: tuple[str, ...]) -> str:
    if row.fraction:
        return f"a burst of {row.fraction:.0%} missing" if row.burst else f"{row.fraction:.0%} of the samples missing"
    return "nothing missing" if row.left == first else f"only {' + '.join(row.left)}"


def _table(inputs: SuiteInputs, facts: _MissingFacts) -> SuiteTable:
    measure, names, other = facts.measure, inputs.names, facts.compared_with
    rows = []
    for row in facts.rows:
        cells = [cell_text(row.scores[name], measure) if name in row.scores else "-" for name in names]
        gain = [] if other is None else ["-" if row.gain is None else gain_cell(row.gain, measure)]
        rows.append((_condition(row, inputs.first.modalities), *cells, *gain))
    heads = ["condition", *names]
    if other is not None:
        heads.append(f"gain over {other}{f', {measure.gain_unit}' if measure.gain_unit else ''} (95 % CI)")
    return SuiteTable(caption=heading_text(measure), heads=tuple(heads), rows=tuple(rows))


def _verdict(name: str, facts: _MissingFacts) -> Iterator[str]:
    measure, first = facts.measure, facts.rows[0]

    def describe_score(row: _MissingFigures) -> str:
        chance = ", no better than chance" if row.is_chance else ""
        return f"{figure_text(row.scores[name], measure)} {measure.words}{chance}"

    singles = [row for row in facts.rows if len(row.left) == 1 < len(first.left)]
    if singles:
        best = max(singles, key=lambda row: measure.rank(row.scores[name]))
        yield f"With {best.left[0]} alone, its best single sensor, {name} reaches {describe_score(best)}"
    halves = [row for row in facts.rows if row.fraction == _HALF]
    yield (
        f"With half of the samples missing {name} reaches {describe_score(halves[0])}, with half of the window missing "
        f"in one burst {describe_score(halves[1])}"
    )


SUITE = Suite(run=run)
