"""Predictions that are more than what a student said of a window: asked under terms, withheld, or given by a stand-in.

Owns how faults, ages and deadlines become a prediction. Runs no engine and keeps no state.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.predict.confidence import label_set
from mmkd_edge.predict.engine import Engine
from mmkd_edge.predict.postprocess import Prediction, interpret, no_answer
from mmkd_edge.predict.sensors import Fault, worse

NOT_ASKED = "the deadline passed before the engine was asked"


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a prediction is asked under, where it is more than the window.

    Attributes:
        fault: what is known against the window.
        input_age_s: age of its newest sample.
        deadline_s: a moment of `time.monotonic()`.
    """

    fault: Fault | None = None
    input_age_s: float | None = None
    deadline_s: float | None = None


NO_TERMS = Terms()


def with_fault(terms: Terms | None, fault: Fault | None) -> Terms | None:
    """The terms with what else is known against the window; None where there is nothing to say."""
    if fault is None:
        return terms
    known = terms or NO_TERMS
    return msgspec.structs.replace(known, fault=worse(fault, known.fault))


def aged(terms: Terms, stale_s: float | None) -> Terms:
    """The terms with what the age of the input says against the window; from `stale_s` on it is stale."""
    age_s = terms.input_age_s
    if age_s is None or stale_s is None or age_s <= stale_s:
        return terms
    fault = Fault(status="stale", reason=f"the newest sample is {age_s:.3g} s old")
    return msgspec.structs.replace(terms, fault=worse(terms.fault, fault))


def interpret_with(
    terms: Terms,
    engine: Engine,
    probabilities: NDArray[np.float32],
    *,
    present: NDArray[np.float32],
    window: NDArray[np.float32],
) -> Prediction:
    """The prediction for an answer under terms, with its label set where an error level was asked for.

    Args:
        terms: what it was asked under.
        engine: what answered.
        probabilities: float32 (1, K).
        present: float32 (1, T, C), what `prepare` gave.
        window: (T, C) raw values.
    """
    fault = terms.fault
    if terms.deadline_s is not None and time.monotonic() > terms.deadline_s:
        fault = worse(Fault(status="stale", reason="the answer came after the deadline"), fault)
    prediction = interpret(
        probabilities,
        present,
        modality=engine.modality,
        task=engine.task,
        window=window,
        fault=fault,
        input_age_s=terms.input_age_s,
    )
    if engine.least is None or prediction.index < 0:
        return prediction
    remaining = label_set(probabilities[0].tolist(), engine.task.labels, least=engine.least)
    return msgspec.structs.replace(prediction, label_set=remaining)


def absent(engine: Engine, terms: Terms | None) -> Prediction:
    """The prediction where a modality was not given."""
    fault = Fault(status="invalid", reason=f"modality {engine.modality.name!r} is absent")
    age_s = None if terms is None else terms.input_age_s
    return no_answer(fault, modality=engine.modality, task=engine.task, missing_share=1.0, input_age_s=age_s)


def failed(error: Exception) -> Fault:
    """What an engine that failed leaves."""
    return Fault(status="invalid", reason=f"the engine failed: {error}")


def unanswered(engine: Engine, terms: Terms | None, fault: Fault) -> Prediction:
    """The prediction where no engine answered, and why."""
    known = terms or NO_TERMS
    fault = worse(fault, known.fault) or fault
    return no_answer(fault, modality=engine.modality, task=engine.task, input_age_s=known.input_age_s)


def first_living(asked: Iterable[Prediction]) -> Prediction:
    """Asks one student after the other until one's modality lives; says for whom it stands in, or why none does."""
    silent: list[Prediction] = []
    for prediction in asked:
        if prediction.index >= 0 or prediction.status == "stale":
            return _standing_in(silent, prediction)
        silent.append(prediction)
    return msgspec.structs.replace(silent[0], reason="; ".join(map(_why, silent)))


def _standing_in(silent: Sequence[Prediction], prediction: Prediction) -> Prediction:
    if not silent:
        return prediction
    reason = f"{prediction.modality!r} answers in place of {'; '.join(map(_why, silent))}"
    fault = Fault(status="degraded", reason=reason)
    if prediction.status != "ok":
        fault = worse(fault, Fault(status=prediction.status, reason=prediction.reason)) or fault
    return msgspec.structs.replace(prediction, status=fault.status, reason=fault.reason)


def _why(prediction: Prediction) -> str:
    return f"{prediction.modality}: {prediction.reason}"


def withheld(prediction: Prediction) -> Prediction:
    """The same finding without an answer."""
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
