"""Verified facts of a checkpoint, bundle or engine, without torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import read_first
from mmkd_edge.bundle.manifest import Adapted, ModelEntry, adapted_text
from mmkd_edge.bundle.reference import read_reference
from mmkd_edge.errors import ArtifactError, BundleError, CheckpointError, UsageError
from mmkd_edge.predict.commissioning import machine_facts
from mmkd_edge.predict.novelty import magnitude_text, normal_text, novelty_text
from mmkd_edge.spec import ModalitySpec, TaskSpec, labels_text
from mmkd_edge.stream.over_time import over_time_text
from mmkd_export.plan import is_bundle, read_report
from mmkd_export.targets.trt import engine_device, read_sidecar
from mmkd_export.verify.gate import gate_summary
from mmkd_models.content_hash import CONTENT_KEY, LENGTH_BYTES, TensorContent, check_content, content_digest, read_start
from mmkd_models.metrics.scores import known_score

Facts = dict[str, str]  # dotted name to value, in reading order
_Rows = Iterator[tuple[str, str]]
_DTYPES = {"F32": "float32", "F64": "float64", "I64": "int64", "I32": "int32", "U8": "uint8", "BOOL": "bool"}


def inspect_file(path: Path) -> Facts:
    """Return facts of a file that we write; raise UsageError if it is another, ArtifactError if broken."""
    start = read_first(path, 64, expected="a bundle, a checkpoint or an engine")
    if is_bundle(path):
        return dict(_bundle_facts(path))
    if start[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{":
        return dict(_checkpoint_facts(path))
    if start.lstrip()[:1] == b"{" and b'"mean"' in path.read_bytes():
        reference = read_reference(path)
        return {"kind": "reference", "modality": reference.modality} | machine_facts(reference)
    sidecar = path if start.lstrip()[:1] == b"{" else path.with_name(path.name + ".json")
    if sidecar.is_file() and (sidecar != path or b'"engine' in path.read_bytes()):
        return dict(_engine_facts(sidecar))
    got = "a ZIP file without a bundle's manifest" if start.startswith(b"PK") else "none of them"
    raise UsageError(
        f"{path}: expected a bundle, a checkpoint, or an engine with its sidecar beside it; got {got};"
        " name the right file (mmkd-data describe shows a dataset)"
    )


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return facts that differ, with both values (None if absent)."""
    return {name: (one.get(name), other.get(name)) for name in {**one, **other} if one.get(name) != other.get(name)}


def _bundle_facts(path: Path) -> _Rows:
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        yield "kind", "bundle, every byte verified"
        yield "model_id", manifest.model_id
        yield "size_bytes", str(path.stat().st_size)
        yield "sha256", bundle.sha256
        yield "licence", manifest.licence
        if manifest.release is not None:
            yield "release", str(manifest.release)
        signatures = bundle.signatures.signatures if bundle.signatures else ()
        yield "signed_by", ", ".join(f"key {one.key_id}" for one in signatures) or "nobody"
        for entry in manifest.models:
            yield from _model_facts(bundle, entry)
        yield from _report_facts(bundle)
        for name, version in sorted(manifest.tools.items()):
            yield f"made_with.{name}", version


def _window_text(modality: ModalitySpec) -> str:
    size = f"{modality.samples} samples{' of audio' if modality.kind == 'audio' else ''}"
    if modality.kind == "video":
        size = f"{modality.samples} frames of {modality.height} x {modality.width} pixels"
    return f"{size} x {', '.join(modality.channels)} at {modality.rate_hz:g} Hz"


def _untaught_text(metric: str) -> str:
    """Return what a student without a teacher learnt from."""
    return "none: fitted to normal running" if metric == "auroc" else "none: trained on labels only"


def _score_text(metric: str, score: float) -> str:
    return "none: no known fault in validation" if known_score(metric, score) is None else f"{score:.4f}"


def _derivation(modality: ModalitySpec, prefix: str) -> _Rows:
    for part in modality.parts or ():
        yield f"{prefix}.{part.name}", f"{_window_text(part)}, may be missing"
    if modality.derived:
        yield f"{prefix}.derived", f"{modality.title}, from {modality.recorded.name}: {_window_text(modality.recorded)}"


