"""The manifest of a bundle: what every file in it is, and what the student in it takes, answers and reached.

Owns `manifest.json`: `decode_manifest` checks everything that can be checked without the other files, `encode_manifest`
writes only what `decode_manifest` would take. Reads no files.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NoReturn

import msgspec

from mmkd_edge.bundle.calibration import Confidence, Novelty
from mmkd_edge.bundle.lineage import MOST_ADAPTED, Adapted
from mmkd_edge.bundle.strict_json import JsonError, convert_object, parse_object
from mmkd_edge.drift.features import GroupReference, InputStatistics, reference_fault
from mmkd_edge.errors import ManifestError
from mmkd_edge.plausible import MAX_FLOAT32
from mmkd_edge.printable import unprintable_in
from mmkd_edge.spec import ModalitySpec, TaskSpec, TensorSpec, frames_fault, task_fault

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
REPORT_FILE = "report.json"
README_FILE = "README.md"

# Far above what a device can carry, and low enough that no number in a manifest can exhaust its memory.
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 1 << 30
MAX_WINDOW_VALUES = 1 << 24
MAX_LABELS = 10_000
MAX_RELEASE = 10**12
MOST_WINDOWS_AT_ONCE = 64

ArtifactFormat = Literal["onnx", "tflite"]
Precision = Literal["fp32", "fp16", "int8"]

_MOST_IN_NAME = 64
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

_Size = Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
_Error = Annotated[float, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Lineage = Annotated[tuple[Adapted, ...], msgspec.Meta(min_length=1, max_length=MOST_ADAPTED)]


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One member of the archive that no engine reads."""

    file: str
    sha256: str
    size_bytes: _Size


class Parity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an artifact compared with the checkpoint it was exported from.

    Attributes:
        windows: how many windows were compared.
        max_abs_error: largest difference between two logits.
        mean_abs_error: mean difference between two logits.
        label_agreement: share of windows with the same label, 0 to 1.
        tolerance: what `max_abs_error` had to stay within.
    """

    windows: _Count
    max_abs_error: _Error
    mean_abs_error: _Error
    label_agreement: _Share
    tolerance: _Error


class BatchRange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many windows a graph takes at once; engines are built for the optimum."""

    minimum: Annotated[int, msgspec.Meta(ge=1, le=1)]
    optimum: Annotated[int, msgspec.Meta(ge=1, le=MOST_WINDOWS_AT_ONCE)]
    maximum: Annotated[int, msgspec.Meta(ge=2, le=MOST_WINDOWS_AT_ONCE)]


class Artifact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model file in the archive: `<model>/model.<precision>.<format>`.

    Attributes:
        file: its name in the archive.
        opset: of ONNX; of a `.tflite` the version of its schema.
        parity: how it compared with the checkpoint.
        batch: how many windows it takes at once; None where it takes one. The runtime gives one either way.
        confidence: what its probabilities are worth; None where no labelled windows calibrated it.
        unjudged: true where too few windows judged its lower precision, and that was accepted; else absent.
        novelty: what its novelty scores are worth; absent where its graph gives none, or no windows calibrated them.
    """

    file: str
    format: ArtifactFormat
    precision: Precision
    opset: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    sha256: str
    size_bytes: _Size
    parity: Parity
    batch: BatchRange | None = None
    confidence: Confidence | None = None
    unjudged: bool | msgspec.UnsetType = msgspec.UNSET
    novelty: Novelty | msgspec.UnsetType = msgspec.UNSET


class StateTensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a step graph keeps from one step to the next: input `name`, output `next_<name>`, float32.

    Attributes:
        name: of the input.
        shape: of the input.
        axis: along which it has the slots; a step gives what belongs into one of them. None has no slots: a step gives
            all of it anew.
        initial: what every element is before the first step.
    """

    name: str
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1)], ...], msgspec.Meta(min_length=1, max_length=6)]
    axis: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    initial: float = 0.0


