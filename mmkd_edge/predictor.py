"""`EdgePredictor`: opens a bundle on a device and answers for windows.

Holds the students of one bundle and runs the four steps `check_window`, `prepare`, `backend.run`, `interpret`. Owns
what a failure of one of them becomes for the caller: another student's answer, or one that says so. It measures
nothing, prints nothing and opens no network connection. Which bundle answers is the business of `control`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import Backend, BackendName, RunPrecision, check_backend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Artifact, ModelEntry
from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import InputError, UsageError
from mmkd_edge.predict.confidence import check_error_level, threshold_of
from mmkd_edge.predict.engine import Line, SelfTest, engine_of, run_line_selftest
from mmkd_edge.predict.info import PredictorInfo, info_of
from mmkd_edge.predict.opening import Choice, open_line
from mmkd_edge.predict.options import (
    AnyReference,
    check_batch,
    check_every,
    check_mapping,
    check_precision,
    check_stale,
    check_threads,
    several,
)
from mmkd_edge.predict.postprocess import SUM_TOLERANCE, Prediction, interpret
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_edge.predict.sensors import Fault, Policy, SensorChecks, check_checks, check_policy, find_fault
from mmkd_edge.predict.setup import Asked
from mmkd_edge.predict.verdict import (
    NO_TERMS,
    NOT_ASKED,
    Terms,
    absent,
    aged,
    failed,
    first_living,
    interpret_with,
    unanswered,
    with_fault,
)
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_edge.stream.causal import Stepping, check_hop
from mmkd_edge.stream.stream import Stream
from mmkd_edge.watch.health import Health, Monitor
from mmkd_edge.watch.policy import Delivery
from mmkd_edge.watch.swap import Control

_FLOAT32 = np.dtype(np.float32)
# The compiled part: what stands before it is for arrays of other libraries, and costs a microsecond between two runs of
# an engine. Where a release hides it the public function is as good. Its answer is made a float before it is compared,
# because NumPy's own comparison takes another microsecond.
_sum_of_squares: Callable[[Any, Any], Any] = getattr(np.vdot, "_implementation", np.vdot)


class EdgePredictor:
    """Answers for windows. Open it with `EdgePredictor.open`; use it in `with`, or call `close()`.

    One predictor may be shared by threads, not by processes. The constructor is for tests and for backends of your own;
    it trusts that the backend fits the entry.

    Args:
        entry: what the student takes and answers.
        backend: what executes it; the predictor closes it.
        reference: statistics for a modality that is normalised per group.
        bundle: where the entry comes from; the predictor closes it.
        artifact: what the backend executes.
        reopen: opens the backend once more after it failed.
        policy: what a prediction that is not `ok` becomes; see `open`.
        checks: what is looked for in every window beyond missing values.
        stale_s: from this age of its input on a prediction is stale.
        error_level: of label sets; the artifact must have been calibrated.
        observe_every: each how manieth window the statistics of `health` look at; 0 looks at none.
    """

    def __init__(
        self,
        *,
        entry: ModelEntry,
        backend: Backend,
        reference: Reference | None = None,
        bundle: Bundle | None = None,
        artifact: Artifact | None = None,
        reopen: Callable[[], Backend] | None = None,
        policy: Policy = "predict",
        checks: SensorChecks | None = None,
        stale_s: float | None = None,
        error_level: float | None = None,
        observe_every: int = 16,
    ) -> None:
        engine = engine_of(
            entry=entry,
            backend=backend,
            reference=reference,
            artifact=artifact,
            reopen=reopen,
            statistics=entry.statistics,
            least=threshold_of(entry, artifact, check_error_level(error_level)),
        )
        self._begin(Line(engines=(engine,), bundle=bundle), None, policy, checks, stale_s, observe_every)

    def _begin(
        self,
        line: Line,
        choice: Choice | None,
        policy: Policy,
        checks: SensorChecks | None,
        stale_s: float | None,
        observe_every: int,
    ) -> None:
        if checks is not None:
            for engine in line.engines:
                check_checks(checks, engine.modality)
        self._stale_s = check_stale(stale_s)
        self._checks = checks if checks is not None and checks.any else None
        self._monitor = Monitor(every=check_every(observe_every))
        self._delivery = Delivery(check_policy(policy), self._monitor)
        self._notes, self._notes_most = self._monitor.notes, self._monitor.most
        self._control = Control(line, choice=choice, monitor=self._monitor, raises=policy == "raise")

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        backend: BackendName | Literal["auto"] = "auto",
        contest: bool = True,
        precision: RunPrecision | Literal["auto"] = "auto",
        threads: int | None = None,
        reference: AnyReference | Sequence[AnyReference] | None = None,
        policy: Policy = "predict",
        checks: SensorChecks | None = None,
        stale_s: float | None = None,
        error_level: float | None = None,
        observe_every: int = 16,
    ) -> EdgePredictor:
        """Verify a bundle, open its students, and run them until they are warm.

        Args:
            path: the bundle.
            backend: what executes the students; `auto` is what `mmkd-bench tune` or a contest found fastest here, else
                TensorRT, OpenVINO, onnxruntime or LiteRT, the first that opens it. See `info()` for which, and why.
            contest: whether, for `auto`, the first opening of a bundle may take 0.3 s more to find the fastest backend.
            precision: of the arithmetic; `auto` is the profile's choice, else fp32.
            threads: of one prediction; None is the profile's choice, else one, the fastest for small students.
            reference: for modalities normalised per group: what `mmkd-data reference` wrote, its path, or several.
            policy: what a prediction that is not `ok` becomes: `predict` answers where it can and says so in the
                status, `abstain` keeps the status and names no class, `raise` raises a `SensorError`.
            checks: what is looked for in every window beyond missing values; None looks for nothing else.
            stale_s: from this age of its input on a prediction is stale; None never says so.
            error_level: share of windows whose true label may be missing from `label_set`; None names no label sets.
            observe_every: each how manieth window the statistics of `health` look at; 0 looks at none.

        Raises:
            UsageError: a file is absent, or an argument does not fit this bundle.
            UnavailableError: the backend's library is not installed.
            BackendError: the backend cannot open or run the student.
            ArtifactError: the bundle is damaged, or was made for a newer version.
        """
        known, limit = check_backend(backend), check_threads(threads)
        asked = Asked(threads=limit, backend=known, precision=check_precision(precision), contest=contest)
        choice = Choice(asked=asked, references=several(reference), error_level=check_error_level(error_level))
        line = open_line(path, choice)
        predictor = cls.__new__(cls)
        try:
            predictor._begin(line, choice, policy, checks, stale_s, observe_every)
        except BaseException:
            line.close()
            raise
        return predictor

    def predict(
        self, window: object, *, input_age_s: float | None = None, deadline_s: float | None = None
    ) -> Prediction:
        """Answer for one window.

        Args:
            window: a mapping from the modality's name to an array (T, C), or the bare array; raw values, NaN = missing.
                Of a bundle with several students a mapping; the first student whose modality lives answers, and a
                modality that is None or not in the mapping is absent.
            input_age_s: how old the newest sample of the window is.
            deadline_s: a moment of `time.monotonic()`: when it has passed the engine is not asked any more, and an
                answer that comes later is `stale`. An engine that runs is not interrupted.

        Raises:
            InputError: the window does not fit, or the modality needs a reference and none was given.
            SensorError: the prediction is not `ok`, and the policy is `raise`.
            BackendError: the engine failed, opening it again did not help, and the policy is `raise`.
            UsageError: the predictor is closed, or belongs to another process.
        """
        control = self._control
        line = control.line
        engine = line.engines[0]
        terms = None
        if input_age_s is not None or deadline_s is not None:
            terms = Terms(input_age_s=input_age_s, deadline_s=deadline_s)
        elif (
            type(window) is np.ndarray
            and window.dtype is _FLOAT32
            and window.shape == engine.shape
            and self._checks is None
            and len(line.engines) == 1
            and control.usable
            and float(_sum_of_squares(window, window)) < engine.plain_below
        ):
            # What `_ask` and `interpret` do for nearly every window. Between two runs of an engine the caches are cold,
            # and each function that is not entered saves a microsecond or two.
            values, present = window[None], engine.present
            try:
                _, probabilities = engine.backend.run({engine.values_name: values, engine.present_name: present})
            except Exception as error:
                if control.recover(line, engine, error):
                    return self._delivery.deliver(self._ask(0, window))
                return self._delivery.deliver(unanswered(engine, None, failed(error)))
            control.proven = True
            row, labels = probabilities[0], engine.task.labels
            shares: list[float] = row.tolist()
            if len(shares) == len(labels) and abs(sum(shares) - 1) <= SUM_TOLERANCE and min(shares) >= 0:
                top = max(shares)
                index, name = shares.index(top), engine.modality.name
                prediction = Prediction(
                    label=labels[index], index=index, probability=top, probabilities=row, modality=name
                )
            else:
                prediction = interpret(probabilities, None, modality=engine.modality, task=engine.task)
            self._notes.append((engine.tally, prediction))
            if len(self._notes) >= self._notes_most:
                self._monitor.settle(engine.tally, values, present)
            return prediction if prediction.status == "ok" else self._delivery.deliver(prediction)
        if len(line.engines) > 1:
            return self._delivery.deliver(self._answer_in_order(window, terms))
        return self._delivery.deliver(self._ask(0, window, terms))

    def predict_batch(self, windows: Iterable[object] | Mapping[str, object]) -> list[Prediction]:
        """Answer for many windows, one after the other: the graph takes one at a time.

        Args:
            windows: an array (N, T, C), a mapping from the modality's name to one, or any iterable of what `predict`
                takes. All are checked before the first is answered.

        Raises:
            InputError: a window does not fit; the message has its number.
            SensorError: a prediction is not `ok`, and the policy is `raise`.
            UsageError: the predictor is closed, or belongs to another process.
        """
        self._control.check_usable()
        modalities = [engine.modality for engine in self._control.line.engines]
        return [self.predict(array) for array in check_batch(windows, modalities)]

    def stream(
        self,
        *,
        hop: int,
        modality: str | None = None,
        gap_s: float | None = None,
        reorder: int = 0,
        stale_s: float | None = None,
    ) -> Stream:
        """A stream of samples that this predictor answers for; several may share it, each in one thread at a time.

        Args:
            hop: samples at the modality's rate from one prediction to the next.
            modality: which of the bundle's students; None is the first.
            gap_s: a longer space between two samples is a gap, and missing; None is two and a half sampling periods.
            reorder: how many samples are held back so that later ones can be put in order.
            stale_s: from this age of its input on a prediction is stale; None is the predictor's.

        Raises:
            UsageError: an argument is out of its range, or there is no such student.
        """
        engines = self._control.line.engines
        number = 0
        if modality is not None:
            names = [engine.modality.name for engine in engines]
            if modality not in names:
                raise UsageError(f"modality {modality!r} is unknown; expected one of {', '.join(map(repr, names))}")
            number = names.index(modality)
        entry = engines[number].entry

        def ask(window: NDArray[np.float32], fault: Fault | None, input_age_s: float | None) -> Prediction:
            terms = None if fault is None and input_age_s is None else Terms(fault=fault, input_age_s=input_age_s)
            return self._ask(number, window, terms)

        return Stream(
            modality=entry.modality,
            task=entry.task,
            ask=ask,
            deliver=self._delivery.deliver_all,
            hop=hop,
            gap_s=gap_s,
            reorder=reorder,
            stale_s=self._stale_s if stale_s is None else stale_s,
            stepping=self._stepping(number, hop),
        )

    def health(self) -> Health:
        """What was answered and what failed since `open`, and how inputs and answers compare with the training."""
        return self._monitor.health([engine.tally for engine in self._control.line.engines])

    def swap(self, path: str | os.PathLike[str]) -> PredictorInfo:
        """Let another bundle take over, under load: no call fails or waits for it.

        The bundle is verified, opened as this predictor was, warmed up and held against a part of its golden windows;
        then it answers. Whatever fails before leaves the earlier one in its place. The earlier one stays open until the
        next swap: `rollback` returns to it, and an engine that fails after the swap does so by itself.

        Raises:
            UsageError: this predictor was made without a bundle, or the new one takes or answers something else.
            GateError: the new bundle answers its golden windows differently here.
            MmkdError: the bundle cannot be opened; see `open`.
        """
        self._control.swap(path)
        return self.info()

    def rollback(self) -> PredictorInfo:
        """Return to the bundle that answered before the last `swap`.

        Raises:
            UsageError: there was no swap, or it was taken back already.
        """
        self._control.rollback()
        return self.info()

    def reopen(self) -> None:
        """Open the engines once more, for instance after a device came back.

        Raises:
            UsageError: this predictor was made without a bundle.
            BackendError: an engine cannot be opened.
        """
        self._control.reopen()

    def selftest(self) -> SelfTest:
        """Answer the bundle's golden windows on this device and compare with what the checkpoint answered.

        Of several students all are tested; the result adds their windows and has the worst of their figures.

        Raises:
            GateError: an answer differs by more than the stored tolerance.
            BackendError: the backend failed.
            UsageError: the predictor is closed, or was made without a bundle.
        """
        self._control.check_usable()
        line = self._control.line
        if line.bundle is None:
            raise UsageError("self-test: this predictor was made without a bundle and has no golden windows")
        return run_line_selftest(line, line.bundle)

    def info(self) -> PredictorInfo:
        """What answers, and with what; of several students the first."""
        return info_of(self._control.line)

    @property
    def backend(self) -> Backend:
        """What executes the first student; its `name` says which was chosen."""
        return self._control.line.engines[0].backend

    @property
    def modality(self) -> ModalitySpec:
        """What one window of the first student is."""
        return self._control.line.engines[0].entry.modality

    @property
    def task(self) -> TaskSpec:
        """What is predicted."""
        return self._control.line.engines[0].entry.task

    @property
    def entry(self) -> ModelEntry:
        """Everything the manifest says of the first student."""
        return self._control.line.engines[0].entry

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """Everything the manifest says of the students, in the order in which they are asked."""
        return tuple(engine.entry for engine in self._control.line.engines)

    @property
    def reference(self) -> Reference | None:
        """The statistics that raw values of the first student are normalised with."""
        return self._control.line.engines[0].reference

    @property
    def bundle(self) -> Bundle | None:
        """The open bundle."""
        return self._control.line.bundle

    def close(self) -> None:
        """Give engines and bundles back; more than once is fine."""
        self._control.close()

    def __enter__(self) -> EdgePredictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise UsageError("a predictor cannot be sent to another process; send the bundle's path and open it there")

    def __repr__(self) -> str:
        state = "closed" if self._control.closed else "open"
        return f"EdgePredictor({self.entry.name!r}, backend={self.backend.name!r}, {state})"

    # ---- one prediction

    def _answer_in_order(self, window: object, terms: Terms | None) -> Prediction:
        """The first student whose modality lives answers."""
        windows = check_mapping(window, [entry.modality for entry in self.entries])
        names = [entry.modality.name for entry in self.entries]
        return first_living(self._ask(number, {name: windows.get(name)}, terms) for number, name in enumerate(names))

    def _ask(self, number: int, window: object, terms: Terms | None = None) -> Prediction:
        """One student's prediction, whatever the policy."""
        control = self._control
        if not control.usable:
            control.refuse()
        line = control.line
        engine = line.engines[number]
        modality = engine.modality
        if engine.refusal:
            raise InputError(engine.refusal)
        # Written out as in `predict`: what the two steps give for nearly every window.
        if type(window) is np.ndarray and window.dtype is _FLOAT32 and window.shape == engine.shape:
            array = window
        elif type(window) is dict and window.get(modality.name, window) is None:
            return absent(engine, terms)
        else:
            array = check_window(window, modality)
        if engine.sure_below and float(_sum_of_squares(array, array)) < engine.sure_below:
            values, present = array[None], engine.present
        else:
            values, present = prepare(array, modality, engine.reference)
        known = terms
        if self._checks is not None:
            known = with_fault(known, find_fault(array, present, modality, self._checks))
        if known is not None:
            known = aged(known, self._stale_s)
            if known.deadline_s is not None and time.monotonic() >= known.deadline_s:
                return unanswered(engine, known, Fault(status="stale", reason=NOT_ASKED))
        try:
            _, probabilities = engine.backend.run({engine.values_name: values, engine.present_name: present})
        except Exception as error:  # an engine of its own may raise anything, and the caller's loop must go on
            if control.recover(line, engine, error):
                return self._ask(number, array, terms)
            return unanswered(engine, known, failed(error))
        control.proven = True
        if known is None and present is engine.present and engine.least is None:
            prediction = interpret(probabilities, None, modality=modality, task=engine.task)
        else:
            prediction = interpret_with(known or NO_TERMS, engine, probabilities, present=present, window=array)
        self._notes.append((engine.tally, prediction))
        if len(self._notes) >= self._notes_most:
            self._monitor.settle(engine.tally, values, present)
        return prediction

    def _stepping(self, number: int, hop: object) -> Stepping | None:
        """The steps of a stream; None where the student is not causal, its backend runs no steps, or it refuses."""
        control = self._control
        engine = control.line.engines[number]
        if engine.entry.streaming is not None:
            check_hop(hop, engine.entry.streaming)
        if engine.step is None or engine.refusal:
            return None

        def answered(window: NDArray[np.float32], probabilities: NDArray[np.float32], terms: Terms) -> Prediction:
            if not control.usable:
                control.refuse()
            engine = control.line.engines[number]
            values, present = prepare(window, engine.modality, engine.reference)
            if self._checks is not None:
                terms = with_fault(terms, find_fault(window, present, engine.modality, self._checks)) or terms
            known = aged(terms, self._stale_s)
            prediction = interpret_with(known, engine, probabilities, present=present, window=window)
            self._notes.append((engine.tally, prediction))
            if len(self._notes) >= self._notes_most:
                self._monitor.settle(engine.tally, values, present)
            return prediction

        return Stepping(
            lambda: control.line.engines[number],
            answered=answered,
            failed=lambda: self._monitor.event("backend_failures"),
        )
