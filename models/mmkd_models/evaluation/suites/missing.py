"""Scores without some sensors or samples; missing samples depend on window and seed, not on the model."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_documents.figures import Interval, Measure
from mmkd_documents.judging import SuiteChart, SuiteResult, SuiteTable
from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.spec import Values
from mmkd_models.data.windows import Rows, Windows, WindowSource
from mmkd_models.evaluation.gains import compare_with_chance, gain_on_windows
from mmkd_models.evaluation.outcome import outcome_on
from mmkd_models.evaluation.suites.inputs import Suite, SuiteInputs, cell_text, figure_text, gain_cell, heading_text

FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
MAX_SUBSETS = 31
_HALF = 0.5  # the fraction that the verdict names


class _MissingFigures(msgspec.Struct, frozen=True, kw_only=True):
    left: tuple[str, ...]
    fraction: float
    scores: dict[str, float]
    gain: Interval | None
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
            seeds = ([self.seed, round(self.fraction * 1000), 0, name, row] for row in rows.tolist())
            drawn = [np.random.default_rng(seed).uniform(size=values.shape[1]) for seed in seeds]
            gone = np.stack(drawn) < self.fraction
        if values.dtype == np.uint8:
            return mask_missing(frame_bytes(values), gone | missing_frames(values))
        return np.where(gone[..., None], np.float32(np.nan), values)


def with_missing_samples(windows: Windows, fraction: float, *, seed: int) -> Windows:
    """Return windows without a fraction of the samples."""
    return replace(windows, source=_MissingSource(source=windows.source, fraction=fraction, seed=seed))


def without_modalities(windows: Windows, absent: Sequence[str]) -> Windows:
    """Return windows in which these modalities recorded nothing."""
    return replace(windows, source=_MissingSource(source=windows.source, absent=tuple(absent)))


def subsets_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the non-empty subsets, the largest first, at most 31."""
    return [subset for size in range(len(names), 0, -1) for subset in combinations(names, size)][:MAX_SUBSETS]


def run(inputs: SuiteInputs) -> SuiteResult:
    """Judge the models with the first one's sensors and samples missing."""
    measure, first = inputs.measure, inputs.first
    compared_with = inputs.baseline or (inputs.names[1] if len(inputs.models) > 1 else None)
    conditions = [(subset, 0.0) for subset in subsets_of(first.modalities)]
    conditions += [(first.modalities, fraction) for fraction in FRACTIONS[1:]]
    rows = []
    inputs.on_part("missing sensors and samples")
    for left, fraction in conditions:
        absent = set(first.modalities) - set(left)
        windows = without_modalities(inputs.windows, sorted(absent)) if absent else inputs.windows
        if fraction:
            windows = with_missing_samples(windows, fraction, seed=inputs.seed)
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
                scores={name: each.scores.metric(measure.name) for name, each in judged.items()},
                gain=None if reference is None else gain_on_windows(outcome, reference, measure.name, seed=inputs.seed),
                is_chance=not compare_with_chance([outcome], measure.name, seed=inputs.seed).is_better,
            )
        )
    facts = _MissingFacts(measure=measure, compared_with=compared_with, rows=tuple(rows))
    curve = [facts.rows[0], *(row for row in facts.rows if row.fraction)]
    return SuiteResult(
        title="When sensors or samples are missing",
        lead=(
            "Missing samples are single ones, drawn with that probability. Models see them as missing, and nothing is "
            "filled in. A teacher without the other sensors is no figure of the one that is left: its student is."
        ),
        facts=facts,
        verdict=tuple(_verdict(inputs.first.name, facts)),
        tables=(_table(inputs, facts),),
        charts=(
            SuiteChart(
                title="Missing samples",
                x_label="fraction of the samples missing",
                x=FRACTIONS,
                lines={name: tuple(row.scores[name] for row in curve) for name in inputs.names},
                is_fraction=measure.is_fraction,
            ),
        ),
    )


def _table(inputs: SuiteInputs, facts: _MissingFacts) -> SuiteTable:
    measure, names, other = facts.measure, inputs.names, facts.compared_with
    rows = []
    for row in facts.rows:
        cells = [cell_text(row.scores[name], measure) if name in row.scores else "-" for name in names]
        gain = [] if other is None else ["-" if row.gain is None else gain_cell(row.gain, measure)]
        condition = f"{row.fraction:.0%} of the samples missing" if row.fraction else _condition(row)
        if row is facts.rows[0]:
            condition = "nothing missing"
        rows.append((condition, *cells, *gain))
    heads = ["condition", *names]
    if other is not None:
        heads.append(f"gain over {other}{f', {measure.gain_unit}' if measure.gain_unit else ''} (95 % CI)")
    return SuiteTable(caption=heading_text(measure), heads=tuple(heads), rows=tuple(rows))


def _condition(row: _MissingFigures) -> str:
    return f"without all but {' + '.join(row.left)}"


def _verdict(name: str, facts: _MissingFacts) -> Iterator[str]:
    measure, first = facts.measure, facts.rows[0]

    def describe_score(row: _MissingFigures) -> str:
        chance = ", no better than chance" if row.is_chance else ""
        return f"{figure_text(row.scores[name], measure)} {measure.words}{chance}"

    singles = [row for row in facts.rows if len(row.left) == 1 < len(first.left)]
    if singles:
        best = max(singles, key=lambda row: measure.rank(row.scores[name]))
        yield (
            f"{name} {_condition(best)} reaches {describe_score(best)}, the most that one sensor leaves; this is no "
            f"figure of {best.left[0]} itself, which its student has"
        )
    half = next(row for row in facts.rows if row.fraction == _HALF)
    yield f"With half of the samples missing {name} reaches {describe_score(half)}"


SUITE = Suite(run=run)