class Streaming(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a causal student follows a stream.

    Attributes:
        stride: samples of one step.
        memory: samples that an answer can depend on, the newest included.
        slots: how many steps the states have slots for; step n, from 0, fills slot n modulo `slots`.
        states: what is kept, in the order of the graph's inputs and outputs.
        artifacts: step graphs, one for each format and precision.
    """

    stride: Annotated[int, msgspec.Meta(ge=1)]
    memory: Annotated[int, msgspec.Meta(ge=1)]
    slots: Annotated[int, msgspec.Meta(ge=1)]
    states: Annotated[tuple[StateTensor, ...], msgspec.Meta(min_length=1, max_length=256)]
    artifacts: Annotated[tuple[Artifact, ...], msgspec.Meta(min_length=1, max_length=6)]


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One student.

    Attributes:
        name: its folder in the archive.
        inputs: of every artifact, in order: see `graph_inputs`.
        outputs: of every artifact, in order: see `graph_outputs`.
        mflops: millions of floating point operations for one window.
        validation_metric: what `validation_score` is.
        teacher_sha256: of the teacher's checkpoint; None where the student learned from labels alone.
        golden: `<model>/golden.npz`: windows with the answers that the checkpoint gave.
        statistics: of the golden windows; None in a bundle of an earlier version.
        group_reference: how the groups of the training differ from each other; None where it was not measured.
        streaming: the steps of a causal student; None of a windowed one.
        adapted: to which domains it was adapted after its training, in order; absent where to none.
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
    dataset_sha256: str
    teacher_sha256: str | None = None
    artifacts: Annotated[tuple[Artifact, ...], msgspec.Meta(min_length=1, max_length=16)]
    golden: FileEntry
    statistics: InputStatistics | None = None
    group_reference: GroupReference | None = None
    streaming: Streaming | None = None
    adapted: _Lineage | msgspec.UnsetType = msgspec.UNSET

    @property
    def has_novelty(self) -> bool:
        """Whether its graphs give a novelty score."""
        return len(self.outputs) > len(graph_outputs(self.task))


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole bundle.

    Attributes:
        model_id: what people call this bundle.
        models: the students; the first answers while its sensor lives.
        tools: what made the bundle, name to version.
        licence: of the weights, and of the data in the golden windows.
        files: report.json and README.md.
        release: a number that grows with every release, so that a device refuses an earlier one; absent where none was
            given.
    """

    format_version: int = FORMAT_VERSION
    model_id: str
    models: Annotated[tuple[ModelEntry, ...], msgspec.Meta(min_length=1, max_length=16)]
    tools: dict[str, str]
    licence: str
    files: tuple[FileEntry, ...]
    release: Annotated[int, msgspec.Meta(ge=0, le=MAX_RELEASE)] | msgspec.UnsetType = msgspec.UNSET


def release_of(manifest: Manifest) -> int:
    """Its number among releases; 0 where none was given."""
    return 0 if manifest.release is msgspec.UNSET else manifest.release


def graph_inputs(modality: ModalitySpec) -> tuple[TensorSpec, ...]:
    """The inputs of every artifact: `<name>` in raw units and `<name>_present`, both float32 (1, T, C).

    Of video they are uint8 (1, T, H, W, C) and float32 (1, T, 1).
    """
    return (
        TensorSpec(name=modality.name, dtype=modality.dtype, shape=(1, *modality.shape)),
        TensorSpec(name=f"{modality.name}_present", dtype="float32", shape=(1, *modality.presence_shape)),
    )


GRAPH_OUTPUTS = ("logits", "probabilities", "value", "novelty")
"""Every name that `graph_outputs` gives, in its order."""


def graph_outputs(task: TaskSpec, *, novelty: bool = False) -> tuple[TensorSpec, ...]:
    """The outputs of every artifact, float32: `logits` and `probabilities` (1, K), and perhaps `novelty` (1, 1).

    The probabilities of several labels are each their own. Of a regression the outputs are `logits`, the answer in
    standard deviations of the training targets from their mean, and `value`, the answer in the target's unit.
    """
    shape = (1, len(task.labels))
    outputs = (
        TensorSpec(name="logits", dtype="float32", shape=shape),
        TensorSpec(name="value" if task.kind == "regression" else "probabilities", dtype="float32", shape=shape),
    )
    return (*outputs, TensorSpec(name="novelty", dtype="float32", shape=(1, 1))) if novelty else outputs


def step_inputs(modality: ModalitySpec, streaming: Streaming) -> tuple[TensorSpec, ...]:
    """The inputs of a step graph: those of every artifact for S samples, `slot` (1, 1), and the states."""
    samples = graph_inputs(msgspec.structs.replace(modality, samples=streaming.stride))
    slot = TensorSpec(name="slot", dtype="float32", shape=(1, 1))
    return (*samples, slot, *(TensorSpec(name=s.name, dtype="float32", shape=s.shape) for s in streaming.states))


def step_outputs(task: TaskSpec, streaming: Streaming, *, novelty: bool = False) -> tuple[TensorSpec, ...]:
    """The outputs of a step graph: those of every artifact, and what is new of each state: all of it, or one slot."""
    states = (TensorSpec(name=f"next_{s.name}", dtype="float32", shape=_new_shape(s)) for s in streaming.states)
    return (*graph_outputs(task, novelty=novelty), *states)


def _new_shape(state: StateTensor) -> tuple[int, ...]:
    return tuple(1 if axis == state.axis else size for axis, size in enumerate(state.shape))


def member_files(manifest: Manifest) -> tuple[FileEntry, ...]:
    """Every member of the archive but the manifest itself, in the order in which they are stored."""
    entries = list(manifest.files)
    for model in manifest.models:
        artifacts = model.artifacts + (() if model.streaming is None else model.streaming.artifacts)
        entries += [FileEntry(file=a.file, sha256=a.sha256, size_bytes=a.size_bytes) for a in artifacts]
        entries.append(model.golden)
    return tuple(entries)


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as indented JSON.

    Raises:
        ManifestError: the manifest breaks its contract; the message has the JSON path.
    """
    try:
        data = msgspec.json.encode(manifest)
    except (UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise ManifestError(f"{MANIFEST_FILE}: cannot be written as JSON: {error}") from error
    data = msgspec.json.format(data, indent=2) + b"\n"
    decode_manifest(data)
    return data


def decode_manifest(data: bytes) -> Manifest:
    """Read and check a manifest.

    Raises:
        ManifestError: it was written for a newer version, is no JSON, or breaks its contract; the message has the path.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"{MANIFEST_FILE}: expected at most {MAX_MANIFEST_BYTES} bytes, got {len(data)}")
    try:
        document = parse_object(data)
        _check_version(document)
        manifest = convert_object(document, Manifest)
    except JsonError as error:
        _fail(error.path, error.message)
    _check_manifest(manifest)
    return manifest


