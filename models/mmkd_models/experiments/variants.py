"""How cheap a sensor may be: a comparison of variants, one factor at a time, then their corner, or the whole grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mmkd_documents.figures import Interval, Measure
from mmkd_documents.variants import VariantRow
from mmkd_edge.derive import bytes_per_second, samples_per_second
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.spec import DatasetSpec, window_bytes
from mmkd_models.evaluation import gains
from mmkd_models.metrics.scores import gain_metric, measure_named

if TYPE_CHECKING:  # what --vary names is read without torch
    from mmkd_models.evaluation.outcome import TestedNetwork
    from mmkd_models.experiments.experiment import ResultTable

FACTORS = {
    "channels": "[{}]",
    "window": "{}s",
    "rate": "{}Hz",
    "size": "{}",
    "burst": "{}",
    "bits": "{}bit",
    "range": "{}",
}
"""Factors of a sensor, and how their values are written in the text of a variant."""
MOST_POINTS = 1.0
"""Validation may lose so many points, or percent of an error, for a cheaper variant."""
_DRAWS = 4000
_BUFFER = 3  # windows that a stream holds

Parts = dict[str, str]
"""Of a variant's text, by factor."""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """What is varied of one sensor: by factor its parts, without that of the recorded sensor."""

    sensor: ModalitySpec
    factors: Mapping[str, tuple[str, ...]]
    spec: DatasetSpec

    def variant(self, parts: Mapping[str, str]) -> ModalitySpec:
        """Return a variant of these parts."""
        ranges = self.factors.get("range", ())
        needs_range = "bits" in parts and "range" not in parts and self.sensor.range is None and bool(ranges)
        parts = {**parts, "range": ranges[0]} if needs_range else parts
        words = ",".join(parts[factor] for factor in FACTORS if factor in parts and factor != "channels")
        text = self.sensor.name + parts.get("channels", "") + (f"@{words}" if words else "")
        return self.spec.modality(text)

    def singles(self) -> list[Parts]:
        """Return each part alone."""
        return [{factor: part} for factor, parts in self.factors.items() for part in parts]

    def grid(self) -> list[Parts]:
        """Return every combination except the recorded sensor."""
        choices = [[("", ""), *((factor, part) for part in parts)] for factor, parts in self.factors.items()]
        return [parts for chosen in product(*choices) if (parts := {key: part for key, part in chosen if key})]

    def corner(self, table: ResultTable) -> Parts:
        """Join each factor's cheapest part that validation allows."""
        joined: Parts = {}
        for factor, parts in self.factors.items():
            variants = {part: self.variant({factor: part}) for part in parts}
            allowed = [
                part
                for part, variant in variants.items()
                if valid_difference(table, variant.name, self.sensor.name) >= -most_loss(table, self.sensor.name)
            ]
            if allowed:
                joined[factor] = min(allowed, key=lambda part: bytes_per_second(variants[part]))
        return joined


def parse_variations(texts: Sequence[str], spec: DatasetSpec) -> list[Variation]:
    """Parse `acc:rate=100,50`, several for a sensor."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for text in texts:
        name, _, rest = text.partition(":")
        factor, mark, values = rest.partition("=")
        if not mark or factor not in FACTORS:
            factors = ", ".join(FACTORS)
            raise UsageError(f"--vary {text}: expected SENSOR:FACTOR=VALUE,... with a factor of {factors}; correct it")
        sensor = spec.modality(name)
        if sensor.derived:
            raise UsageError(
                f"--vary {text}: expected a recorded sensor, got {sensor.title}; name {sensor.recorded.name}"
            )
        factors_of = found.setdefault(name, {})
        if factor in factors_of:
            raise UsageError(f"--vary {text}: expected {name}:{factor} once, got it twice; join the values")
        pattern = "{}fps" if factor == "rate" and sensor.kind == "video" else FACTORS[factor]
        factors_of[factor] = tuple(
            dict.fromkeys(pattern.format(value.replace("+", ",")) for value in values.split(","))
        )
    variations = []
    for name, given in found.items():
        sensor = spec.modality(name)
        whole = Variation(sensor=sensor, factors=given, spec=spec)
        cheaper = {
            factor: tuple(part for part in parts if not _is_recorded(whole.variant({factor: part}), factor))
            for factor, parts in given.items()
        }
        if not any(cheaper.values()):
            raise UsageError(f"--vary {name}: expected a variant, got the recorded sensor alone; add a cheaper value")
        variations.append(Variation(sensor=sensor, factors=cheaper, spec=spec))
    return variations


def _is_recorded(variant: ModalitySpec, factor: str) -> bool:
    assert variant.derived  # it is a variant
    source = variant.derived.source
    return factor not in ("burst", "bits", "range") and (variant.shape, variant.rate_hz) == (
        source.shape,
        source.rate_hz,
    )


def valid_difference(table: ResultTable, name: str, sensor: str) -> float:
    """Return the difference of the students' mean validation scores, in the gain's unit."""
    return validation_measure(table).gain_scale * (_valid_score(table, name) - _valid_score(table, sensor))


def most_loss(table: ResultTable, sensor: str) -> float:
    """Return what validation may lose: a point, or a percent of the recorded sensor's figure."""
    measure = validation_measure(table)
    if measure.is_fraction:
        return MOST_POINTS
    return abs(measure.gain_scale * _valid_score(table, sensor)) * MOST_POINTS / 100


