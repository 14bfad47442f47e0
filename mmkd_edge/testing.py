"""A double for tests of applications: a predictor without a bundle or an engine.

>>> from mmkd_edge import ModalitySpec
>>> from mmkd_edge.testing import fake_predictor
>>> acc = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=50.0, samples=200)
>>> predictor = fake_predictor([0.1, 0.9], modality=acc, labels=("ok", "worn"))
>>> predictor.predict([[0.0, 0.0, 9.8]] * 200).label
'worn'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import (
    Artifact,
    Confidence,
    FileEntry,
    ModelEntry,
    Normal,
    Novelty,
    Parity,
    graph_inputs,
    graph_outputs,
)
from mmkd_edge.bundle.reference import Reference
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.predict.postprocess import Policy
from mmkd_edge.predict.sensors import SensorChecks
from mmkd_edge.predictor import EdgePredictor
from mmkd_edge.spec import ModalitySpec, TaskSpec, TensorSpec

Feeds = Mapping[str, NDArray[Any]]
Answer = Sequence[float] | Callable[[Feeds], Sequence[float]]
# The logit of a class that the answer rules out: its softmax is 0 in float32.
_RULED_OUT = 1e-38
_NORMAL = Normal(scores=(1.0,), windows=1, groups=1, hours=0.0, level=0.5, window_rate=0.0, groups_above=0.0)


class FakeBackend:
    """A `Backend` with given answers: probabilities (K,), or a function from the feeds to them; like `novelty`.

    `feeds` has those of every `run`.
    """

    name = "fake"
    version = "fake 1"
    threads = 1

    def __init__(
        self,
        answer: Answer,
        *,
        inputs: tuple[TensorSpec, ...] = (),
        outputs: tuple[TensorSpec, ...] = (),
        novelty: float | Callable[[Feeds], float] | None = None,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.feeds: list[Feeds] = []
        self.closed = False
        self._answer = answer
        self._novelty = novelty

    def run(self, feeds: Feeds) -> tuple[NDArray[np.float32], ...]:
        """Return the answer as logits and probabilities, new float32 arrays (1, K), and the novelty (1, 1)."""
        self.feeds.append(feeds)
        answer = self._answer(feeds) if callable(self._answer) else self._answer
        probabilities = np.array([answer], dtype=np.float32)
        logits = np.log(np.maximum(probabilities, np.float32(_RULED_OUT)))
        if self._novelty is None:
            return logits, probabilities
        novelty = self._novelty(feeds) if callable(self._novelty) else self._novelty
        return logits, probabilities, np.array([[novelty]], dtype=np.float32)

    def close(self) -> None:
        """Set `closed`."""
        self.closed = True


def fake_entry(*, modality: ModalitySpec, labels: Sequence[str] | TaskSpec, novelty: bool = False) -> ModelEntry:
    """Return an untrained student's manifest entry; `novelty` is calibrated by one score, 1, like `normal`."""
    task = labels if isinstance(labels, TaskSpec) else TaskSpec(labels=tuple(labels))
    parity = Parity(windows=0, max_abs_error=0.0, mean_abs_error=0.0, label_agreement=1.0, tolerance=0.0)
    file = f"{modality.name}/model.fp32.onnx"
    digest = "0" * 64
    return ModelEntry(
        name=modality.name,
        modality=modality,
        task=task,
        inputs=graph_inputs(modality),
        outputs=graph_outputs(task, novelty=novelty),
        preset="fake",
        parameters=0,
        mflops=0.0,
        validation_metric="none",
        validation_score=0.0,
        dataset_name="none",
        dataset_sha256=digest,
        artifacts=(
            Artifact(
                file=file,
                format="onnx",
                precision="fp32",
                opset=20,
                sha256=digest,
                size_bytes=1,
                parity=parity,
                novelty=Novelty(scores=(1.0,), max_error=0.0, tolerance=0.0) if novelty else None,
            ),
        ),
        golden=FileEntry(file=f"{modality.name}/golden.npz", sha256=digest, size_bytes=1),
        normal=_NORMAL if task.kind == "normal" else None,
    )


def fake_predictor(
    answer: Answer,
    *,
    modality: ModalitySpec,
    labels: Sequence[str] | TaskSpec,
    reference: Reference | None = None,
    policy: Policy = "predict",
    checks: SensorChecks | None = None,
    least_probability: float | None = None,
    novelty: float | Callable[[Feeds], float] | None = None,
) -> EdgePredictor:
    """Return a predictor over a `FakeBackend`: windows are checked and prepared as on a device.

    `least_probability` is the threshold of `Prediction.label_set`, as with an error level. Above a novelty of 1, or a
    score of 1 of a task `normal`, the answer is `unknown`.
    """
    entry = fake_entry(modality=modality, labels=labels, novelty=novelty is not None)
    artifact = None if novelty is None else entry.artifacts[0]
    error_level = None
    if least_probability is not None:  # one calibration window, which becomes the threshold
        confidence = Confidence(temperature=1.0, true_probabilities=(least_probability,))
        artifact, error_level = msgspec.structs.replace(entry.artifacts[0], confidence=confidence), 0.5
    unknown_level = None if novelty is None else 0.5
    return EdgePredictor.with_backend(
        entry,
        FakeBackend(answer, inputs=entry.inputs, outputs=entry.outputs, novelty=novelty),
        artifact=artifact,
        reference=reference,
        options=OpenOptions(policy=policy, checks=checks, error_level=error_level, unknown_level=unknown_level),
    )
