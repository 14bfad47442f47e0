"""`EdgePredictor`: opens a bundle on a device and answers for windows.

Holds one backend and runs the four steps `check_window`, `prepare`, `backend.run`, `interpret`. It measures nothing,
prints nothing and opens no network connection.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmkd_edge.backends import Backend, BackendName, open_backend, resolve_backend
from mmkd_edge.bundle import Bundle, choose_artifact
from mmkd_edge.errors import BackendError, BundleError, GateError, InputError, UsageError
from mmkd_edge.manifest import Artifact, ModelEntry, Precision, describe_tensors
from mmkd_edge.postprocess import Prediction, interpret
from mmkd_edge.preprocess import as_float32, check_window, prepare, select
from mmkd_edge.reference import Reference, check_reference, read_reference
from mmkd_edge.spec import ModalitySpec, TaskSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_THREADS = 256
_WARM_UP_RUNS = 5


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
        precision: of the artifact; empty without a bundle.
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
    artifact: str
    artifact_sha256: str
    bundle: str
    bundle_sha256: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """How this device answered the golden windows.

    Attributes:
        windows: how many there were.
        max_abs_error: largest difference of a logit or a probability from the stored answer.
        tolerance: what it had to stay within.
        label_agreement: share of windows with the stored label, 0 to 1.
    """

    windows: int
    max_abs_error: float
    tolerance: float
    label_agreement: float


class EdgePredictor:
    """Answers for windows. Open it with `EdgePredictor.open`; use it in `with`, or call `close()`.

    One predictor may be shared by threads. The constructor is for tests and for backends of your own; it trusts that
    the backend fits the entry.

    Args:
        entry: what the student takes and answers.
        backend: what executes it; the predictor closes it.
        reference: statistics for a modality that is normalised per group.
        bundle: where the entry comes from; the predictor closes it.
        artifact: what the backend executes.
    """

    def __init__(
        self,
        *,
        entry: ModelEntry,
        backend: Backend,
        reference: Reference | None = None,
        bundle: Bundle | None = None,
        artifact: Artifact | None = None,
    ) -> None:
        if reference is not None:
            check_reference(reference, entry.modality)
        self._entry = entry
        self._backend = backend
        self._reference = reference
        self._bundle = bundle
        self._artifact = artifact
        self._modality = entry.modality
        self._task = entry.task
        self._values_name = entry.modality.name
        self._present_name = f"{entry.modality.name}_present"
        self._closed = False
        self._refusal = _refusal(entry.modality, reference)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        backend: BackendName | Literal["auto"] = "auto",
        precision: Precision | Literal["auto"] = "auto",
        threads: int | None = None,
        reference: Reference | str | os.PathLike[str] | None = None,
    ) -> EdgePredictor:
        """Verify a bundle, open its first student, and run it until it is warm.

        Args:
            path: the bundle.
            backend: what executes the student; `auto` chooses for this machine. See `info()` for what was chosen.
            precision: of the artifact; `auto` is fp32.
            threads: how many threads one prediction may use; None is one, the fastest for small students.
            reference: for a modality that is normalised per group: what `mmkd-data reference` wrote, or its path.

        Raises:
            UsageError: a file is absent, or an argument does not fit this bundle.
            UnavailableError: the backend's library is not installed.
            BackendError: the backend cannot open or run the student.
            ArtifactError: the bundle is damaged, or was made for a newer version.
        """
        count = _thread_count(threads)
        name = resolve_backend(backend)
        bundle = Bundle.open(path)
        try:
            entry = bundle.manifest.models[0]
            statistics = _statistics(reference, entry.modality)
            artifact = choose_artifact(entry, precision, name)
            opened = _open_artifact(bundle, entry, artifact, name=name, threads=count)
            return cls(entry=entry, backend=opened, reference=statistics, bundle=bundle, artifact=artifact)
        except BaseException:
            bundle.close()
            raise

    def predict(self, window: object) -> Prediction:
        """Answer for one window.

        Args:
            window: a mapping from the modality's name to an array (T, C), or the bare array; raw values, NaN = missing.

        Raises:
            InputError: the window does not fit, or the modality needs a reference and none was given.
            BackendError: the backend failed.
            UsageError: the predictor is closed.
        """
        if self._closed or self._refusal:
            self._refuse()
        values, present = prepare(check_window(window, self._modality), self._modality, self._reference)
        _, probabilities = self._backend.run({self._values_name: values, self._present_name: present})
        return interpret(probabilities, present, modality=self._modality, task=self._task)

    def predict_batch(self, windows: Iterable[object] | Mapping[str, object]) -> list[Prediction]:
        """Answer for many windows, one after the other: the graph takes one at a time.

        Args:
            windows: an array (N, T, C), a mapping from the modality's name to one, or any iterable of what `predict`
                takes. All are checked before the first is answered.

        Raises:
            InputError: a window does not fit; the message has its number.
            BackendError: the backend failed.
            UsageError: the predictor is closed.
        """
        return [self.predict(array) for array in self._check_batch(windows)]

    def selftest(self) -> SelfTest:
        """Answer the bundle's golden windows on this device and compare with what the checkpoint answered.

        Raises:
            GateError: an answer differs by more than the stored tolerance.
            BackendError: the backend failed.
            UsageError: the predictor is closed, or was made without a bundle.
        """
        if self._closed:
            self._refuse()
        if self._bundle is None:
            raise UsageError("self-test: this predictor was made without a bundle and has no golden windows")
        golden = self._bundle.golden(self._entry.name)
        tolerance = golden.tolerance
        if self._artifact is not None and self._artifact.precision != "fp32":
            # Lower precision differs from the checkpoint by design; the manifest says by how much it may.
            tolerance = max(tolerance, self._artifact.parity.tolerance)
        logits, probabilities = self._answers(golden.windows)
        logit_errors = np.abs(logits - golden.logits).max(axis=1)  # (N,)
        errors = np.maximum(logit_errors, np.abs(probabilities - golden.probabilities).max(axis=1))  # (N,)
        worst = int(errors.argmax())  # NaN counts as the largest
        error = float(errors[worst])
        if not error <= tolerance:
            raise GateError(
                f"{self._bundle.path}: self-test: golden window {worst}: expected the stored answer within "
                f"{tolerance:g}, got a difference of {error:g}; {self._backend.version} computes another result "
                "here than at export: do not use it on this device"
            )
        agreement = float((logits.argmax(axis=1) == golden.logits.argmax(axis=1)).mean())
        return SelfTest(windows=len(errors), max_abs_error=error, tolerance=tolerance, label_agreement=agreement)

    def info(self) -> PredictorInfo:
        """What answers, and with what."""
        from importlib.metadata import version

        bundle, artifact = self._bundle, self._artifact
        return PredictorInfo(
            model_id=bundle.manifest.model_id if bundle else "",
            model=self._entry.name,
            modality=self._modality.name,
            labels=self._task.labels,
            parameters=self._entry.parameters,
            backend=self._backend.name,
            backend_version=self._backend.version,
            threads=self._backend.threads,
            precision=artifact.precision if artifact else "",
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
        """What executes the student; its `name` says which was chosen."""
        return self._backend

    @property
    def modality(self) -> ModalitySpec:
        """What one window is."""
        return self._modality

    @property
    def task(self) -> TaskSpec:
        """What is predicted."""
        return self._task

    @property
    def entry(self) -> ModelEntry:
        """Everything the manifest says of the student."""
        return self._entry

    @property
    def reference(self) -> Reference | None:
        """The statistics that raw values are normalised with."""
        return self._reference

    @property
    def bundle(self) -> Bundle | None:
        """The open bundle."""
        return self._bundle

    def close(self) -> None:
        """Give backend and bundle back; more than once is fine."""
        self._closed = True
        self._backend.close()
        if self._bundle is not None:
            self._bundle.close()

    def __enter__(self) -> EdgePredictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"EdgePredictor({self._entry.name!r}, backend={self._backend.name!r}, {state})"

    def _refuse(self) -> None:
        if self._closed:
            raise UsageError("the predictor is closed; open the bundle again")
        raise InputError(self._refusal)

    def _check_batch(self, windows: Iterable[object] | Mapping[str, object]) -> list[NDArray[np.float32]]:
        values = select(windows, self._modality)
        if isinstance(values, np.ndarray):
            array = as_float32(values, self._modality)
            shape = self._modality.shape
            if array.ndim != 3 or array.shape[1:] != shape:
                raise InputError(
                    f"modality {self._modality.name!r}: expected shape (N, T, C)=(N, {shape[0]}, {shape[1]}), "
                    f"got {array.shape}; predict takes a single window"
                )
            return list(array)
        if not isinstance(values, Iterable):
            raise InputError(
                f"expected windows, got {type(values).__name__}; pass an array (N, T, C) or a list of windows"
            )
        return [self._check_numbered(index, window) for index, window in enumerate(values)]

    def _check_numbered(self, index: int, window: object) -> NDArray[np.float32]:
        try:
            return check_window(window, self._modality)
        except InputError as error:
            raise InputError(f"window {index}: {error}") from error

    def _answers(self, windows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        answers = []
        for window in windows:
            values, present = prepare(window, self._modality)
            answers.append(self._backend.run({self._values_name: values, self._present_name: present}))
        return np.concatenate([logits for logits, _ in answers]), np.concatenate([shares for _, shares in answers])


def _open_artifact(
    bundle: Bundle, entry: ModelEntry, artifact: Artifact, *, name: BackendName, threads: int
) -> Backend:
    backend = open_backend(name, bundle.read(artifact.file), threads=threads)
    try:
        _check_tensors(bundle, entry, artifact, backend)
        _warm_up(entry, backend)
    except BaseException:
        backend.close()
        raise
    return backend


def _check_tensors(bundle: Bundle, entry: ModelEntry, artifact: Artifact, backend: Backend) -> None:
    for what, wanted, found in (
        ("inputs", entry.inputs, backend.inputs),
        ("outputs", entry.outputs, backend.outputs),
    ):
        if found != wanted:
            raise BundleError(
                f"{bundle.path}: {artifact.file!r}: expected the {what} {describe_tensors(wanted)}, "
                f"got {describe_tensors(found)}; export the bundle again"
            )


def _warm_up(entry: ModelEntry, backend: Backend) -> None:
    shape = entry.inputs[0].shape
    feeds = {entry.inputs[0].name: np.zeros(shape, np.float32), entry.inputs[1].name: np.ones(shape, np.float32)}
    for _ in range(_WARM_UP_RUNS):
        answers = backend.run(feeds)
    for spec, answer in zip(entry.outputs, answers, strict=True):
        if answer.shape != spec.shape or answer.dtype != np.float32 or not np.isfinite(answer).all():
            raise BackendError(
                f"backend {backend.name!r}: expected finite {describe_tensors((spec,))} for a window of zeros, "
                f"got {answer.dtype} {answer.shape}: {answer.ravel()[:4].tolist()}; export the bundle again"
            )


def _statistics(reference: Reference | str | os.PathLike[str] | None, modality: ModalitySpec) -> Reference | None:
    if reference is None or isinstance(reference, Reference):
        return reference
    statistics = read_reference(reference)
    try:
        check_reference(statistics, modality)
    except UsageError as error:
        raise UsageError(f"{os.fspath(reference)}: {error}") from error
    return statistics


def _thread_count(threads: Any) -> int:
    if threads is None:
        return 1
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads: expected a whole number from 1 to {MAX_THREADS}, or None; got {threads!r}")
    return threads


def _refusal(modality: ModalitySpec, reference: Reference | None) -> str:
    if modality.normalise == "none" or reference is not None:
        return ""
    return (
        f"modality {modality.name!r} is normalised per group and raw values need the group's statistics; "
        f"run mmkd-data reference DATA --modality {modality.name} -o FILE on its first windows "
        "and open the bundle with EdgePredictor.open(..., reference=FILE)"
    )