def _valid_score(table: ResultTable, name: str) -> float:
    return mean(each.result.score or 0.0 for each in table.student(name))


def validation_measure(table: ResultTable) -> Measure:
    """Return the measure of validation scores."""
    return measure_named(table.plan.conditions.student_train.metric)


def reported_measure(table: ResultTable) -> Measure:
    """Return the measure of scores and differences."""
    return gain_metric(table.spec.task, table.plan.conditions.student_train.metric)


def variant_rows(
    table: ResultTable,
    variations: Sequence[Variation],
    *,
    latencies: Mapping[str, float],
    energies: Mapping[str, float],
    prices: Mapping[str, float],
    healthy: Sequence[str],
) -> tuple[VariantRow, ...]:
    """Return each sensor's recorded one, then its variants from the dearest to the cheapest."""
    rows: list[VariantRow] = []
    for variation in variations:
        names = [
            name for name in table.plan.sensors if table.spec.modality(name).recorded.name == variation.sensor.name
        ]
        own = [
            msgspec.structs.replace(
                _row(table, variation, name, healthy),
                latency_ms=latencies.get(name),
                energy_mj=energies.get(name),
                price=prices.get(name),
            )
            for name in names
        ]
        is_priced = all(row.price is not None for row in own)
        own = own if is_priced else [msgspec.structs.replace(row, price=None) for row in own]
        full, *others = own
        allowed = [
            row
            for row in others
            if row.cost < full.cost and (row.valid_difference or 0.0) >= -most_loss(table, variation.sensor.name)
        ]
        cheapest = min(allowed, key=lambda row: (row.cost, -(row.valid_difference or 0.0)), default=None)
        others.sort(key=lambda row: -row.cost)
        rows += [msgspec.structs.replace(row, is_chosen=row is cheapest) for row in (full, *others)]
    return tuple(rows)


def _row(table: ResultTable, variation: Variation, name: str, healthy: Sequence[str]) -> VariantRow:
    modality, measure, sensor = table.spec.modality(name), reported_measure(table), variation.sensor.name
    every = table.student(name), table.baseline(name), table.student(sensor)
    student, baseline, full = ([each.test for each in judged] for judged in every)
    parameters = table.student(name)[0].result.parameters
    return VariantRow(
        sensor=sensor,
        name=name,
        title=modality.title,
        score=score_interval(student, measure),
        chance=gains.compare_with_chance(student, measure.name),
        labels_only=mean(test.scores.metric(measure.name) for test in baseline),
        gain=gain_between(student, baseline, measure),
        difference=None if name == sensor else gain_between(student, full, measure),
        valid_difference=None if name == sensor else valid_difference(table, name, sensor),
        bytes_per_s=bytes_per_second(modality),
        samples_per_s=samples_per_second(modality),
        window_s=modality.duration_s,
        parameters=parameters,
        memory_kb=(_BUFFER * window_bytes(modality) + 4 * parameters) / 1024,
        false_alarms=false_alarms(student, [table.spec.task.labels.index(label) for label in healthy]),
    )


def false_alarms(tests: Sequence[TestedNetwork], healthy: Sequence[int]) -> Interval | None:
    """Return the fraction of windows of healthy classes that are answered as others; None without such windows."""
    parts = [np.array(part.confusion)[list(healthy)] for test in tests for part in test.confusions or ()]
    counts = np.array([(part.sum() - part[:, list(healthy)].sum(), part.sum()) for part in parts if part.sum()])
    if not len(counts):
        return None
    return gains.interval_over_groups(
        lambda weights: (weights @ counts[:, 0]) / (weights @ counts[:, 1]), len(counts), seed=0, draws=_DRAWS
    )


def score_interval(tests: Sequence[TestedNetwork], measure: Measure) -> Interval:
    """Return a model's mean score over seeds, with its interval over groups."""
    low, high = None, None
    if len(gains.groups_tested(tests)) >= gains.MIN_GROUPS:
        low, high = gains.interval_of(np.asarray(gains.figure_draws(tests, measure.name)))
    return Interval(mean=mean(test.scores.metric(measure.name) for test in tests), low=low, high=high)


def gain_between(tests: Sequence[TestedNetwork], references: Sequence[TestedNetwork], measure: Measure) -> Interval:
    """Return a model's paired gain over another, with its interval over groups."""
    return msgspec.convert(gains.gain_of_pairs([(tests, references)], measure.name), Interval, from_attributes=True)