def _fail(path: str, message: str) -> NoReturn:
    where = f"{MANIFEST_FILE}: {path}" if path else MANIFEST_FILE
    raise ManifestError(f"{where}: {message}; export the bundle again")


def _require(condition: bool, path: str, message: str) -> None:
    if not condition:
        _fail(path, message)


def _check_version(document: dict[str, Any]) -> None:
    version = document.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int):
        _fail("format_version", f"expected {FORMAT_VERSION}, got {version!r}")
    if version > FORMAT_VERSION:
        raise ManifestError(
            f"{MANIFEST_FILE}: format_version: this mmkd-edge reads up to {FORMAT_VERSION}, the bundle has {version}; "
            "upgrade with pip install --upgrade mmkd-edge"
        )
    _require(version == FORMAT_VERSION, "format_version", f"expected {FORMAT_VERSION}, got {version}")


def _check_manifest(manifest: Manifest) -> None:
    _require(bool(manifest.model_id), "model_id", "expected a name, got none")
    _check_printable([manifest.model_id], "model_id")
    names = tuple(entry.file for entry in manifest.files)
    wanted = (REPORT_FILE, README_FILE)
    _require(names == wanted, "files", f"expected {' and '.join(wanted)}, got {', '.join(names) or 'nothing'}")
    for index, entry in enumerate(manifest.files):
        _check_hash(entry.sha256, f"files[{index}].sha256")
    _check_unique([model.name.casefold() for model in manifest.models], "models", "name")
    for index, model in enumerate(manifest.models):
        _check_model(model, f"models[{index}]")


def _check_model(model: ModelEntry, path: str) -> None:
    _check_name(model.name, f"{path}.name")
    _check_modality(model.modality, f"{path}.modality")
    _check_task(model.task, f"{path}.task")
    _check_tensors(model.inputs, graph_inputs(model.modality), f"{path}.inputs")
    _check_tensors(model.outputs, graph_outputs(model.task, novelty=model.has_novelty), f"{path}.outputs")
    _check_printable([model.dataset_name], f"{path}.dataset_name")
    _check_hash(model.dataset_sha256, f"{path}.dataset_sha256")
    if model.teacher_sha256 is not None:
        _check_hash(model.teacher_sha256, f"{path}.teacher_sha256")
    _check_unique([artifact.file for artifact in model.artifacts], f"{path}.artifacts", "file")
    for index, artifact in enumerate(model.artifacts):
        _check_artifact(artifact, model, f"{path}.artifacts[{index}]")
    _check_file(model.golden.file, f"{model.name}/golden.npz", f"{path}.golden.file")
    _check_hash(model.golden.sha256, f"{path}.golden.sha256")
    if model.statistics is not None:
        _check_statistics(model.statistics, model, f"{path}.statistics")
    if model.group_reference is not None:
        fault = reference_fault(model.group_reference, len(model.modality.channels))
        if fault is not None:
            _fail(f"{path}.group_reference.{fault[0]}", fault[1])
    if model.streaming is not None:
        _check_streaming(model.streaming, model, f"{path}.streaming")
    for index, adapted in enumerate(model.adapted or ()):
        _check_adapted(adapted, f"{path}.adapted[{index}]")


