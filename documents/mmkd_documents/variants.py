"""The document of `mmkd-evaluate --sensors --vary --json`: how cheap a sensor may be."""

from __future__ import annotations

import msgspec

from mmkd_documents.figures import Chance, Interval, Measure


class VariantRow(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded sensor, or a cheaper one derived from it."""

    sensor: str  # the recorded one
    name: str  # in files and graphs
    title: str
    score: Interval  # the distilled student's figure over seeds
    chance: Chance
    labels_only: float
    gain: Interval  # of teaching over labels only
    difference: Interval | None = None  # paired, to the recorded sensor's student; None for that one
    valid_difference: float | None = None  # of the validation scores, which choose
    is_chosen: bool = False  # the cheapest that validation allows
    bytes_per_s: float
    samples_per_s: float
    window_s: float
    parameters: int
    memory_kb: float  # fp32 weights, and a stream's samples
    latency_ms: float | None = None  # median of the exported student on this machine
    energy_mj: float | None = None  # of an answer above idle, where the machine measures it
    false_alarms: Interval | None = None  # fraction of windows of `healthy` classes that are answered as others
    price: float | None = None  # of one sensor

    @property
    def cost(self) -> float:
        """The price if known, else bytes per second."""
        return self.bytes_per_s if self.price is None else self.price


class VariantsDocument(msgspec.Struct, frozen=True, kw_only=True):
    """All variants, each sensor's recorded one first; differences are in the measure's `gain_unit`."""

    format_version: int = 1
    dataset: str
    sha256: str
    judged_on: str  # in words
    labelled: str
    seeds: tuple[int, ...]
    measure: Measure
    most_loss: float  # in validation, for a variant to be chosen
    rows: tuple[VariantRow, ...]
    healthy: tuple[str, ...] = ()
    currency: str = ""  # of prices
    command: str = ""
