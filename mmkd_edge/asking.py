"""One student's answer for one window: what `EdgePredictor` does for windows, for streams and for steps alike.

Goes through the same four calls every time: `check_window`, `prepare`, `backend.run`, `interpret`. Owns what a failure
of one of them becomes: the answer of an engine that was opened again or of an earlier bundle, or one that says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import Answers
from mmkd_edge.backends.handlers import being_handled, let_handlers_through
from mmkd_edge.errors import InputError
from mmkd_edge.predict.conditions import NO_CONDITIONS, Conditions
from mmkd_edge.predict.engine import Engine, Students, answer_of
from mmkd_edge.predict.novelty import judged_novelty, magnitude_fault
from mmkd_edge.predict.postprocess import Prediction, interpret, no_answer
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_edge.predict.sensors import SensorChecks, WindowFault, find_fault, worse
from mmkd_edge.watch.health import Monitor
from mmkd_edge.watch.swap import InService


class Asking:
    """Asks the students that are in service. May be shared by threads.

    Args:
        service: who answers now.
        monitor: is told of every answer.
        checks: what is looked for in every window beyond missing values; None looks for nothing else.
    """

    def __init__(self, service: InService, monitor: Monitor, checks: SensorChecks | None) -> None:
        self._service = service
        self._monitor = monitor
        self._checks = checks

    def answer(
        self,
        number: int,
        window: object,
        conditions: Conditions = NO_CONDITIONS,
        stepped: Answers | None = None,
    ) -> Prediction:
        """One student's prediction, whatever the policy.

        Args:
            number: of the student.
            window: as `predict` takes it.
            conditions: what it is asked under.
            stepped: outputs that the steps of a stream gave; the engine is not asked then.
        """
        service = self._service
        if not service.usable:
            service.check_usable()
        students = service.students
        engine = students.engines[number]
        entry = engine.entry
        modality = entry.modality
        if engine.refusal:
            raise InputError(engine.refusal)
        if type(window) is dict and window.get(modality.name, window) is None:
            missing = WindowFault(status="invalid", reason=f"modality {modality.name!r} is absent")
            return _without_answer(engine, conditions, missing, missing_share=1.0)
        array = check_window(window, modality)
        values, present = prepare(array, modality, engine.reference)
        gaps = None if present is engine.complete else present
        fault = conditions.fault
        if self._checks is not None:
            fault = worse(find_fault(array, gaps, modality, self._checks), fault)
        if engine.magnitude is not None:
            fault = worse(magnitude_fault(engine.magnitude, values, present, modality=modality.name), fault)
        answers = stepped
        if answers is None:
            if conditions.deadline_s is not None and conditions.is_late:
                late = WindowFault(status="stale", reason="the deadline passed before the engine was asked")
                return _without_answer(engine, conditions, worse(late, fault))
            outputs = self._outputs(students, engine, values, present)
            if outputs is None:
                return self.answer(number, array, conditions)
            if isinstance(outputs, WindowFault):
                return _without_answer(engine, conditions, worse(outputs, fault))
            answers = outputs
            if conditions.deadline_s is not None and conditions.is_late:
                fault = worse(WindowFault(status="stale", reason="the answer came after the deadline"), fault)
        novelty, rule = None, engine.novelty if stepped is None else engine.step_novelty
        if rule is not None:
            novelty, fault = judged_novelty(rule, answers[2:], fault)
        prediction = interpret(
            answers[1],
            gaps,
            modality=modality,
            task=entry.task,
            window=array,
            fault=fault,
            input_age_s=conditions.input_age_s,
            least_probability=engine.least_probability,
            novelty=novelty,
        )
        self._monitor.answered(engine.statistics, prediction, values, present)
        return prediction

    def _outputs(
        self, students: Students, engine: Engine, values: NDArray[Any], present: NDArray[np.float32]
    ) -> Answers | WindowFault | None:
        """What the engine gives; None where it failed and another is in its place, a fault where none is."""
        handled = being_handled()
        try:
            answers = answer_of(engine, values, present)
        except Exception as error:  # an engine of its own may raise anything, and the caller's loop must go on
            let_handlers_through(error, handled=handled)
            if self._service.recover(students, engine, error):
                return None
            return WindowFault(status="invalid", reason=f"the engine failed: {error}")
        self._service.proven = True
        return answers


def _without_answer(
    engine: Engine, conditions: Conditions, fault: WindowFault | None, *, missing_share: float = 0.0
) -> Prediction:
    assert fault is not None
    return no_answer(
        fault,
        modality=engine.modality,
        task=engine.task,
        missing_share=missing_share,
        input_age_s=conditions.input_age_s,
    )
