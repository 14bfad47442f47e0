"""A bundle's manifest: its files, and its students' inputs, outputs and scores.

Annotations are no texts here, in `statistics` and in `spec`: msgspec would take 5 ms of every start to evaluate them.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from mmkd_edge.bundle.statistics import GroupReference, InputStatistics
from mmkd_edge.spec import ModalitySpec, TaskSpec, TensorSpec, stored

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
REPORT_FILE = "report.json"
README_FILE = "README.md"

# More than a device can use, too few to exhaust its memory.
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 1 << 30
MAX_WINDOW_VALUES = 1 << 24
MAX_LABELS = 10_000
MAX_RELEASE = 10**12

MAX_CONFIDENCE_WINDOWS = 1024
MAX_NOVELTY_WINDOWS = 1024

MAX_ADAPTED = 1000
MAX_HOP_RULES = 4
TRAINING_HASH_BYTES = 8
MAX_TRAINING_HASHES = 8192

TrainingHashes = Annotated[bytes, msgspec.Meta(max_length=TRAINING_HASH_BYTES * MAX_TRAINING_HASHES)]
"""Keyed hashes of the groups and windows that trained a student, sorted, little-endian."""

ArtifactFormat = Literal["onnx", "tflite", "native"]
Precision = Literal["fp32", "fp16", "int8"]

MAX_TOLERANCE: Mapping[Precision, float] = {"fp32": 0.01, "fp16": 1.0, "int8": 8.0}
"""The largest tolerance of a logit that a manifest may claim."""

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
_Error = Annotated[float, msgspec.Meta(ge=0)]
_Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
GRAPH_OUTPUTS = ("logits", "probabilities", "value", "novelty")
"""Every output name, in the order of `graph_outputs`."""


class Confidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calibration of probabilities; see `mmkd_edge.predict.novelty`.

    `temperature` divides the logits before the softmax. `true_probabilities` are those of the true labels of
    calibration windows, rising, rounded down.
    """

    temperature: _Positive
    true_probabilities: Annotated[tuple[_Fraction, ...], msgspec.Meta(min_length=1, max_length=MAX_CONFIDENCE_WINDOWS)]


