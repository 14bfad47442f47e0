"""Read, write and check `manifest.json`."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from mmkd_edge.bundle.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    MAX_LABELS,
    MAX_MANIFEST_BYTES,
    MAX_TOLERANCE,
    MAX_WINDOW_VALUES,
    README_FILE,
    REPORT_FILE,
    TRAINING_HASH_BYTES,
    Artifact,
    Manifest,
    ModelEntry,
    OverTime,
    Streaming,
    describe_tensors,
    graph_inputs,
    graph_outputs,
    step_inputs,
    step_outputs,
)
from mmkd_edge.bundle.statistics import InputStatistics, reference_fault
from mmkd_edge.bundle.strict_json import JsonError, check_keys, convert_object, parse_object, read_canonical
from mmkd_edge.errors import ManifestError, unprintable_in
from mmkd_edge.spec import MAX_FLOAT32, ModalitySpec, TaskSpec, TensorSpec, frames_fault, task_fault

_MAX_IN_NAME = 64


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON; ManifestError if it is invalid."""
    try:
        data = msgspec.json.encode(manifest)
    except (UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise ManifestError(f"{MANIFEST_FILE}: cannot be written as JSON: {error}") from error
    data = msgspec.json.format(data, indent=2) + b"\n"
    decode_manifest(data)
    return data


def decode_manifest(data: bytes) -> Manifest:
    """Read and check a manifest; ManifestError, with the JSON path, if it is invalid or newer."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"{MANIFEST_FILE}: expected at most {MAX_MANIFEST_BYTES} bytes, got {len(data)}")
    manifest = read_canonical(data, Manifest, version=FORMAT_VERSION)
    if manifest is None:
        try:
            document = parse_object(data)
            check_keys(data)
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
    expected = (REPORT_FILE, README_FILE)
    _require(names == expected, "files", f"expected {' and '.join(expected)}, got {', '.join(names) or 'nothing'}")
    _check_unique([model.name.casefold() for model in manifest.models], "models", "name")
    for index, model in enumerate(manifest.models):
        _check_model(model, f"models[{index}]")
        if model.twin_of is not None:
            _check_twin(model, manifest.models[:index], f"models[{index}]")


def _check_twin(model: ModelEntry, earlier: Sequence[ModelEntry], path: str) -> None:
    names = [entry.name for entry in earlier if entry.twin_of is None]
    listed = ", ".join(map(repr, names)) or "none"
    got = f"expected a student before it that is no twin ({listed}), got {model.twin_of!r}"
    _require(model.twin_of in names, f"{path}.twin_of", got)
    student = next(entry for entry in earlier if entry.name == model.twin_of)
    same = (model.modality, model.task) == (student.modality, student.task) and model.streaming is None
    _require(same, f"{path}.twin_of", f"expected the modality and task of {student.name!r}, without steps, got others")


def _check_model(model: ModelEntry, path: str) -> None:
    _check_name(model.name, f"{path}.name")
    _check_modality(model.modality, f"{path}.modality")
    _check_task(model.task, f"{path}.task")
    _check_tensors(model.inputs, graph_inputs(model.modality), f"{path}.inputs")
    _check_tensors(model.outputs, graph_outputs(model.task, novelty=model.has_novelty), f"{path}.outputs")
    for name in ("dataset_name", "preset", "validation_metric"):
        _check_printable([getattr(model, name)], f"{path}.{name}")
    _check_printable(model.members or (), f"{path}.members")
    _check_unique([artifact.file for artifact in model.artifacts], f"{path}.artifacts", "file")
    for index, artifact in enumerate(model.artifacts):
        _check_artifact(artifact, model, f"{path}.artifacts[{index}]")
    _check_file(model.golden.file, f"{model.name}/golden.npz", f"{path}.golden.file")
    if model.statistics is not None:
        _check_statistics(model.statistics, model, f"{path}.statistics")
    is_normal, normal = model.task.kind == "normal", model.normal
    fits = is_normal == (normal is not None)
    _require(
        fits, f"{path}.normal", f"expected {'scores of normal windows, got none' if is_normal else 'none, got one'}"
    )
    if normal is not None:
        _check_rising(normal.scores, f"{path}.normal.scores")
    if model.over_time is not None:
        _check_over_time(model.over_time, model.task, f"{path}.over_time")
    if model.group_reference is not None:
        fault = reference_fault(model.group_reference, len(model.modality.channels))
        if fault is not None:
            _fail(f"{path}.group_reference.{fault[0]}", fault[1])
    if model.streaming is not None:
        _check_streaming(model.streaming, model, f"{path}.streaming")
    length = len(model.training_hashes or b"")
    whole = length % TRAINING_HASH_BYTES == 0
    _require(whole, f"{path}.training_hashes", f"expected hashes of {TRAINING_HASH_BYTES} bytes, got {length} bytes")
    for index, adapted in enumerate(model.adapted or ()):
        _check_printable([adapted.dataset, adapted.method], f"{path}.adapted[{index}]")


def _check_over_time(over_time: OverTime, task: TaskSpec, path: str) -> None:
    _require(task.kind == "classification", path, f"expected none for {task.kind}, got one")
    expected, got = len(task.labels), len(over_time.prior)
    _require(got == expected, f"{path}.prior", f"expected one number per label, {expected}, got {got}")
    for index, rule in enumerate(over_time.rules):
        for name in ("delay", "single_delay"):
            _check_rising(getattr(rule, name), f"{path}.rules[{index}].{name}")


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
        fits = abs(state.initial) <= MAX_FLOAT32
        _require(fits, f"{path}.states[{index}].initial", f"expected a float32, got {state.initial:g}")
        axis, slots = state.axis, streaming.slots
        fits = axis is None or state.shape[axis : axis + 1] == (slots,)
        _require(fits, f"{path}.states[{index}].axis", f"expected one of {slots} slots, got {axis} of {state.shape}")
    _check_unique([artifact.file for artifact in streaming.artifacts], f"{path}.artifacts", "file")
    for index, artifact in enumerate(streaming.artifacts):
        where = f"{path}.artifacts[{index}]"
        _check_file(artifact.file, f"{model.name}/step.{artifact.precision}.{artifact.format}", f"{where}.file")
        _check_tolerance(artifact.parity.tolerance, MAX_TOLERANCE["fp32"], f"{where}.parity.tolerance")
        _require(artifact.novelty is None, f"{where}.novelty", "expected none in a step graph, got one")


def _check_artifact(artifact: Artifact, model: ModelEntry, path: str) -> None:
    _check_file(artifact.file, f"{model.name}/model.{artifact.precision}.{artifact.format}", f"{path}.file")
    most = MAX_TOLERANCE[artifact.precision]
    _check_tolerance(artifact.parity.tolerance, most, f"{path}.parity.tolerance")
    if artifact.novelty is not None:
        _require(model.has_novelty, f"{path}.novelty", "expected none beside graphs without the output, got one")
        _check_rising(artifact.novelty.scores, f"{path}.novelty.scores")
        _check_tolerance(artifact.novelty.tolerance, most, f"{path}.novelty.tolerance")
    if artifact.confidence is not None:
        kind = model.task.kind
        _require(kind == "classification", f"{path}.confidence", f"expected none for {kind}, got one")
        _check_rising(artifact.confidence.true_probabilities, f"{path}.confidence.true_probabilities")


def _check_tolerance(tolerance: float, most: float, path: str) -> None:
    _require(tolerance <= most, path, f"expected at most {most:g}, got {tolerance:g}")


def _check_rising(numbers: Sequence[float], path: str) -> None:
    fall = next((place for place, (low, high) in enumerate(itertools.pairwise(numbers), 1) if low > high), None)
    if fall is not None:
        _fail(path, f"expected rising numbers, got {numbers[fall - 1]} before {numbers[fall]}")


def _check_statistics(statistics: InputStatistics, model: ModelEntry, path: str) -> None:
    expected, got = len(model.modality.channels), len(statistics.channels)
    _require(got == expected, f"{path}.channels", f"expected one entry per channel, {expected}, got {got}")
    expected = 0 if model.task.is_number else len(model.task.labels)
    got = len(statistics.label_fractions)
    _require(got == expected, f"{path}.label_fractions", f"expected one fraction per label, {expected}, got {got}")
    for index, channel in enumerate(statistics.channels):
        edges, where = channel.edges, f"{path}.channels[{index}]"
        rising = all(low < high for low, high in itertools.pairwise(edges))
        _require(rising, f"{where}.edges", f"expected rising numbers, got {list(edges)}")
        expected, got = len(edges) + 1, len(channel.fractions)
        _require(got == expected, f"{where}.fractions", f"expected one more than edges, {expected}, got {got}")


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
    if modality.sources:
        from mmkd_edge.derive import derivation_fault  # few students need it

        key = f"{path}.parts" if modality.parts else f"{path}.derived"
        for number, source in enumerate(modality.sources):
            where = f"{key}[{number}]" if modality.parts else f"{key}.source"
            _require(not source.sources, where, "expected a recorded modality")
            _check_modality(source, where)
        if (derivation := derivation_fault(modality)) is not None:
            _fail(key, derivation)
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


def _check_tensors(tensors: tuple[TensorSpec, ...], expected: tuple[TensorSpec, ...], path: str) -> None:
    if tensors != expected:
        _fail(path, f"expected {describe_tensors(expected)}, got {describe_tensors(tensors)}")


def _check_name(name: str, path: str) -> None:
    expected = "1 to 64 letters, digits, '_', '-' or '.', not starting with '-' or '.'"
    # Identifier characters: letters with their marks in any script, digits and _.
    sound = all(f"_{letter}".isidentifier() or letter in "-." for letter in name)
    _require(
        sound and 0 < len(name) <= _MAX_IN_NAME and name[0] not in "-.", path, f"expected {expected}, got {name!r}"
    )


def _check_printable(names: Sequence[str], path: str) -> None:
    name = unprintable_in(names)
    _require(not name, path, f"expected text without control characters and line breaks, got {name!a}")


def _check_file(file: str, expected: str, path: str) -> None:
    _require(file == expected, path, f"expected {expected!r}, got {file!r}")


def _check_unique(names: Sequence[str], path: str, what: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        _fail(path, f"expected each {what} once, got {twice[0]!r} more than once")
