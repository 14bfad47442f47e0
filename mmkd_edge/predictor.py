"""`EdgePredictor`: opens a bundle on a device and answers for windows.

Holds the students of one bundle and runs the four steps `check_window`, `prepare`, `backend.run`, `interpret`. Owns
what happens when one of them fails: another try, another student, another bundle, or an answer that says so. It
measures nothing, prints nothing and opens no network connection.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import msgspec
import numpy as np

from mmkd_edge.backends import RUN_PRECISIONS, Backend, BackendName, RunPrecision, check_backend
from mmkd_edge.bundle import Bundle
from mmkd_edge.engine import Choice, Engine, Line, SelfTest, engine_of, open_line, run_selftest
from mmkd_edge.errors import BackendError, InputError, MmkdError, SensorError, UsageError
from mmkd_edge.health import Health, Monitor
from mmkd_edge.manifest import Artifact, ModelEntry
from mmkd_edge.postprocess import Prediction, interpret
from mmkd_edge.preprocess import all_present, as_float32, check_window, prepare, select
from mmkd_edge.profile import MAX_THREADS
from mmkd_edge.reference import Reference
from mmkd_edge.sensors import Fault, Policy, SensorChecks, check_checks, check_policy, find_fault, worse
from mmkd_edge.setup import Asked
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_edge.stream import Stream
from mmkd_edge.terms import (
    NO_TERMS,
    NOT_ASKED,
    Terms,
    absent,
    interpret_with,
    standing_in,
    unanswered,
    withheld,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AnyReference = Reference | str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class PredictorInfo:
    """What answers, and with what.

    Attributes:
        model_id: the bundle's name for itself; empty without a bundle.
        model: the student.
        modality: what it takes.
        labels: what it answers.
        parameters: how many the student has.
        backend: what executes it.
        backend_version: the library behind the backend.
        threads: how many threads one prediction may use.
        precision: of the arithmetic: the artifact's, or bf16; empty without a bundle.
        reason: why this backend, this precision and so many threads; empty without a bundle.
        profile: the file of measurements that says so; empty where none does.
        artifact: the model file inside the bundle; empty without a bundle.
        artifact_sha256: of that file; empty without a bundle.
        bundle: the path that was opened; empty without a bundle.
        bundle_sha256: of the whole bundle, as `sha256sum` prints it; empty without a bundle.
        versions: of mmkd-edge, numpy and Python.
    """

    model_id: str
    model: str
    modality: str
    labels: tuple[str, ...]
    parameters: int
    backend: str
    backend_version: str
    threads: int
    precision: str
    reason: str
    profile: str
    artifact: str
    artifact_sha256: str
    bundle: str
    bundle_sha256: str
    versions: dict[str, str]


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
        observe_every: int = 16,
    ) -> None:
        engine = engine_of(
            entry=entry,
            backend=backend,
            reference=reference,
            artifact=artifact,
            reopen=reopen,
            statistics=entry.statistics,
        )
        self._begin(Line(engines=(engine,), bundle=bundle), policy, checks, stale_s, observe_every)

    def _begin(
        self, line: Line, policy: Policy, checks: SensorChecks | None, stale_s: float | None, observe_every: int
    ) -> None:
        self._policy = check_policy(policy)
        if checks is not None:
            for engine in line.engines:
                check_checks(checks, engine.modality)
        if stale_s is not None and not stale_s > 0:
            raise UsageError(f"stale_s: expected seconds above 0, got {stale_s!r}")
        if isinstance(observe_every, bool) or not isinstance(observe_every, int) or observe_every < 0:
            raise UsageError(f"observe_every: expected a whole number from 0 on, got {observe_every!r}")
        self._checks = checks if checks is not None and checks.any else None
        self._stale_s = stale_s
        self._line = line
        self._earlier: Line | None = None
        self._choice: Choice | None = None
        self._monitor = Monitor(every=observe_every)
        self._notes, self._notes_most = self._monitor.notes, self._monitor.most
        self._control = threading.RLock()  # whoever changes the line holds it
        self._swapping = threading.Lock()
        self._reopened = False  # since the last good answer
        self._closed = False
        self._process = os.getpid()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        backend: BackendName | Literal["auto"] = "auto",
        precision: RunPrecision | Literal["auto"] = "auto",
        threads: int | None = None,
        reference: _AnyReference | Sequence[_AnyReference] | None = None,
        policy: Policy = "predict",
        checks: SensorChecks | None = None,
        stale_s: float | None = None,
        observe_every: int = 16,
    ) -> EdgePredictor:
        """Verify a bundle, open its students, and run them until they are warm.

        Args:
            path: the bundle.
            backend: what executes the students; `auto` is the profile's choice where `mmkd-bench tune` measured this
                bundle on this machine, else OpenVINO, onnxruntime or LiteRT, the first that is installed and opens
                it. See `info()` for what was chosen, and why.
            precision: of the arithmetic; `auto` is the profile's choice, else fp32.
            threads: how many threads one prediction may use; None is the profile's choice, else one, the fastest for
                small students.
            reference: for a modality that is normalised per group: what `mmkd-data reference` wrote, or its path;
                several where the bundle has several such modalities.
            policy: what a prediction that is not `ok` becomes: `predict` answers where it can and says so in the
                status, `abstain` keeps the status and names no class, `raise` raises a `SensorError`.
            checks: what is looked for in every window beyond missing values; None looks for nothing else.
            stale_s: from this age of its input on a prediction is stale; None never says so.
            observe_every: each how manieth window the statistics of `health` look at; 0 looks at none.

        Raises:
            UsageError: a file is absent, or an argument does not fit this bundle.
            UnavailableError: the backend's library is not installed.
            BackendError: the backend cannot open or run the student.
            ArtifactError: the bundle is damaged, or was made for a newer version.
        """
        asked = Asked(
            threads=_thread_count(threads), backend=check_backend(backend), precision=_check_precision(precision)
        )
        choice = Choice(asked=asked, references=_several(reference))
        line = open_line(path, choice)
        predictor = cls.__new__(cls)
        try:
            predictor._begin(line, policy, checks, stale_s, observe_every)
        except BaseException:
            line.close()
            raise
        predictor._choice = choice
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
        terms = None
        if input_age_s is not None or deadline_s is not None:
            terms = Terms(input_age_s=input_age_s, deadline_s=deadline_s)
        if len(self._line.engines) > 1:
            return self._deliver(self._answer_in_order(window, terms))
        prediction = self._ask(0, window, terms)
        return prediction if prediction.status == "ok" else self._deliver(prediction)

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
        return [self.predict(array) for array in self._check_batch(windows)]

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
        engines = self._line.engines
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
            deliver=self._deliver_all,
            hop=hop,
            gap_s=gap_s,
            reorder=reorder,
            stale_s=self._stale_s if stale_s is None else stale_s,
        )

    def health(self) -> Health:
        """What was answered and what failed since `open`, and how inputs and answers compare with the training."""
        return self._monitor.health([engine.tally for engine in self._line.engines])

    def swap(self, path: str | os.PathLike[str]) -> PredictorInfo:
        """Let another bundle take over, under load: no call fails or waits for it.

        The bundle is verified, opened as this predictor was, warmed up and held against its golden windows; then it
        answers. Whatever fails before leaves the earlier one in its place. The earlier one stays open until the next
        swap: `rollback` returns to it, and an engine that fails after the swap does so by itself.

        Raises:
            UsageError: this predictor was made without a bundle, or the new one takes or answers something else.
            GateError: the new bundle answers its golden windows differently here.
            MmkdError: the bundle cannot be opened; see `open`.
        """
        if self._closed:
            self._refuse()
        if self._choice is None:
            raise UsageError("swap: this predictor was made without a bundle; open one with EdgePredictor.open")
        with self._swapping:
            line = open_line(path, self._choice)
            try:
                self._check_successor(line)
                with self._control:
                    if self._closed:
                        self._refuse()
                    dropped, self._earlier, self._line = self._earlier, self._line, line
                    self._reopened = False
            except BaseException:
                line.close()
                raise
            self._monitor.event("swaps")
            if dropped is not None:
                dropped.close()
        return self.info()

    def rollback(self) -> PredictorInfo:
        """Return to the bundle that answered before the last `swap`.

        Raises:
            UsageError: there was no swap, or it was taken back already.
        """
        with self._swapping, self._control:
            if self._closed:
                self._refuse()
            if self._earlier is None:
                raise UsageError("rollback: there is no earlier bundle to return to; swap keeps the last one")
            failed = self._return_to_earlier(self._earlier)
        failed.close()
        return self.info()

    def reopen(self) -> None:
        """Open the engines once more, for instance after a device came back.

        Raises:
            UsageError: this predictor was made without a bundle.
            BackendError: an engine cannot be opened.
        """
        if self._closed:
            self._refuse()
        with self._control:
            for engine in self._line.engines:
                if engine.reopen is None:
                    raise UsageError(
                        "reopen: this predictor was made without a bundle; open one with EdgePredictor.open"
                    )
                self._replace(engine, engine.reopen())

    def selftest(self) -> SelfTest:
        """Answer the bundle's golden windows on this device and compare with what the checkpoint answered.

        Of several students all are tested; the result adds their windows and has the worst of their figures.

        Raises:
            GateError: an answer differs by more than the stored tolerance.
            BackendError: the backend failed.
            UsageError: the predictor is closed, or was made without a bundle.
        """
        if self._closed:
            self._refuse()
        line = self._line
        if line.bundle is None:
            raise UsageError("self-test: this predictor was made without a bundle and has no golden windows")
        results = [run_selftest(engine, line.bundle) for engine in line.engines]
        worst = max(results, key=lambda result: result.max_abs_error / result.tolerance)
        return SelfTest(
            windows=sum(result.windows for result in results),
            max_abs_error=worst.max_abs_error,
            tolerance=worst.tolerance,
            label_agreement=min(result.label_agreement for result in results),
        )

    def info(self) -> PredictorInfo:
        """What answers, and with what; of several students the first."""
        from importlib.metadata import version

        line = self._line
        engine, bundle = line.engines[0], line.bundle
        entry, artifact, setup = engine.entry, engine.artifact, engine.setup
        return PredictorInfo(
            model_id=bundle.manifest.model_id if bundle else "",
            model=entry.name,
            modality=entry.modality.name,
            labels=entry.task.labels,
            parameters=entry.parameters,
            backend=engine.backend.name,
            backend_version=engine.backend.version,
            threads=engine.backend.threads,
            precision=setup.precision if setup else artifact.precision if artifact else "",
            reason=setup.reason if setup else "",
            profile=setup.profile if setup else "",
            artifact=artifact.file if artifact else "",
            artifact_sha256=artifact.sha256 if artifact else "",
            bundle=str(bundle.path) if bundle else "",
            bundle_sha256=bundle.sha256 if bundle else "",
            versions={
                "mmkd-edge": version("mmkd-edge"),
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        )

    @property
    def backend(self) -> Backend:
        """What executes the first student; its `name` says which was chosen."""
        return self._line.engines[0].backend

    @property
    def modality(self) -> ModalitySpec:
        """What one window of the first student is."""
        return self._line.engines[0].entry.modality

    @property
    def task(self) -> TaskSpec:
        """What is predicted."""
        return self._line.engines[0].entry.task

    @property
    def entry(self) -> ModelEntry:
        """Everything the manifest says of the first student."""
        return self._line.engines[0].entry

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """Everything the manifest says of the students, in the order in which they are asked."""
        return tuple(engine.entry for engine in self._line.engines)

    @property
    def reference(self) -> Reference | None:
        """The statistics that raw values of the first student are normalised with."""
        return self._line.engines[0].reference

    @property
    def bundle(self) -> Bundle | None:
        """The open bundle."""
        return self._line.bundle

    def close(self) -> None:
        """Give engines and bundles back; more than once is fine."""
        with self._control:
            self._closed = True
            earlier, self._earlier = self._earlier, None
        self._line.close()
        if earlier is not None:
            earlier.close()

    def __enter__(self) -> EdgePredictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise UsageError("a predictor cannot be sent to another process; send the bundle's path and open it there")

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"EdgePredictor({self.entry.name!r}, backend={self.backend.name!r}, {state})"

    # ---- one prediction

    def _answer_in_order(self, window: object, terms: Terms | None) -> Prediction:
        """The first student whose modality lives answers."""
        windows = self._check_mapping(window)
        silent: list[Prediction] = []
        for number, entry in enumerate(self.entries):
            found = {entry.modality.name: windows.get(entry.modality.name)}
            prediction = self._ask(number, found, terms)
            if prediction.index >= 0 or prediction.status == "stale":
                return standing_in(silent, prediction)
            silent.append(prediction)
        return msgspec.structs.replace(silent[0], reason="; ".join(f"{p.modality}: {p.reason}" for p in silent))

    def _ask(self, number: int, window: object, terms: Terms | None = None) -> Prediction:
        """One student's prediction, whatever the policy."""
        if self._closed or os.getpid() != self._process:
            self._refuse()
        line = self._line
        engine = line.engines[number]
        modality = engine.modality
        if engine.refusal:
            raise InputError(engine.refusal)
        if type(window) is dict and window.get(modality.name, window) is None:
            return absent(engine, terms)
        array = check_window(window, modality)
        values, present = prepare(array, modality, engine.reference)
        if self._checks is not None or terms is not None:
            terms = self._examine(modality, array, present, terms or NO_TERMS)
            if terms.deadline_s is not None and time.monotonic() >= terms.deadline_s:
                return unanswered(engine, terms, Fault(status="stale", reason=NOT_ASKED))
        try:
            _, probabilities = engine.backend.run({engine.values_name: values, engine.present_name: present})
        except Exception as error:  # an engine of its own may raise anything, and the caller's loop must go on
            if self._recover(line, engine, error):
                return self._ask(number, array, terms)
            return unanswered(engine, terms, Fault(status="invalid", reason=f"the engine failed: {error}"))
        self._reopened = False
        if terms is None and present is all_present(modality.shape):
            prediction = interpret(probabilities, present, modality=modality, task=engine.task)
        else:
            prediction = interpret_with(terms or NO_TERMS, engine, probabilities, present=present, window=array)
        self._notes.append((engine.tally, prediction))
        if len(self._notes) >= self._notes_most:
            self._monitor.settle(engine.tally, values, present)
        return prediction

    def _examine(
        self, modality: ModalitySpec, array: NDArray[np.float32], present: NDArray[np.float32], terms: Terms
    ) -> Terms:
        """The terms with what the checks and the age of the input say against the window."""
        fault, age_s = terms.fault, terms.input_age_s
        if age_s is not None and self._stale_s is not None and age_s > self._stale_s:
            fault = worse(Fault(status="stale", reason=f"the newest sample is {age_s:.3g} s old"), fault)
        if self._checks is not None:
            fault = worse(find_fault(array, present, modality, self._checks), fault)
        return msgspec.structs.replace(terms, fault=fault)

    def _deliver(self, prediction: Prediction) -> Prediction:
        """Count a prediction and apply the policy to it."""
        if prediction.status == "ok":
            return prediction
        self._monitor.count(prediction.status)
        if self._policy == "predict" or prediction.status == "warming_up":
            return prediction
        if self._policy == "raise":
            message = f"modality {prediction.modality!r}: {prediction.status}: {prediction.reason}"
            raise SensorError(message, predictions=[prediction])
        return withheld(prediction)

    def _deliver_all(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """The same for those of one push; all are counted before the first is refused."""
        delivered: list[Prediction] = []
        refused: SensorError | None = None
        for prediction in predictions:
            try:
                delivered.append(self._deliver(prediction))
            except SensorError as error:
                refused = refused or error
        if refused is not None:
            raise SensorError(str(refused), predictions=predictions)
        return delivered

    # ---- when it fails

    def _refuse(self) -> NoReturn:
        if self._closed:
            raise UsageError("the predictor is closed; open the bundle again")
        raise UsageError(
            f"the predictor was opened in process {self._process} and cannot be used in its child {os.getpid()}; "
            "open the bundle in the process that asks"
        )

    def _recover(self, line: Line, engine: Engine, error: Exception) -> bool:
        """Put something that may work in the place of an engine that failed; whether there is something."""
        if self._closed:
            self._refuse()
        with self._control:
            if self._line is not line:  # another call recovered already, or a swap closed what this call held
                return True
            self._monitor.event("backend_failures")
            if not self._reopened and engine.reopen is not None:
                self._reopened = True
                try:
                    self._replace(engine, engine.reopen())
                except MmkdError:
                    pass  # the failure of the call is what is reported; below there may be another way
                else:
                    return True
            if self._earlier is not None:
                self._return_to_earlier(self._earlier).close()
                return True
        if self._policy == "raise":
            raise error if isinstance(error, BackendError) else BackendError(f"the engine failed: {error}") from error
        return False

    def _replace(self, engine: Engine, backend: Backend) -> None:
        self._line = self._line.with_backend(engine, backend)
        self._monitor.event("reopens")
        engine.backend.close()

    def _return_to_earlier(self, earlier: Line) -> Line:
        """Switch back; gives the line that answered until now."""
        failed, self._line, self._earlier = self._line, earlier, None
        self._reopened = False
        self._monitor.event("rollbacks")
        return failed

    def _check_successor(self, line: Line) -> None:
        """Refuse a bundle that takes or answers something else, or that does not compute here what it did at export."""
        wanted = [_contract(engine.entry) for engine in self._line.engines]
        found = [_contract(engine.entry) for engine in line.engines]
        assert line.bundle is not None
        if found != wanted:
            raise UsageError(
                f"{line.bundle.path}: swap: expected a bundle that takes and answers {'; '.join(wanted)}, "
                f"got {'; '.join(found)}; open it with a predictor of its own"
            )
        for engine in line.engines:
            run_selftest(engine, line.bundle)

    # ---- what is given

    def _check_mapping(self, window: object) -> Mapping[str, object]:
        names = [entry.modality.name for entry in self.entries]
        listed = ", ".join(map(repr, names))
        if not isinstance(window, Mapping):
            raise InputError(
                f"this bundle has students for {listed}: expected a mapping from modality to array, "
                f"got {type(window).__name__}"
            )
        for name in window:
            if name not in names:
                raise InputError(f"unknown modality {name!r}: this bundle has students for {listed}")
        return window

    def _check_batch(self, windows: Iterable[object] | Mapping[str, object]) -> list[Any]:
        if self._closed or os.getpid() != self._process:
            self._refuse()
        if len(self._line.engines) > 1:
            if isinstance(windows, Mapping) or not isinstance(windows, Iterable):
                raise InputError("predict_batch: of a bundle with several students expected an iterable of mappings")
            return [self._check_numbered_mapping(index, window) for index, window in enumerate(windows)]
        modality = self.modality
        values = select(windows, modality)
        if isinstance(values, np.ndarray):
            array = as_float32(values, modality)
            shape = modality.shape
            if array.ndim != 3 or array.shape[1:] != shape:
                raise InputError(
                    f"modality {modality.name!r}: expected shape (N, T, C)=(N, {shape[0]}, {shape[1]}), "
                    f"got {array.shape}; predict takes a single window"
                )
            return list(array)
        if not isinstance(values, Iterable):
            raise InputError(
                f"expected windows, got {type(values).__name__}; pass an array (N, T, C) or a list of windows"
            )
        return [self._check_numbered(index, window, modality) for index, window in enumerate(values)]

    def _check_numbered(self, index: int, window: object, modality: ModalitySpec) -> NDArray[np.float32]:
        try:
            return check_window(window, modality)
        except InputError as error:
            raise InputError(f"window {index}: {error}") from error

    def _check_numbered_mapping(self, index: int, window: object) -> dict[str, object]:
        windows = self._check_mapping(window)
        modalities = {entry.modality.name: entry.modality for entry in self.entries}
        return {
            name: None if value is None else self._check_numbered(index, value, modalities[name])
            for name, value in windows.items()
        }


def _contract(entry: ModelEntry) -> str:
    """What an application relies on, in words."""
    modality = entry.modality
    channels, labels = ", ".join(modality.channels), ", ".join(entry.task.labels)
    scale = "" if modality.normalise == "none" else ", normalised per group"
    return (
        f"{modality.name!r} ({modality.samples} samples of {channels} at {modality.rate_hz:g} Hz{scale}) for {labels}"
    )


def _several(reference: _AnyReference | Sequence[_AnyReference] | None) -> tuple[_AnyReference, ...]:
    if reference is None:
        return ()
    if isinstance(reference, Reference | str | os.PathLike):
        return (reference,)
    return tuple(reference)


def _check_precision(precision: RunPrecision | Literal["auto"]) -> RunPrecision | Literal["auto"]:
    if precision not in ("auto", *RUN_PRECISIONS):
        listed = ", ".join(map(repr, ("auto", *RUN_PRECISIONS[:-1])))
        raise UsageError(f"precision {precision!r} is unknown; expected {listed} or {RUN_PRECISIONS[-1]!r}")
    return precision


def _thread_count(threads: Any) -> int | None:
    if threads is None:
        return None
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads: expected a whole number from 1 to {MAX_THREADS}, or None; got {threads!r}")
    return threads