def _model_facts(bundle: Bundle, entry: ModelEntry) -> _Rows:
    modality, prefix = entry.modality, entry.name
    golden = bundle.golden(entry.name)
    low, high = modality.range if modality.range is not None else (-math.inf, math.inf)
    yield f"{prefix}.window", _window_text(modality)
    yield from _derivation(modality, prefix)
    yield f"{prefix}.unit", modality.unit or "not stated"
    yield f"{prefix}.range", f"{low:g} to {high:g}"
    yield f"{prefix}.normalise", modality.normalise
    yield f"{prefix}.labels", labels_text(entry.task)
    yield f"{prefix}.size", f"{entry.preset}, {entry.parameters:,} parameters, {entry.mflops:g} MFLOP a window"
    if entry.members:
        yield f"{prefix}.members", ", ".join(entry.members)
    if entry.twin_of:
        yield f"{prefix}.twin_of", entry.twin_of
    yield f"{prefix}.validation.{entry.validation_metric}", _score_text(entry.validation_metric, entry.validation_score)
    yield f"{prefix}.dataset", f"{entry.dataset_name} {entry.dataset_sha256}"
    yield f"{prefix}.teacher", entry.teacher_sha256 or _untaught_text(entry.validation_metric)
    for number, one in enumerate(entry.adapted or ()):
        yield f"{prefix}.adapted.{number}", f"from {adapted_text(one)}"
    yield f"{prefix}.golden", f"{len(golden.labels)} windows, {int(golden.judge.sum())} of them only judge"
    if entry.group_reference is not None and entry.group_reference.magnitude:
        yield f"{prefix}.magnitude", magnitude_text(entry.group_reference.magnitude)
    if entry.normal:
        yield f"{prefix}.normal", normal_text(entry.normal)
    if entry.over_time:
        yield f"{prefix}.over_time", over_time_text(entry.over_time)
    for artifact in entry.artifacts:
        parity, confidence = artifact.parity, artifact.confidence
        match = f"within {parity.max_abs_error:.2g} of the checkpoint (tolerance {parity.tolerance:.2g})"
        labels = f"labels agree on {parity.label_agreement:.1%}"
        value = f"{artifact.size_bytes} bytes, opset {artifact.opset}, {match}, {labels}, {artifact.sha256}"
        yield artifact.file, value
        if confidence is not None:
            count = len(confidence.true_probabilities)
            value = f"temperature {confidence.temperature:g}, label sets from {count} calibration windows"
            yield f"{artifact.file}.confidence", value
        if artifact.novelty:
            yield f"{artifact.file}.novelty", novelty_text(artifact.novelty)


def _report_facts(bundle: Bundle) -> _Rows:
    try:
        report = read_report(bundle)
    except BundleError:  # a report of another version does not make the bundle unsound
        return
    yield "platform", report.platform
    for one, entry in zip((report, *report.others), bundle.manifest.models, strict=False):
        prefix = "" if one is report else f"{entry.name}."
        if one.twin_text:
            yield f"{prefix}twin", one.twin_text
        yield f"{prefix}checkpoint", one.student.checkpoint_sha256
        if isinstance(one.range_rule, str):
            yield f"{entry.name}.range_from", one.range_rule
        for artifact in one.artifacts:
            if artifact.gate is not None:
                yield f"{prefix}gate.{artifact.precision}", gate_summary(artifact.gate)


def _checkpoint_facts(path: Path) -> _Rows:
    header, tensors, sha256 = _read_checkpoint(path)
    metadata = header.get("__metadata__", {})
    kind = next((name for name in ("student", "teacher") if name in metadata), None)
    if kind is None:
        raise CheckpointError(f"{path}: expected a checkpoint of mmkd-edge, got a safetensors file of another program")
    check_content(path, content_digest(tensors, str(metadata[kind]).encode()), written=metadata.get(CONTENT_KEY))
    try:
        document: dict[str, Any] = json.loads(metadata[kind])
        facts, config, task = document["facts"], document["config"], msgspec.convert(document["task"], TaskSpec)
        yield "kind", f"{kind} checkpoint, its content verified"
        yield "sha256", sha256
        yield "content_sha256", metadata[CONTENT_KEY]
        for modality in [document["modality"]] if kind == "student" else document["modalities"]:
            spec = msgspec.convert(modality, ModalitySpec)
            yield f"{spec.name}.window", _window_text(spec)
            yield from _derivation(spec, spec.name)
        yield "labels", labels_text(task)
        values = sum(math.prod(tensor.shape) for tensor in tensors if tensor.name.startswith(f"{kind}/"))
        yield "size", f"{config['preset']}, {values:,} values in its tensors"
        if kind == "student":
            features = [
                f"{sum(group['features'] for group in config['convolutions']['groups'])} convolutional features"
                for _ in range("convolutions" in config)
            ]
            features += [f"{config['trees']['trees']} trees" for _ in range("trees" in config)]
            yield "student_members", ", ".join([*config.get("members", ["transformer"]), *features])
        if committee := document.get("committee"):
            yield "members", ", ".join(member["kind"] for member in committee["members"])
        yield from _training_facts(facts)
        if portable := document.get("portable"):
            yield "portable", f"{', '.join(portable['config']['members'])}, validation {portable['score']:.4f}"
        if kind == "student":
            yield from _student_facts(facts, {tensor.name: tensor.shape for tensor in tensors})
        for name, version in sorted(facts["versions"].items()):
            yield f"made_with.{name}", version
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its metadata lacks {error}; it was altered or made by another version"
        ) from error


