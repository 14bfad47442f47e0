"""`EdgePredictor`: opens a bundle on a device and answers for windows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Literal, NoReturn

import msgspec

from mmkd_edge.backends.base import Answers, Backend, BackendName
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Artifact, ModelEntry, Precision
from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import InputError, MmkdError, UsageError
from mmkd_edge.health.monitor import Health, Monitor
from mmkd_edge.opening.active import ActiveStudents
from mmkd_edge.opening.deadline import LIMIT_S
from mmkd_edge.opening.options import OpenOptions, References, Trust
from mmkd_edge.opening.selftest import SelfTest, run_selftests
from mmkd_edge.opening.students import PredictorInfo, Students, describe_students, open_students
from mmkd_edge.predict.arguments import check_batch, check_mapping, check_moment, check_seconds, pick_window
from mmkd_edge.predict.novelty import magnitude_fault
from mmkd_edge.predict.postprocess import (
    NO_CONDITIONS,
    CallConditions,
    Policy,
    Prediction,
    age_fault,
    apply_policy,
    first_available,
    interpret,
    no_answer,
)
from mmkd_edge.predict.preprocess import check_window, is_absent, prepare
from mmkd_edge.predict.sensors import SensorChecks, WindowFault, check_checks, find_fault, worse
from mmkd_edge.predict.student import make_student, run_student
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_edge.stream.stream import OnWindow, Stepping, Stream, check_hop, select_entry


class EdgePredictor:
    """Answers for windows. Open it with `EdgePredictor.open`; use it in `with`, or call `close()`.

    Threads may share a predictor, processes may not.
    """

    def __init__(self, students: Students, options: OpenOptions | None = None) -> None:
        """Answer by opened students, which `close` closes."""
        if not isinstance(students, Students):
            got = f"got {type(students).__name__}; open a bundle with EdgePredictor.open(PATH)"
            raise UsageError(f"EdgePredictor: expected opened students, {got}")
        options = OpenOptions() if options is None else options
        checks = options.checks
        if checks is not None:
            for student in students.opened:
                check_checks(checks, student.modality)
        self._checks = checks if checks is not None and checks.any else None
        self._stale_s = options.stale_s
        self._monitor = Monitor(every=options.observe_every)
        self._policy = options.policy
        self._active = ActiveStudents(students, options, monitor=self._monitor)

    @classmethod
    def with_backend(
        cls,
        entry: ModelEntry,
        backend: Backend,
        *,
        reference: Reference | None = None,
        artifact: Artifact | None = None,
        reopen: Callable[[], Backend] | None = None,
        options: OpenOptions | None = None,
    ) -> EdgePredictor:
        """Answer by your own backend, without a bundle; also for tests.

        Trusts that the backend fits the entry, closes the backend, and calls `reopen` once after a failure.
        """
        options = OpenOptions() if options is None else options
        student = make_student(
            entry=entry,
            backend=backend,
            artifact=artifact,
            reference=reference,
            reopen=reopen,
            error_level=options.error_level,
            unknown_level=options.unknown_level,
        )
        return cls(Students.begin([student]), options)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        backend: BackendName | Literal["auto"] = "auto",
        precision: Precision | Literal["auto"] = "auto",
        threads: int | None = None,
        reference: References = None,
        policy: Policy = "predict",
        checks: SensorChecks | None = None,
        stale_s: float | None = None,
        error_level: float | None = None,
        unknown_level: float | None = None,
        observe_every: int = 16,
        selftest: bool = True,
        trust: Trust = "sandbox",
        keys: str | os.PathLike[str] | None = None,
    ) -> EdgePredictor:
        """Open a bundle: verify it, choose a config for each student, load it, and run its first self-test.

        Args:
            path: the bundle, or the state folder of `mmkd-edge install`.
            backend: `auto` is what `mmkd-bench tune` measured as fastest here, else the first of TensorRT, native,
                OpenVINO, onnxruntime and LiteRT that opens it; see `info()`.
            precision: `auto` is the profile's, else fp32.
            threads: per prediction; None is the profile's, else one.
            reference: for modalities normalised per group: what `mmkd-data reference` wrote, its path, or several.
            policy: for a prediction that is not `ok`: `predict` answers if possible and reports the status, `abstain`
                keeps the status without an answer, `raise` raises a `SensorError`.
            stale_s: a prediction is stale if its input is older, or as far in the future (the clocks disagree).
            error_level: return label sets that miss the true label at most this often.
            unknown_level: report at most this fraction of windows like the validation's as `unknown`; see
                `Prediction.novelty`. None is the bundle's level for a student of normal data, else never.
            observe_every: `health` measures one window in this many; 0 for none.
            selftest: compare some golden windows when a bundle is first opened on this machine.
            trust: `sandbox` opens a new bundle in a child process first; `installed`, which always holds for a state
                folder, relies on the check at installation.
            keys: a folder of public keys, one of which must have signed the bundle; None uses `MMKD_KEYS` from the
                environment, and requires no signature if that is empty.

        Raises:
            SignatureError: none of the named keys has signed the bundle.
            GateError: a student answers its golden windows differently here.
            UsageError: a file is absent, or an argument does not fit this bundle.
            UnavailableError: the backend's library is not installed.
            BackendError: no backend can open the student; the message says why each was rejected.
            ArtifactError: the bundle is damaged, or was made for a newer version.
        """
        options = OpenOptions(
            backend=backend,
            precision=precision,
            threads=threads,
            reference=reference,
            policy=policy,
            checks=checks,
            stale_s=stale_s,
            error_level=error_level,
            unknown_level=unknown_level,
            observe_every=observe_every,
            selftest=selftest,
            trust=trust,
            keys=keys,
        )
        return cls.open_with(path, options)

    @classmethod
    def open_with(cls, path: str | os.PathLike[str], options: OpenOptions) -> EdgePredictor:
        """Open a bundle as `open` does, with its arguments in one value."""
        students = open_students(path, options)
        try:
            return cls(students, options)
        except BaseException:
            students.close()
            raise

    def predict(
        self, window: object, *, input_age_s: float | None = None, deadline_s: float | None = None
    ) -> Prediction:
        """Answer for one window.

        Args:
            window: an array (T, C), raw, NaN = missing, or a mapping from the modality's name to one. With several
                students a mapping: the first whose sensor works answers; an absent or None modality is skipped.
            input_age_s: age of the window's newest sample; negative if its clock is ahead of yours.
            deadline_s: a moment of `time.monotonic()`: after it no engine is started, and a later answer is `stale`. A
                running engine is not interrupted.

        Raises:
            InputError: the window does not fit, or its modality lacks a required reference.
            SensorError: the prediction is not `ok`, and the policy is `raise`.
            BackendError: the engine failed, opening it again did not help, and the policy is `raise`.
            UsageError: the predictor is closed or another process's; or an age or moment is no number.
        """
        conditions = NO_CONDITIONS
        if input_age_s is not None or deadline_s is not None:
            check_moment("input_age_s", input_age_s)
            check_moment("deadline_s", deadline_s)
            fault = age_fault(input_age_s, self._stale_s)
            conditions = CallConditions(fault=fault, input_age_s=input_age_s, deadline_s=deadline_s)
        if len(self._active.current.opened) == 1:
            prediction = self._answer(0, window, conditions)
        else:
            modalities = [entry.modality for entry in self.entries]
            windows = check_mapping(window, modalities)
            prediction = first_available(
                self._answer(number, pick_window(windows, modality), conditions)
                for number, modality in enumerate(modalities)
            )
        return self._deliver([prediction])[0]

    def _answer(
        self, number: int, window: object, conditions: CallConditions = NO_CONDITIONS, stepped: Answers | None = None
    ) -> Prediction:
        """Answer by the current engine, and again if another replaces it; `stepped` are outputs of a stream's step."""
        while True:
            self._active.check_usable()
            students = self._active.current
            student = students.opened[number]
            modality = student.entry.modality
            if student.refusal:
                raise InputError(student.refusal)
            refuse = partial(no_answer, modality=modality, task=student.entry.task, input_age_s=conditions.input_age_s)
            if is_absent(window, modality):
                absent = WindowFault(status="invalid", reason=f"modality {modality.name!r} is absent")
                return refuse(absent, missing_fraction=1.0)
            array = check_window(window, modality)
            values, present = prepare(array, modality, student.reference)
            gaps = None if present is student.complete else present
            fault = worse(find_fault(array, gaps, modality, self._checks), conditions.fault)
            fault = worse(magnitude_fault(student.magnitude, values, gaps, modality=modality.name), fault)
            if stepped is None and conditions.is_late:
                late = WindowFault(status="stale", reason="the deadline passed before the engine was asked")
                return refuse(worse(late, fault))
            try:
                outputs = stepped or run_student(student, values, present)
            except Exception as error:  # your own backend may raise anything
                if self._active.recover(students, student, error):
                    continue
                failed = WindowFault(status="invalid", reason=f"the engine failed: {error}", failure="engine")
                return refuse(worse(failed, fault))
            if stepped is None:
                self._active.proven = True
                if conditions.is_late:
                    fault = worse(WindowFault(status="stale", reason="the answer came after the deadline"), fault)
            rule = student.novelty if stepped is None else student.step_novelty
            prediction = interpret(
                outputs[1],
                gaps,
                modality=modality,
                task=student.entry.task,
                window=array,
                fault=fault,
                input_age_s=conditions.input_age_s,
                least_probability=student.least_probability,
                novelty=None if rule is None else rule.judge(outputs),
                level=None if rule is None else rule.unknown_level,
            )
            self._monitor.count_answer(students.statistics[number], prediction, values, present)
            return prediction

    def _deliver(self, predictions: list[Prediction]) -> list[Prediction]:
        self._monitor.count_returned(predictions)
        return predictions if self._policy == "predict" else apply_policy(self._policy, predictions)

    def predict_batch(self, windows: Iterable[object] | Mapping[str, object]) -> list[Prediction]:
        """Answer for many windows in turn; errors as of `predict`, with the window's number.

        Args:
            windows: an array (N, T, C), a mapping from the modality's name to one, or any iterable of what `predict`
                takes. All are checked before the first is answered.
        """
        self._active.check_usable()
        modalities = [student.modality for student in self._active.current.opened]
        return [self.predict(array) for array in check_batch(windows, modalities)]

    def stream(
        self,
        *,
        hop: int,
        modality: str | None = None,
        gap_s: float | None = None,
        stale_s: float | None = None,
        on_window: OnWindow | None = None,
        over_time: bool = True,
    ) -> Stream:
        """Begin a stream of samples; several may share the predictor, each in one thread at a time.

        Args:
            hop: samples, at the modality's rate, between predictions.
            modality: selects the student; None for the first. Samples of a recorded modality become derived windows.
            gap_s: a longer time between two samples is a gap, and missing; None for 2.5 sampling periods.
            stale_s: as in `open`; None for the predictor's.
            on_window: called with each full window (T, C), raw, and its prediction, before that is returned.
            over_time: filter `label`, `index` and `probability` over successive answers, if the student's validation
                recordings chose how; the other attributes stay the window's own.

        Raises:
            UsageError: an argument is out of its range, or there is no such student.
        """
        students = self._active.current.opened
        number, entry = select_entry([student.entry for student in students], modality)
        student, expected = students[number], entry.modality
        source, derives = student.modality.recorded.name, expected is not student.modality
        if entry.streaming is not None:
            check_hop(hop, entry.streaming)
        stepping = None
        if student.step is not None and not student.refusal and not derives:
            stepping = Stepping(
                lambda: self._active.current.opened[number], on_failure=lambda: self._monitor.event("backend_failures")
            )
        return Stream(
            modality=expected,
            task=entry.task,
            ask=lambda window, *rest: self._answer(number, {source if derives else expected.name: window}, *rest),
            deliver=self._deliver,
            hop=hop,
            gap_s=gap_s,
            stale_s=self._stale_s if stale_s is None else stale_s,
            stepping=stepping,
            on_window=on_window,
            answering=lambda: expected if derives else self._active.current.opened[number].modality,
            over_time=(lambda: self._active.current.opened[number].entry.over_time) if over_time else None,
        )

    def health(self) -> Health:
        """Return counts of answers and failures since `open`, and how inputs and answers compare with training."""
        current = self._active.current
        health = self._monitor.health(current.statistics)
        return msgspec.structs.replace(health, returned=current.returned)

    def swap(self, path: str | os.PathLike[str], *, limit_s: float = LIMIT_S) -> PredictorInfo:
        """Replace the bundle under load: no call fails or waits.

        The new bundle is verified, opened with the same options, and tested on some golden windows. If that fails, the
        earlier one goes on. It stays open until the next swap, for `rollback` or a failing engine.

        Raises:
            UsageError: the new bundle takes or answers something else, or is of an earlier release; or this predictor
                was made without a bundle.
            BundleError: all of it takes longer than `limit_s`; building engines for a GPU does not count.
            MmkdError: the bundle cannot be opened; see `open`.
        """
        self._active.swap(path, limit_s=check_seconds("limit_s", limit_s) or LIMIT_S)
        return self.info()

    def rollback(self) -> PredictorInfo:
        """Return to the bundle before the last `swap`; UsageError if there is none."""
        self._active.rollback()
        return self.info()

    def reopen(self) -> None:
        """Open the engines again."""
        self._active.reopen()

    def selftest(self) -> SelfTest:
        """Compare this device's answers for all students' golden windows with the checkpoint's.

        Answers as many as a minute allows; the result has the sum of these windows and their worst figures.

        Raises:
            GateError: an answer differs by more than the stored tolerance.
            UsageError: the predictor is closed, or was made without a bundle.
        """
        while True:
            self._active.check_usable()
            students = self._active.current
            if students.bundle is None:
                raise UsageError("self-test: this predictor was made without a bundle and has no golden windows")
            try:
                return run_selftests(students.opened, students.bundle)
            except MmkdError:
                if self._active.current is students:
                    raise  # else a swap or reopening closed these students: test the current ones

    def info(self) -> PredictorInfo:
        """Return what answers, and with which config, for the first student."""
        return describe_students(self._active.current)

    @property
    def backend(self) -> Backend:
        """The first student's backend; its `name` says which was chosen."""
        return self._active.current.opened[0].backend

    @property
    def modality(self) -> ModalitySpec:
        """The modality of the first student."""
        return self.entry.modality

    @property
    def task(self) -> TaskSpec:
        """The task that is predicted."""
        return self.entry.task

    @property
    def entry(self) -> ModelEntry:
        """The first student's manifest entry."""
        return self._active.current.opened[0].entry

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """The students' manifest entries, in order."""
        return tuple(student.entry for student in self._active.current.opened)

    @property
    def reference(self) -> Reference | None:
        """The statistics that normalise the first student's raw values."""
        return self._active.current.opened[0].reference

    @property
    def bundle(self) -> Bundle | None:
        """The open bundle."""
        return self._active.current.bundle

    def close(self) -> None:
        """Close engines and bundles; repeated calls are allowed."""
        self._active.close()

    def __enter__(self) -> EdgePredictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise UsageError("a predictor cannot be sent to another process; send the bundle's path and open it there")

    def __repr__(self) -> str:
        state = "closed" if self._active.closed else "open"
        return f"EdgePredictor({self.entry.name!r}, backend={self.backend.name!r}, {state})"
