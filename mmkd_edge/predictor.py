"""`EdgePredictor`: opens a bundle on a device and answers for windows.

The door that joins the rooms `predict`, `stream` and `watch`. Every answer, of a window or of a stream, comes from
`Asking.answer`. Owns what the caller gets of it: another student's answer where one gives none, and what the policy
makes of it. It measures nothing, prints nothing and opens no network connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Literal, NoReturn

import msgspec

from mmkd_edge.asking import Asking
from mmkd_edge.backends.base import Backend, BackendName, RunPrecision, check_backend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Artifact, ModelEntry
from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import MmkdError, UsageError
from mmkd_edge.opening.students import open_students
from mmkd_edge.predict.arguments import (
    AnyReference,
    check_batch,
    check_every,
    check_mapping,
    check_moment,
    check_precision,
    check_stale,
    check_threads,
    check_trust,
    several,
)
from mmkd_edge.predict.conditions import NO_CONDITIONS, Conditions, age_fault, first_living
from mmkd_edge.predict.confidence import check_level, threshold_of
from mmkd_edge.predict.engine import Students, engine_of
from mmkd_edge.predict.info import PredictorInfo, info_of
from mmkd_edge.predict.novelty import novelty_rule
from mmkd_edge.predict.policy import Policy, apply_policy, check_policy
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.predict.selftest import SelfTest, run_selftests
from mmkd_edge.predict.sensors import SensorChecks, check_checks
from mmkd_edge.predict.setup import OpeningRequest, Trust
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_edge.stream.causal import Stepping, check_hop
from mmkd_edge.stream.stream import OnWindow, Stream
from mmkd_edge.watch.health import Health, Monitor
from mmkd_edge.watch.swap import InService


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
        unknown_level: from this p-value down an answer is `unknown`; the artifact must have been calibrated.
        observe_every: the statistics of `health` look at one window in this many; 0 looks at none.
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
        unknown_level: float | None = None,
        observe_every: int = 16,
    ) -> None:
        engine = engine_of(
            entry=entry,
            backend=backend,
            reference=reference,
            artifact=artifact,
            reopen=reopen,
            least_probability=threshold_of(entry, artifact, check_level(error_level, name="error_level")),
            novelty=novelty_rule(entry, artifact, check_level(unknown_level, name="unknown_level")),
        )
        self._begin(Students(engines=(engine,), bundle=bundle), None, policy, checks, stale_s, observe_every)

    def _begin(
        self,
        students: Students,
        asked: OpeningRequest | None,
        policy: Policy,
        checks: SensorChecks | None,
        stale_s: float | None,
        observe_every: int,
    ) -> None:
        if checks is not None:
            for engine in students.engines:
                check_checks(checks, engine.modality)
        self._stale_s = check_stale(stale_s)
        self._monitor = Monitor(every=check_every(observe_every))
        self._policy = check_policy(policy)
        self._service = InService(students, asked=asked, monitor=self._monitor, raises=policy == "raise")
        self._asking = Asking(self._service, self._monitor, checks if checks is not None and checks.any else None)

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
        unknown_level: float | None = None,
        observe_every: int = 16,
        selftest: bool = True,
        trust: Trust = "trial",
        keys: str | os.PathLike[str] | None = None,
    ) -> EdgePredictor:
        """Verify a bundle, open its students, and run them until they are warm.

        Args:
            path: the bundle, or the state folder of `mmkd-edge install`.
            backend: what executes the students; `auto` is what `mmkd-bench tune` or a contest found fastest here, else
                TensorRT, OpenVINO, onnxruntime or LiteRT, the first that opens it. See `info()` for which, and why.
            contest: whether, for `auto`, the first opening of a bundle may take 0.3 s more to find the fastest backend.
            precision: of the arithmetic; `auto` is the profile's choice, else fp32.
            threads: of one prediction; None is the profile's choice, else one, the fastest for small students.
            reference: for modalities normalised per group: what `mmkd-data reference` wrote, its path, or several.
            policy: what a prediction that is not `ok` becomes: `predict` answers where it can and says so in the
                status, `abstain` keeps the status and names no class, `raise` raises a `SensorError`.
            checks: what is looked for in every window beyond missing values; None looks for nothing else.
            stale_s: from this age of its input on a prediction is stale, and so it is where the input is as far in the
                future: the clocks disagree. None never says so.
            error_level: share of windows whose true label may be missing from `label_set`; None names no label sets.
            unknown_level: share of windows like those of the validation that may be called `unknown`, so that others
                are; None calls none so. Of bundles whose students know what training saw: see `Prediction.novelty`.
            observe_every: the statistics of `health` look at one window in this many; 0 looks at none.
            selftest: whether the first opening of a bundle on this machine asks each student a few golden windows, for
                about 20 ms; later openings remember that they were answered as by the checkpoint.
            trust: `trial` reads the graphs of a bundle that is new on this machine and opens it in a process of its own
                first; `installed`, which a state folder is always opened with, opens none but what was tried when it
                was installed.
            keys: a folder of public keys, one of which must have signed the bundle; None takes `MMKD_KEYS` from the
                environment, and asks for no signature where that is empty.

        Raises:
            SignatureError: keys are named, and none of them has signed the bundle.
            GateError: a student answers its golden windows differently here.
            UsageError: a file is absent, or an argument does not fit this bundle.
            UnavailableError: the backend's library is not installed.
            BackendError: the backend cannot open or run the student.
            ArtifactError: the bundle is damaged, or was made for a newer version.
        """
        known, limit = check_backend(backend), check_threads(threads)
        asked = OpeningRequest(
            backend=known,
            precision=check_precision(precision),
            threads=limit,
            contest=contest,
            references=several(reference),
            error_level=check_level(error_level, name="error_level"),
            unknown_level=check_level(unknown_level, name="unknown_level"),
            selftest=selftest,
            trust=check_trust(trust),
            keys=keys,
        )
        students = open_students(path, asked)
        predictor = cls.__new__(cls)
        try:
            predictor._begin(students, asked, policy, checks, stale_s, observe_every)
        except BaseException:
            students.close()
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
            input_age_s: how old the newest sample of the window is; below 0 its clock is ahead of yours.
            deadline_s: a moment of `time.monotonic()`: when it has passed the engine is not asked any more, and an
                answer that comes later is `stale`. An engine that runs is not interrupted.

        Raises:
            InputError: the window does not fit, or the modality needs a reference and none was given.
            SensorError: the prediction is not `ok`, and the policy is `raise`.
            BackendError: the engine failed, opening it again did not help, and the policy is `raise`.
            UsageError: the predictor is closed, or belongs to another process; or an age or a moment is no number.
        """
        conditions = NO_CONDITIONS
        if input_age_s is not None or deadline_s is not None:
            check_moment("input_age_s", input_age_s)
            check_moment("deadline_s", deadline_s)
            fault = age_fault(input_age_s, self._stale_s)
            conditions = Conditions(fault=fault, input_age_s=input_age_s, deadline_s=deadline_s)
        answer = self._asking.answer
        if len(self._service.students.engines) == 1:
            prediction = answer(0, window, conditions)
        else:
            names = [entry.modality.name for entry in self.entries]
            windows = check_mapping(window, [entry.modality for entry in self.entries])
            prediction = first_living(answer(n, {name: windows.get(name)}, conditions) for n, name in enumerate(names))
        self._monitor.given((prediction,))
        return prediction if self._policy == "predict" else apply_policy(self._policy, [prediction])[0]

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
        self._service.check_usable()
        modalities = [engine.modality for engine in self._service.students.engines]
        return [self.predict(array) for array in check_batch(windows, modalities)]

    def stream(
        self,
        *,
        hop: int,
        modality: str | None = None,
        gap_s: float | None = None,
        reorder: int = 0,
        stale_s: float | None = None,
        on_window: OnWindow | None = None,
    ) -> Stream:
        """A stream of samples that this predictor answers for; several may share it, each in one thread at a time.

        Args:
            hop: samples at the modality's rate from one prediction to the next.
            modality: which of the bundle's students; None is the first.
            gap_s: a longer space between two samples is a gap, and missing; None is two and a half sampling periods.
            reorder: how many samples are held back so that later ones can be put in order.
            stale_s: from this age of its input on a prediction is stale; None is the predictor's.
            on_window: is called with each full window (T, C), raw, and its prediction, before that is given: for a
                program that keeps some of them.

        Raises:
            UsageError: an argument is out of its range, or there is no such student.
        """
        engines = self._service.students.engines
        number = 0 if modality is None else self._service.students.number_of(modality)
        entry = engines[number].entry
        if entry.streaming is not None:
            check_hop(hop, entry.streaming)
        stepping = None
        if engines[number].step is not None and not engines[number].refusal:
            stepping = Stepping(
                lambda: self._service.students.engines[number],
                failed=lambda: self._monitor.event("backend_failures"),
            )
        return Stream(
            modality=entry.modality,
            task=entry.task,
            ask=partial(self._asking.answer, number),
            deliver=self._give,
            hop=hop,
            gap_s=gap_s,
            reorder=reorder,
            stale_s=self._stale_s if stale_s is None else stale_s,
            stepping=stepping,
            on_window=on_window,
            answering=lambda: self._service.students.engines[number].modality,
        )

    def health(self) -> Health:
        """What was answered and what failed since `open`, and how inputs and answers compare with the training."""
        students = self._service.students
        health = self._monitor.health([engine.statistics for engine in students.engines])
        return msgspec.structs.replace(health, returned=students.returned)

    def swap(self, path: str | os.PathLike[str]) -> PredictorInfo:
        """Let another bundle take over, under load: no call fails or waits for it.

        The bundle is verified, opened as this predictor was, warmed up and tested on a part of its golden windows;
        then it answers. Whatever fails before leaves the earlier one in its place. The earlier one stays open until the
        next swap: `rollback` returns to it, and an engine that fails after the swap does so by itself.

        Raises:
            UsageError: this predictor was made without a bundle, or the new one takes or answers something else, or is
                of an earlier release than the one that answers.
            GateError: the new bundle answers its golden windows differently here.
            MmkdError: the bundle cannot be opened; see `open`.
        """
        self._service.swap(path)
        return self.info()

    def rollback(self) -> PredictorInfo:
        """Return to the bundle that answered before the last `swap`.

        Raises:
            UsageError: there was no swap, or it was taken back already.
        """
        self._service.rollback()
        return self.info()

    def reopen(self) -> None:
        """Open the engines once more, for instance after a device came back.

        Raises:
            UsageError: this predictor was made without a bundle.
            BackendError: an engine cannot be opened.
        """
        self._service.reopen()

    def selftest(self) -> SelfTest:
        """Answer the bundle's golden windows on this device and compare with what the checkpoint answered.

        Of several students all are tested; the result adds their windows and has the worst of their figures.

        Raises:
            GateError: an answer differs by more than the stored tolerance.
            BackendError: the backend failed.
            UsageError: the predictor is closed, or was made without a bundle.
        """
        while True:
            self._service.check_usable()
            students = self._service.students
            if students.bundle is None:
                raise UsageError("self-test: this predictor was made without a bundle and has no golden windows")
            try:
                return run_selftests(students.engines, students.bundle)
            except MmkdError:
                if self._service.students is students:
                    raise  # else a swap, or an engine opened again, has closed what was asked: ask who answers now

    def info(self) -> PredictorInfo:
        """What answers, and with what; of several students the first."""
        return info_of(self._service.students)

    @property
    def backend(self) -> Backend:
        """What executes the first student; its `name` says which was chosen."""
        return self._service.students.engines[0].backend

    @property
    def modality(self) -> ModalitySpec:
        """What one window of the first student is."""
        return self._service.students.engines[0].entry.modality

    @property
    def task(self) -> TaskSpec:
        """What is predicted."""
        return self._service.students.engines[0].entry.task

    @property
    def entry(self) -> ModelEntry:
        """Everything the manifest says of the first student."""
        return self._service.students.engines[0].entry

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """Everything the manifest says of the students, in the order in which they are asked."""
        return tuple(engine.entry for engine in self._service.students.engines)

    @property
    def reference(self) -> Reference | None:
        """The statistics that raw values of the first student are normalised with."""
        return self._service.students.engines[0].reference

    @property
    def bundle(self) -> Bundle | None:
        """The open bundle."""
        return self._service.students.bundle

    def close(self) -> None:
        """Give engines and bundles back; more than once is fine."""
        self._service.close()

    def __enter__(self) -> EdgePredictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise UsageError("a predictor cannot be sent to another process; send the bundle's path and open it there")

    def __repr__(self) -> str:
        state = "closed" if self._service.closed else "open"
        return f"EdgePredictor({self.entry.name!r}, backend={self.backend.name!r}, {state})"

    def _give(self, predictions: list[Prediction]) -> list[Prediction]:
        """Count predictions, and give the caller what the policy makes of them."""
        self._monitor.given(predictions)
        return predictions if self._policy == "predict" else apply_policy(self._policy, predictions)
