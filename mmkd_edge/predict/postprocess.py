"""From outputs to a `Prediction`; the choice among students; the policy."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import BackendError, InputError
from mmkd_edge.predict.novelty import label_set
from mmkd_edge.predict.sensors import Failure, Status, WindowFault, missing_causes, worse
from mmkd_edge.spec import ModalitySpec, TaskKind, TaskSpec

# From this fraction of missing values on, or with one channel wholly missing, a prediction is degraded:
# docs/embedding.md has the accuracy that missing values cost. For frames it is a convention.
_DEGRADED_FRACTION = 0.02
_DEGRADED_FRACTION_OF_FRAMES = 0.1
# Above the rounding of a float16 softmax over many classes.
_SUM_TOLERANCE = 0.01
_MIN_SUM, _MAX_SUM = 1 - _SUM_TOLERANCE, 1 + _SUM_TOLERANCE


Policy = Literal["predict", "abstain", "raise"]


class CallConditions(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a prediction besides its window; `deadline_s` is a moment of `time.monotonic()`."""

    fault: WindowFault | None = None
    input_age_s: float | None = None
    deadline_s: float | None = None

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline_s is not None and time.monotonic() >= self.deadline_s


NO_CONDITIONS = CallConditions()


# A Struct, since it is built five times faster than a frozen dataclass.
class Prediction(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """The answer for one window.

    Attributes:
        label: the most probable label; a regression's target; empty without an answer. A student of normal data has
            one label, and none for a window that is unlike normal ones: its status is then `unknown`. A stream may
            filter it over successive answers; see `EdgePredictor.stream`.
        index: -1 without an answer.
        probability: 0 to 1; 0 for a number, or without an answer.
        probabilities: float32 (K,), in the order of the task's labels; zeros without an answer; (0,) for a number.
        status: `ok`; `degraded` if a sensor fails in part; `unknown` if the window is unlike the training windows;
            `stale` if the answer is about the past; `warming_up` before a stream's first full window; `invalid` if
            nothing supports an answer. The last two never have one.
        input_age_s: age of the window's newest sample at the answer; None if unknown.
        labels: active labels of a multi-label task, in the task's order.
        value: a regression's, in the target's unit and range; None without an answer.
        label_set: labels that remain possible at the error level, the most probable first; empty without a level.
        novelty: p-value among validation windows, above 0 and at most 1; small is new. Also set if the policy
            `abstain` withholds the answer; None if the bundle has none.
        score: distance from normal windows, whose median is about 1, by a student of normal data; else None.
        p_value: fraction of normal windows with such a score or a higher one; None without a score.
        failure: `engine` if it failed, `outputs` if they are no answer, also where a later sensor answers; else empty.
    """

    label: str
    index: int
    probability: float
    probabilities: NDArray[np.float32]
    status: Status = "ok"
    reason: str = ""
    missing_fraction: float = 0.0
    modality: str
    input_age_s: float | None = None
    labels: tuple[str, ...] = ()
    value: float | None = None
    label_set: tuple[str, ...] = ()
    novelty: float | None = None
    score: float | None = None
    p_value: float | None = None
    failure: Failure = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as numbers, texts, lists and None.

        >>> from mmkd_edge.testing import fake_predictor
        >>> acc = ModalitySpec(name="acc", channels=("x",), rate_hz=1.0, samples=2)
        >>> prediction = fake_predictor([0.25, 0.75], modality=acc, labels=("ok", "worn")).predict([[0.0], [1.0]])
        >>> prediction.to_dict()["probabilities"]
        [0.25, 0.75]
        """
        return dict(msgspec.json.decode(self.to_json()))

    def to_json(self) -> bytes:
        """Return `to_dict` as one JSON object in UTF-8.

        In your own documents: `msgspec.json.encode(document, enc_hook=np.ndarray.tolist)`.
        """
        return msgspec.json.encode(self, enc_hook=np.ndarray.tolist)

    @property
    def abstained(self) -> bool:
        """Whether there is no answer, or more than one label in the set."""
        return self.index < 0 or len(self.label_set) > 1


def interpret(
    probabilities: NDArray[np.float32],
    present: NDArray[np.float32] | None,
    *,
    modality: ModalitySpec,
    task: TaskSpec,
    window: NDArray[Any] | None = None,
    fault: WindowFault | None = None,
    input_age_s: float | None = None,
    least_probability: float | None = None,
    novelty: float | None = None,
    level: float | None = None,
) -> Prediction:
    """Turn one answer, float32 (1, K), into a `Prediction` that owns it; BackendError for another number of classes.

    `novelty` is the window's p-value: one of at most `level` is `unknown`, and not called normal.
    `present` is from `prepare`, or None if nothing is missing; `window` (raw, (T, C)) explains missing values.
    """
    row = probabilities[0]
    values: list[float] = row.tolist()
    if len(values) != task.outputs:
        raise BackendError(
            f"modality {modality.name!r}: expected {task.outputs} probabilities, got {len(values)}; "
            "the backend runs another model than the manifest describes"
        )
    missing_fraction = 0.0
    is_unknown = novelty is not None and level is not None and novelty <= level
    if is_unknown:
        reason = f"unlike what training saw: p-value {novelty:.2g}, at most {level:g} is unknown"
        fault = worse(WindowFault(status="unknown", reason=reason), fault)
    if present is not None:
        missing = present.size - int(np.count_nonzero(present))
        missing_fraction = missing / present.size
        fault = worse(_missing_fault(missing, present, modality, window), fault)
    reason = _describe_fault(values, task.kind)
    if reason and (fault is None or fault.status != "invalid"):
        fault = WindowFault(status="invalid", reason=reason, failure="outputs")
    if fault is not None and fault.status == "invalid":
        return no_answer(
            fault, modality=modality, task=task, missing_fraction=missing_fraction, input_age_s=input_age_s
        )
    low, high = task.range or (-math.inf, math.inf)
    probability = 0.0 if task.is_number else max(values)
    index = 0 if task.is_number else values.index(probability)
    is_normal = task.kind == "normal"
    if is_normal and (is_unknown or novelty is None or level is None):
        index = -1
    labels: tuple[str, ...] = ()
    if task.kind == "multi_label":
        labels = tuple(name for name, value in zip(task.labels, values, strict=True) if value >= task.on_from)
    return Prediction(
        label=task.labels[index] if index >= 0 else "",
        index=index,
        probability=probability,
        probabilities=row[:0] if task.is_number else row,
        status="ok" if fault is None else fault.status,
        reason="" if fault is None else fault.reason,
        missing_fraction=missing_fraction,
        modality=modality.name,
        input_age_s=input_age_s,
        labels=labels,
        value=min(max(values[0], low), high) if task.kind == "regression" else None,
        label_set=() if least_probability is None else label_set(values, task.labels, least=least_probability),
        novelty=None if is_normal else novelty,
        score=values[0] if is_normal else None,
        p_value=novelty if is_normal else None,
    )


def _describe_fault(values: list[float], kind: TaskKind) -> str:
    """NaN and infinities fail every comparison."""
    if kind == "classification":
        is_valid = _MIN_SUM <= sum(values) <= _MAX_SUM and min(values) >= 0
        return "" if is_valid else "the model's answer is not a distribution"
    if kind in ("regression", "normal"):
        return "" if math.isfinite(values[0]) else "the model's answer is not a number"
    return "" if all(0 <= value <= 1 for value in values) else "the model's answer has others than probabilities"


def no_answer(
    fault: WindowFault,
    *,
    modality: ModalitySpec,
    task: TaskSpec,
    missing_fraction: float = 0.0,
    input_age_s: float | None = None,
) -> Prediction:
    """Return a prediction without an answer, and why."""
    return Prediction(
        label="",
        index=-1,
        probability=0.0,
        probabilities=np.zeros(0 if task.is_number else len(task.labels), dtype=np.float32),
        status=fault.status,
        reason=fault.reason,
        missing_fraction=missing_fraction,
        modality=modality.name,
        input_age_s=input_age_s,
        failure=fault.failure,
    )


def _missing_fault(
    missing: int, present: NDArray[np.float32], modality: ModalitySpec, window: NDArray[Any] | None
) -> WindowFault | None:
    is_video, count = modality.kind == "video", present.size
    what, least = ("frames", _DEGRADED_FRACTION_OF_FRAMES) if is_video else ("values", _DEGRADED_FRACTION)
    if missing == count:
        reason = f"all {what} are missing"
    elif not is_video and (dead := _missing_channels(missing, present, modality)):
        reason = f"{dead} is missing"
    elif missing >= least * count:
        reason = f"{missing / count:.1%} of the {what} are missing"
    else:
        return None
    causes = "" if is_video or window is None else missing_causes(window, modality)
    return WindowFault(status="invalid" if missing == count else "degraded", reason=f"{reason}{causes}")


def _missing_channels(missing: int, present: NDArray[np.float32], modality: ModalitySpec) -> str:
    if missing < modality.samples:
        return ""
    live: list[bool] = np.any(present, axis=(0, 1)).tolist()  # (C,)
    dead = [name for name, alive in zip(modality.channels, live, strict=True) if not alive]
    for part, channels in zip(modality.parts or (), modality.part_channels, strict=True):
        if dead == list(modality.channels[channels]):
            return f"sensor {part.name!r}"
    return f"channel {', '.join(map(repr, dead))}" if dead else ""


class SensorError(InputError):
    """A prediction is not `ok` under the policy `raise`; `predictions` has all windows of the call."""

    def __init__(self, message: str, *, predictions: Sequence[Prediction] = ()) -> None:
        super().__init__(message)
        self.predictions = tuple(predictions)


def age_fault(input_age_s: float | None, stale_s: float | None) -> WindowFault | None:
    """Return the fault of an input older than `stale_s`, or as far in the future (a clock was set)."""
    if input_age_s is None or stale_s is None or abs(input_age_s) <= stale_s:
        return None
    if input_age_s < 0:
        reason = f"the newest sample is {-input_age_s:.3g} s in the future: the clocks disagree"
        return WindowFault(status="stale", reason=reason)
    return WindowFault(status="stale", reason=f"the newest sample is {input_age_s:.3g} s old")


def is_available(prediction: Prediction) -> bool:
    """Return whether the sensor works; `unknown` is a new window of a working sensor."""
    has_answer = prediction.index >= 0 or prediction.p_value is not None
    return has_answer and prediction.status != "stale"


def first_available(predictions: Iterable[Prediction]) -> Prediction:
    """Return the prediction of the first working sensor, with why earlier ones fail; or why none works.

    A stale prediction ends the search: age and deadline are common to all windows of a call.
    """
    silent: list[Prediction] = []
    for prediction in predictions:
        if is_available(prediction) or prediction.status == "stale":
            return mark_substitute(silent, prediction)
        silent.append(prediction)
    reason, failure = _join_reasons(silent)
    return msgspec.structs.replace(silent[0], reason=reason, failure=failure)


def mark_substitute(silent: Sequence[Prediction], prediction: Prediction) -> Prediction:
    """Mark a prediction as a substitute for silent students."""
    if not silent:
        return prediction
    reasons, failure = _join_reasons(silent)
    reason = f"{prediction.modality!r} answers in place of {reasons}"
    return with_fault(prediction, WindowFault(status="degraded", reason=reason, failure=failure))


def _join_reasons(silent: Sequence[Prediction]) -> tuple[str, Failure]:
    reasons = "; ".join(f"{prediction.modality}: {prediction.reason}" for prediction in silent)
    return reasons, next((prediction.failure for prediction in silent if prediction.failure), "")


class SensorFallback:
    """Chooses among several streams' predictions: the first working sensor answers, best first."""

    def __init__(self, modalities: Sequence[ModalitySpec], task: TaskSpec) -> None:
        nothing = WindowFault(status="invalid", reason="no sample came yet")
        self._last = [no_answer(nothing, modality=modality, task=task) for modality in modalities]
        self._began = [False] * len(modalities)
        self._ended = [False] * len(modalities)

    def end(self, sensor: int) -> None:
        """Note that a sensor has ended."""
        self._ended[sensor] = True

    def choose(self, sensor: int, prediction: Prediction) -> Prediction | None:
        """Return the answer after a sensor's prediction; None if a better sensor works, or this one fails.

        If no sensor works, the first that began and has not ended reports it.
        """
        self._last[sensor], self._began[sensor] = prediction, True
        working = [is_available(last) and not ended for last, ended in zip(self._last, self._ended, strict=True)]
        if any(working[:sensor]):
            return None
        if working[sensor]:
            return mark_substitute([self._last_prediction(better) for better in range(sensor)], prediction)
        expected = [began and not ended for began, ended in zip(self._began, self._ended, strict=True)]
        return None if any(working) or any(expected[:sensor]) else prediction

    def _last_prediction(self, sensor: int) -> Prediction:
        last = self._last[sensor]
        if self._ended[sensor] and is_available(last):  # its reason is empty
            return msgspec.structs.replace(last, reason="its source has ended")
        return last


def with_fault(prediction: Prediction, fault: WindowFault) -> Prediction:
    """Return a prediction with one more fault."""
    if prediction.status != "ok":
        before = WindowFault(status=prediction.status, reason=prediction.reason, failure=prediction.failure)
        fault = worse(fault, before)
    marked = msgspec.structs.replace(prediction, status=fault.status, reason=fault.reason, failure=fault.failure)
    if fault.status != "invalid" or (prediction.index < 0 and prediction.p_value is None):
        return marked
    return msgspec.structs.replace(_withheld(marked), novelty=None, score=None, p_value=None)


def apply_policy(policy: Policy, predictions: list[Prediction]) -> list[Prediction]:
    """Return predictions by policy, or raise SensorError; `warming_up` is never withheld."""
    if policy == "predict":
        return predictions
    refused = [prediction for prediction in predictions if prediction.status not in ("ok", "warming_up")]
    if refused and policy == "raise":
        message = f"modality {refused[0].modality!r}: {refused[0].status}: {refused[0].reason}"
        raise SensorError(message, predictions=predictions)
    return [_withheld(prediction) if prediction in refused else prediction for prediction in predictions]


def _withheld(prediction: Prediction) -> Prediction:
    return msgspec.structs.replace(
        prediction,
        label="",
        index=-1,
        probability=0.0,
        probabilities=np.zeros_like(prediction.probabilities),
        labels=(),
        value=None,
        label_set=(),
    )
