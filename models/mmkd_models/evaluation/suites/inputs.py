"""Models under test, inputs, and number formats of all suites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_documents.figures import Interval, Measure
from mmkd_documents.judging import JudgedModel, ShiftFacts, SuiteResult
from mmkd_edge.bundle.manifest import Confidence, Normal, OverTime
from mmkd_edge.errors import UsageError
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.known_windows import KnownWindows
from mmkd_models.metrics.likelihood import Floats, probabilities_of
from mmkd_models.metrics.scores import DEFAULT_METRIC, gain_metric

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherCheckpoint

Answers = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class ModelUnderTest:
    """A checkpoint, an artifact of a bundle, or a rival."""

    facts: JudgedModel
    cautions: tuple[str, ...]
    predict: Callable[
        [Windows], Answers
    ]  # logits (N, K), regression and `normal` (N, 1), of windows with its modalities, in order
    known: KnownWindows | None = None  # judging windows it knows; None if unknown or of another dataset
    checkpoint: StudentCheckpoint | TeacherCheckpoint | None = None
    normal: Normal | None = None  # scores of normal running, of such a student
    over_time: OverTime | None = None  # how a stream filters its answers
    calibration: Confidence | None = None  # an artifact's temperature and label sets; its answers are calibrated

    @property
    def name(self) -> str:
        """Name in tables and documents."""
        return self.facts.name

    def with_name(self, name: str) -> ModelUnderTest:
        """Return the model under another name; suites keep figures by name, so names differ."""
        return replace(self, facts=msgspec.structs.replace(self.facts, name=name))

    def answers(self, windows: Windows) -> Answers:
        """Return logits (N, K), or numbers (N, 1)."""
        return self.predict(windows.with_modalities(list(self.facts.modalities)))

    def probabilities(self, windows: Windows) -> Floats:
        """Return class probabilities (N, K)."""
        return probabilities_of(self.answers(windows), kind="classification")


@dataclass(frozen=True, kw_only=True)
class SuiteInputs:
    """Inputs of all suites; the first of the `models` is judged.

    `calibration` windows, labelled validation ones, are for label sets. `by` names metadata, None for groups. `shift`
    trains and judges without each domain, and reports progress.
    """

    models: tuple[ModelUnderTest, ...]
    windows: Windows
    train: Windows
    calibration: Windows
    by: str | None = None
    cost: Path | None = None
    shift: Callable[[Callable[[str], None]], ShiftFacts] | None = None
    seed: int = 0
    on_part: Callable[[str], None] = lambda part: None

    @property
    def names(self) -> list[str]:
        """Model names."""
        return [model.name for model in self.models]

    @property
    def first(self) -> JudgedModel:
        """The judged model."""
        return self.models[0].facts

    @property
    def over_time(self) -> OverTime | None:
        """How the judged model filters answers over time, on windows that have an order."""
        return None if self.windows.clock_s is None else self.models[0].over_time

    @property
    def baseline(self) -> str | None:
        """The first other labels-only model on the sensor."""
        for model in self.models[1:]:
            if model.facts.role == "labels only" and model.facts.modalities == self.first.modalities:
                return model.name
        return None

    @property
    def several_labels(self) -> NDArray[np.bool_] | None:
        """Windows (N,) with two labels or more, None without any."""
        if self.windows.spec.task.kind != "multi_label":
            return None
        several = self.windows.labels.sum(axis=1) > 1
        return several if several.any() else None

    @property
    def measure(self) -> Measure:
        """Figure of gains: the first model's validation metric; for regression the error."""
        task, checkpoint = self.windows.spec.task, self.models[0].checkpoint
        return gain_metric(task, DEFAULT_METRIC[task.kind] if checkpoint is None else checkpoint.facts.metric)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One suite; `--suite all` leaves it out if the inputs lack the field `needs`."""

    run: Callable[[SuiteInputs], SuiteResult]
    check: Callable[[SuiteInputs], None] = lambda inputs: None
    needs: str = ""


def check_classes(windows: Windows, suite: str) -> None:
    """Raise UsageError unless the task is classification."""
    task, name = windows.spec.task, windows.spec.name
    if task.kind != "classification":
        raise UsageError(
            f"--suite {suite}: expected a dataset of classes, got {name!r} of the kind {task.kind}; leave the suite out"
        )


def listed(words: list[str], last: str = "or") -> str:
    """Join words as in a sentence."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def heading_text(measure: Measure) -> str:
    """Return a figure's words and unit."""
    return f"{measure.title}, {measure.unit}" if measure.unit else measure.title


def cell_text(value: float, measure: Measure) -> str:
    """Format a figure without its unit."""
    return f"{measure.scale * value:.1f}" if measure.is_fraction else f"{value:.3g}"


def figure_text(value: float, measure: Measure) -> str:
    """Format a figure with its unit."""
    return f"{value:.1%}" if measure.is_fraction else f"{value:.3g} {measure.unit}".rstrip()


def points_text(value: float, measure: Measure) -> str:
    """Format a gain with its sign and unit."""
    return f"{value:+.1f} points" if measure.is_fraction else f"{value:+.3g} {measure.gain_unit}".rstrip()


def interval_text(gain: Interval, measure: Measure) -> str:
    """Format the 95 % interval of a gain, if any."""
    if gain.low is None or gain.high is None:
        return "too few for an interval"
    ends = f"{gain.low:+.1f} to {gain.high:+.1f}" if measure.is_fraction else f"{gain.low:+.3g} to {gain.high:+.3g}"
    return f"95 % CI {ends}"


def gain_cell(gain: Interval, measure: Measure) -> str:
    """Format a gain and its interval, without unit."""
    text = f"{gain.mean:+.1f}" if measure.is_fraction else f"{gain.mean:+.3g}"
    if gain.low is None or gain.high is None:
        return text
    return f"{text} ({interval_text(gain, measure).removeprefix('95 % CI ')})"