class Novelty(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calibration of novelty scores, rising; see `mmkd_edge.predict.novelty`.

    `max_error` is the largest difference from the checkpoint's score, relative to 1 + that score; at most `tolerance`.
    """

    scores: Annotated[tuple[_Error, ...], msgspec.Meta(min_length=1, max_length=MAX_NOVELTY_WINDOWS)]
    max_error: _Error
    tolerance: _Error


class Normal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calibration of a student of normal data: scores of normal windows, each by a model without their group.

    Attributes:
        scores: rising; of more windows evenly spread ranks.
        groups: of these windows; no level below 1 / (groups + 1) can be judged. 0 if they are unknown.
        hours: of the normal recordings that they are from.
        level: a window of at most this p-value is `unknown`, unless the caller has another level.
        window_rate: fraction of windows of a group that was left out at this level.
        groups_above: fraction of such groups with more than twice the level.
    """

    scores: Annotated[tuple[_Positive, ...], msgspec.Meta(min_length=1, max_length=MAX_NOVELTY_WINDOWS)]
    windows: Annotated[int, msgspec.Meta(ge=1, le=10**15)]
    groups: _Count
    hours: _Error
    level: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    window_rate: _Fraction
    groups_above: _Fraction


class HopRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How answers at one hop are filtered, and what that gave on validation recordings.

    Attributes:
        hop_fraction: the hop, in windows.
        dwell_s: mean time of a state.
        exponent: of each answer's probabilities.
        gain_points: of the score, over single answers.
        delay: answers until a change of state is followed, median and 90 % of changes.
        single_delay: the same by single answers.
    """

    hop_fraction: Annotated[float, msgspec.Meta(gt=0, le=1)]
    dwell_s: _Positive
    exponent: _Positive
    gain_points: float
    delay: tuple[_Error, _Error]
    single_delay: tuple[_Error, _Error]


class OverTime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a stream filters successive answers; see `mmkd_edge.stream.over_time`.

    `prior` (K,) divides probabilities; `changes` of state on validation recordings judged the rules.
    """

    prior: tuple[_Positive, ...]
    rules: Annotated[tuple[HopRule, ...], msgspec.Meta(min_length=1, max_length=MAX_HOP_RULES)]
    changes: _Count


class Adapted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An adaptation of a student to a new domain, with so many of its `labels`.

    `gain_points` is the estimate that chose `method`, `forgotten_points` the old domain's loss.
    """

    from_sha256: Sha256
    dataset: str
    dataset_sha256: Sha256
    method: str
    teacher_sha256: Sha256 | None
    labels: _Count
    gain_points: float
    forgotten_points: float


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A member of the archive that no engine reads."""

    file: str
    sha256: Sha256
    size_bytes: _Size


class Parity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Comparison of an artifact's logits with its checkpoint's."""

    windows: _Count
    max_abs_error: _Error
    mean_abs_error: _Error
    label_agreement: _Fraction
    tolerance: _Error


class Artifact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A model file in the archive: `<model>/model.<precision>.<format>`.

    `opset` is ONNX's, or the `.tflite` schema version. `unjudged`: too few windows judged a lower precision, and the
    user accepted that.
    """

    file: str
    format: ArtifactFormat
    precision: Precision
    opset: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    sha256: Sha256
    size_bytes: _Size
    parity: Parity
    confidence: Confidence | None = stored(None)
    unjudged: bool | None = None
    novelty: Novelty | None = None


class StateTensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A state of a step graph: input `name`, output `next_<name>`, float32, at first `initial` everywhere.

    `axis` is the slot axis if a step returns one slot; None for the whole state.
    """

    name: str
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1)], ...], msgspec.Meta(min_length=1, max_length=6)]
    axis: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    initial: float = 0.0


class Streaming(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Step graphs of a causal student: `stride` samples a step; an answer depends on `memory` samples.

    Step n, from 0, fills slot n modulo `slots`.
    """

    stride: Annotated[int, msgspec.Meta(ge=1)]
    memory: Annotated[int, msgspec.Meta(ge=1)]
    slots: Annotated[int, msgspec.Meta(ge=1)]
    states: Annotated[tuple[StateTensor, ...], msgspec.Meta(min_length=1, max_length=256)]
    artifacts: Annotated[tuple[Artifact, ...], msgspec.Meta(min_length=1, max_length=6)]


_Lineage = Annotated[tuple[Adapted, ...], msgspec.Meta(min_length=1, max_length=MAX_ADAPTED)]


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One student; unknown or inapplicable fields are None.

    Attributes:
        mflops: millions of floating-point operations per window.
        statistics: of the golden windows; None if they are noise.
        fold: training fold; None for the dataset's own split, UNSET (absent in the file) if unknown.
        twin_of: name of the student before it that it replaces in engines that lack one of that one's members.
    """

    name: str
    modality: ModalitySpec
    task: TaskSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preset: str
    parameters: _Count
    mflops: _Error
    validation_metric: str
    validation_score: float
    dataset_name: str
    dataset_sha256: Sha256
    teacher_sha256: Sha256 | None = stored(None)
    artifacts: Annotated[tuple[Artifact, ...], msgspec.Meta(min_length=1, max_length=16)]
    golden: FileEntry
    statistics: InputStatistics | None = stored(None)
    group_reference: GroupReference | None = stored(None)
    streaming: Streaming | None = stored(None)
    adapted: _Lineage | None = None
    fold: _Count | msgspec.UnsetType | None = msgspec.UNSET
    training_hashes: TrainingHashes | None = None
    normal: Normal | None = None
    over_time: OverTime | None = None
    members: tuple[str, ...] | None = None
    twin_of: str | None = None

    @property
    def has_novelty(self) -> bool:
        """Whether its graphs return a novelty score."""
        return len(self.outputs) > len(graph_outputs(self.task))


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The manifest; the first of `models` answers while its sensor works.

    `licence` covers the weights and the golden windows. `release` grows; devices refuse earlier ones.
    """

    format_version: int = stored(FORMAT_VERSION)
    model_id: str
    models: Annotated[tuple[ModelEntry, ...], msgspec.Meta(min_length=1, max_length=16)]
    tools: dict[str, str]
    licence: str
    files: tuple[FileEntry, ...]
    release: Annotated[int, msgspec.Meta(ge=0, le=MAX_RELEASE)] | None = None


def fallback_order(manifest: Manifest) -> tuple[tuple[ModelEntry, ...], ...]:
    """Return the students of each sensor, the best sensor first: a student, then its twins."""
    first = [entry for entry in manifest.models if not entry.twin_of]
    return tuple((entry, *(twin for twin in manifest.models if twin.twin_of == entry.name)) for entry in first)


def release_number(manifest: Manifest) -> int:
    """Return the release number, or 0."""
    return manifest.release or 0


def graph_inputs(modality: ModalitySpec) -> tuple[TensorSpec, ...]:
    """Return an artifact's inputs: `<name>`, raw, and `<name>_present`; shapes as in `Backend.run`."""
    return (
        TensorSpec(name=modality.name, dtype=modality.dtype, shape=(1, *modality.shape)),
        TensorSpec(name=f"{modality.name}_present", dtype="float32", shape=(1, *modality.presence_shape)),
    )


def graph_outputs(task: TaskSpec, *, novelty: bool = False) -> tuple[TensorSpec, ...]:
    """Return an artifact's outputs, float32: `logits`, `probabilities` (1, K), optionally `novelty` (1, 1).

    A regression has `logits`, in standard deviations from the training targets' mean, and `value`, in their unit; a
    task `normal` the log of the score and, as `value`, the score.
    """
    shape = (1, task.outputs)
    outputs = (
        TensorSpec(name="logits", dtype="float32", shape=shape),
        TensorSpec(name="value" if task.is_number else "probabilities", dtype="float32", shape=shape),
    )
    return (*outputs, TensorSpec(name="novelty", dtype="float32", shape=(1, 1))) if novelty else outputs


def step_inputs(modality: ModalitySpec, streaming: Streaming) -> tuple[TensorSpec, ...]:
    """Return a step graph's inputs: S samples and their presence, `slot` (1, 1), and the states."""
    samples = graph_inputs(msgspec.structs.replace(modality, samples=streaming.stride))
    slot = TensorSpec(name="slot", dtype="float32", shape=(1, 1))
    return (*samples, slot, *(TensorSpec(name=s.name, dtype="float32", shape=s.shape) for s in streaming.states))


def step_outputs(task: TaskSpec, streaming: Streaming, *, novelty: bool = False) -> tuple[TensorSpec, ...]:
    """Return a step graph's outputs: those of `graph_outputs`, and each state's new slot, or all of it."""
    outputs = list(graph_outputs(task, novelty=novelty))
    for state in streaming.states:
        shape = tuple(1 if axis == state.axis else size for axis, size in enumerate(state.shape))
        outputs.append(TensorSpec(name=f"next_{state.name}", dtype="float32", shape=shape))
    return tuple(outputs)


def member_files(manifest: Manifest) -> tuple[FileEntry, ...]:
    """Return all members except the manifest, in archive order."""
    entries = list(manifest.files)
    for model in manifest.models:
        artifacts = model.artifacts + (() if model.streaming is None else model.streaming.artifacts)
        entries += [FileEntry(file=a.file, sha256=a.sha256, size_bytes=a.size_bytes) for a in artifacts]
        entries.append(model.golden)
    return tuple(entries)


def describe_tensors(tensors: Sequence[TensorSpec]) -> str:
    """Describe tensors in one line: `acc float32 (1, 200, 3), acc_present float32 (1, 200, 3)`."""
    return ", ".join(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in tensors) or "nothing"


def adapted_text(adapted: Adapted) -> str:
    """Describe one adaptation in one line."""
    teacher = f", teacher {adapted.teacher_sha256}" if adapted.teacher_sha256 else ""
    labels = f", {adapted.labels} labels" if adapted.labels else ""
    return (
        f"checkpoint {adapted.from_sha256} to {adapted.dataset} (SHA-256 {adapted.dataset_sha256}) by"
        f" {adapted.method!r}{teacher}{labels}: estimate {adapted.gain_points:+.1f} points, old domain"
        f" {0 - adapted.forgotten_points:+.1f}"
    )