def _check_adapted(adapted: Adapted, path: str) -> None:
    _check_hash(adapted.from_sha256, f"{path}.from_sha256")
    _check_hash(adapted.dataset_sha256, f"{path}.dataset_sha256")
    if adapted.teacher_sha256 is not None:
        _check_hash(adapted.teacher_sha256, f"{path}.teacher_sha256")
    _check_printable([adapted.dataset], f"{path}.dataset")
    _check_printable([adapted.way], f"{path}.way")
    _require(adapted.labels >= 0, f"{path}.labels", f"expected 0 or more, got {adapted.labels}")


def _check_streaming(streaming: Streaming, model: ModelEntry, path: str) -> None:
    stride, samples = streaming.stride, model.modality.samples
    _require(stride <= samples, f"{path}.stride", f"expected at most a window of {samples} samples, got {stride}")
    tensors = step_inputs(model.modality, streaming) + step_outputs(model.task, streaming, novelty=model.has_novelty)
    _check_unique([tensor.name for tensor in tensors], f"{path}.states", "tensor's name")
    for index, state in enumerate(streaming.states):
        _check_name(state.name, f"{path}.states[{index}].name")
        values = math.prod(state.shape)
        fits = values <= MAX_WINDOW_VALUES
        _require(fits, f"{path}.states[{index}].shape", f"expected at most {MAX_WINDOW_VALUES} values, got {values}")
        axis, slots = state.axis, streaming.slots
        fits = axis is None or state.shape[axis : axis + 1] == (slots,)
        _require(fits, f"{path}.states[{index}].axis", f"expected one of {slots} slots, got {axis} of {state.shape}")
    _check_unique([artifact.file for artifact in streaming.artifacts], f"{path}.artifacts", "file")
    for index, artifact in enumerate(streaming.artifacts):
        where = f"{path}.artifacts[{index}]"
        _check_file(artifact.file, f"{model.name}/step.{artifact.precision}.{artifact.format}", f"{where}.file")
        _check_hash(artifact.sha256, f"{where}.sha256")
        _require(artifact.batch is None, f"{where}.batch", f"expected none in a step graph, got {artifact.batch}")
        _require(artifact.novelty is msgspec.UNSET, f"{where}.novelty", "expected none in a step graph, got one")


def _check_artifact(artifact: Artifact, model: ModelEntry, path: str) -> None:
    _check_file(artifact.file, f"{model.name}/model.{artifact.precision}.{artifact.format}", f"{path}.file")
    _check_hash(artifact.sha256, f"{path}.sha256")
    batch = artifact.batch
    fits = batch is None or (artifact.format == "onnx" and batch.optimum <= batch.maximum)
    _require(fits, f"{path}.batch", f"expected a range of an ONNX graph, got {batch}")
    if artifact.novelty is not msgspec.UNSET:
        _require(model.has_novelty, f"{path}.novelty", "expected none beside graphs without the output, got one")
        _check_rising(artifact.novelty.scores, f"{path}.novelty.scores")
    if artifact.confidence is not None:
        kind = model.task.kind
        _require(kind == "classification", f"{path}.confidence", f"expected none for {kind}, got one")
        _check_rising(artifact.confidence.true_probabilities, f"{path}.confidence.true_probabilities")


def _check_rising(numbers: Sequence[float], path: str) -> None:
    fall = next((place for place, (low, high) in enumerate(itertools.pairwise(numbers), 1) if low > high), None)
    if fall is not None:
        _fail(path, f"expected rising numbers, got {numbers[fall - 1]} before {numbers[fall]}")