def _training_facts(facts: Mapping[str, Any]) -> _Rows:
    yield f"validation.{facts['metric']}", _score_text(facts["metric"], facts["score"])
    yield "best_step", str(facts["best_step"])
    yield "dataset", f"{facts['dataset']} {facts['dataset_sha256']}"
    fold = facts.get("fold", "not stated")
    yield "trained_on", f"fold {fold}" if isinstance(fold, int) else fold or "the dataset's own split"
    if labelled := facts.get("labelled"):
        groups = labelled["groups"]
        yield "labelled", f"{labelled['fraction']:.0%} of the windows" if groups is None else f"{groups} whole groups"
    yield "licence", facts["licence"] or "not stated"
    if start := facts.get("started_from"):
        yield "started_from", f"teacher {start}"


def _student_facts(facts: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> _Rows:
    hashes = [facts["teacher_sha256"], *facts.get("further_teachers_sha256", ())]
    yield "teacher", ", ".join(one for one in hashes if one) or _untaught_text(facts["metric"])
    for number, one in enumerate(facts.get("adapted", ())):
        yield f"adapted.{number}", f"from {adapted_text(msgspec.convert(one, Adapted))}"
    yield "carried_windows", str(shapes.get("carried/windows", (0,))[0])
    scores = shapes.get("novelty/scores")
    yield "novelty", f"scores of {scores[0]} validation windows" if scores else "none"


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], list[TensorContent], str]:
    start = LENGTH_BYTES + int.from_bytes(read_start(path), "little")
    data = path.read_bytes()
    content = memoryview(data)[start:]
    try:
        header: dict[str, Any] = json.loads(data[LENGTH_BYTES:start])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        expected = start + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if len(data) != expected:
            raise CheckpointError(
                f"{path}: expected {expected} bytes, got {len(data)}; copy it again from where it was made"
            )
        tensors = [
            TensorContent(
                name=name,
                dtype=f"torch.{_DTYPES[entry['dtype']]}",
                shape=tuple(entry["shape"]),
                data=content[entry["data_offsets"][0] : entry["data_offsets"][1]],
            )
            for name, entry in entries.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a checkpoint of mmkd-edge, got a damaged or foreign file") from error
    return header, tensors, hashlib.sha256(data).hexdigest()


def _engine_facts(sidecar_path: Path) -> _Rows:
    sidecar = read_sidecar(sidecar_path)
    engine = sidecar_path.with_name(sidecar.engine)
    if not engine.is_file():
        raise ArtifactError(f"{engine}: expected the engine of {sidecar_path.name}, found no such file; build it again")
    digest = hashlib.sha256(engine.read_bytes()).hexdigest()
    if digest != sidecar.engine_sha256:
        raise ArtifactError(
            f"{engine}: expected SHA-256 {sidecar.engine_sha256}, got {digest}; do not load it, build it again"
        )
    yield "kind", "engine, its hash verified"
    yield "model_id", sidecar.model_id
    yield "engine", f"{sidecar.engine}, {sidecar.size_bytes} bytes"
    yield "sha256", sidecar.engine_sha256
    yield "built_from", f"{sidecar.artifact} {sidecar.onnx_sha256}"
    yield "bundle", sidecar.bundle_sha256
    yield "precision", sidecar.precision
    yield "library", f"{sidecar.library} {sidecar.library_version}"
    yield "platform", f"{sidecar.platform}, {sidecar.architecture}"
    gpu = engine_device(sidecar)
    yield (
        "device",
        "any of its kind: built ahead of time"
        if gpu is None
        else f"{gpu.name}, compute capability {gpu.compute_capability}, CUDA {gpu.cuda_runtime}",
    )
    yield "key", sidecar.key
    for name, shape in sidecar.shapes.items():
        yield f"input.{name}", " x ".join(map(str, shape))