def _check_statistics(statistics: InputStatistics, model: ModelEntry, path: str) -> None:
    wanted, got = len(model.modality.channels), len(statistics.channels)
    _require(got == wanted, f"{path}.channels", f"expected one entry per channel, {wanted}, got {got}")
    wanted = 0 if model.task.kind == "regression" else len(model.task.labels)
    got = len(statistics.label_shares)
    _require(got == wanted, f"{path}.label_shares", f"expected one share per label, {wanted}, got {got}")
    for index, channel in enumerate(statistics.channels):
        edges, where = channel.edges, f"{path}.channels[{index}]"
        rising = all(low < high for low, high in itertools.pairwise(edges))
        _require(rising, f"{where}.edges", f"expected rising numbers, got {list(edges)}")
        wanted, got = len(edges) + 1, len(channel.shares)
        _require(got == wanted, f"{where}.shares", f"expected one more than edges, {wanted}, got {got}")


def _check_modality(modality: ModalitySpec, path: str) -> None:
    _check_name(modality.name, f"{path}.name")
    _require(bool(modality.channels), f"{path}.channels", "expected one name per channel, got none")
    _check_unique(modality.channels, f"{path}.channels", "name")
    _check_printable(modality.channels, f"{path}.channels")
    _check_printable([modality.unit], f"{path}.unit")
    _require(modality.rate_hz > 0, f"{path}.rate_hz", f"expected a rate above 0, got {modality.rate_hz}")
    _require(modality.samples >= 1, f"{path}.samples", f"expected at least 1, got {modality.samples}")
    fault = frames_fault(modality)
    if fault is not None:
        _fail(f"{path}.{fault[0]}", fault[1])
    values = math.prod(modality.shape)
    _require(
        values <= MAX_WINDOW_VALUES, f"{path}.samples", f"expected at most {MAX_WINDOW_VALUES} values, got {values}"
    )
    if modality.range is not None:
        low, high = modality.range
        valid = -MAX_FLOAT32 <= low < high <= MAX_FLOAT32
        _require(valid, f"{path}.range", f"expected [low, high] with low below high, got [{low}, {high}]")


def _check_task(task: TaskSpec, path: str) -> None:
    fault = task_fault(task)
    if fault is not None:
        _fail(f"{path}.{fault[0]}", fault[1].partition(";")[0])
    count, fewest = len(task.labels), 2 if task.kind == "classification" else 1
    _require(fewest <= count <= MAX_LABELS, f"{path}.labels", f"expected {fewest} to {MAX_LABELS} labels, got {count}")
    _require(all(task.labels), f"{path}.labels", "expected names, got an empty one")
    _check_unique(task.labels, f"{path}.labels", "label")
    _check_printable(task.labels, f"{path}.labels")
    _check_printable([task.unit or ""], f"{path}.unit")


def _check_tensors(tensors: tuple[TensorSpec, ...], wanted: tuple[TensorSpec, ...], path: str) -> None:
    if tensors != wanted:
        _fail(path, f"expected {describe_tensors(wanted)}, got {describe_tensors(tensors)}")


def describe_tensors(tensors: Sequence[TensorSpec]) -> str:
    """Tensors in one line, for messages: `acc float32 (1, 200, 3), acc_present float32 (1, 200, 3)`."""
    return ", ".join(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in tensors) or "nothing"


def _check_name(name: str, path: str) -> None:
    """Of a folder in the archive and of a tensor: any script, no separators, nothing a shell or a file system minds."""
    wanted = "1 to 64 letters, digits, '_', '-' or '.', not starting with '-' or '.'"
    # What may go on an identifier: letters, the marks that belong to them in many scripts, digits and _.
    sound = all(f"_{letter}".isidentifier() or letter in "-." for letter in name)
    _require(sound and 0 < len(name) <= _MOST_IN_NAME and name[0] not in "-.", path, f"expected {wanted}, got {name!r}")


def _check_printable(names: Sequence[str], path: str) -> None:
    name = unprintable_in(names)
    _require(not name, path, f"expected text without control characters and line breaks, got {name!a}")


def _check_file(file: str, wanted: str, path: str) -> None:
    _require(file == wanted, path, f"expected {wanted!r}, got {file!r}")


def _check_hash(digest: str, path: str) -> None:
    _require(_SHA256.match(digest) is not None, path, f"expected 64 lower-case hexadecimal digits, got {digest!r}")


def _check_unique(names: Sequence[str], path: str, what: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        _fail(path, f"expected each {what} once, got {twice[0]!r} more than once")
