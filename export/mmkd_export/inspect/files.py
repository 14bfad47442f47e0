"""What is inside a checkpoint, a bundle or an engine, as one flat list of facts.

Owns the reading of each kind, by its content and not by its name, and the comparison of two. Runs no model and needs
only what the runtime needs: a checkpoint's tensors are bytes to it, which it counts and verifies.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import open_file, read_exactly
from mmkd_edge.bundle.manifest import Adapted, ModelEntry, adapted_text
from mmkd_edge.errors import ArtifactError, BundleError, CheckpointError, UsageError
from mmkd_edge.predict.novelty import magnitude_text, novelty_text
from mmkd_edge.spec import ModalitySpec, TaskSpec, labels_text
from mmkd_export.plan import is_bundle
from mmkd_export.student import read_report
from mmkd_export.targets.trt import device_of, read_sidecar
from mmkd_export.verify.gate import gate_summary
from mmkd_models.content_hash import CONTENT_KEY, TensorContent, check_content, content_digest
from mmkd_report.schema.export import ExportReport

Facts = dict[str, str]
"""Dotted name to value, in the order in which people read."""

_HEADER_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 16 << 20  # as `mmkd_models.tensors` reads, which needs torch
_DTYPES = {"F32": "float32", "F64": "float64", "I64": "int64", "I32": "int32", "U8": "uint8", "BOOL": "bool"}
"""What checkpoints hold, in the words of safetensors and of torch."""
_SIDECAR_SUFFIX = ".json"


def inspect_file(path: Path) -> Facts:
    """Gives the facts of a bundle, a checkpoint, or an engine or its sidecar; what it says there is verified.

    Raises:
        UsageError: there is no such file, or it is of no kind that is known.
        ArtifactError: it is damaged; the class says which kind.
    """
    descriptor = open_file(path, expected="a bundle, a checkpoint or an engine")
    try:
        start = read_exactly(descriptor, 64, offset=0)
    finally:
        os.close(descriptor)
    if is_bundle(path):
        return dict(_bundle_facts(path))
    if start.lstrip()[:1] == b"{":
        return dict(_engine_facts(path))
    if start[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + 1] == b"{":
        return dict(_checkpoint_facts(path))
    sidecar = path.with_name(path.name + _SIDECAR_SUFFIX)
    if sidecar.is_file():
        return dict(_engine_facts(sidecar))
    raise UsageError(
        f"{path}: expected a bundle, a checkpoint, or an engine with its sidecar beside it; got none of them"
    )


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Gives the facts that differ, with both values; None where one file has no such fact."""
    names = [*one, *(name for name in other if name not in one)]
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def _bundle_facts(path: Path) -> Iterator[tuple[str, str]]:
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        yield "kind", "bundle, every byte verified"
        yield "model_id", manifest.model_id
        yield "size_bytes", str(path.stat().st_size)
        yield "sha256", bundle.sha256
        yield "licence", manifest.licence
        if manifest.release is not msgspec.UNSET:
            yield "release", str(manifest.release)
        signatures = bundle.signatures.signatures if bundle.signatures else ()
        yield "signed_by", ", ".join(f"key {one.key_id}" for one in signatures) or "nobody"
        for entry in manifest.models:
            yield from _model_facts(bundle, entry)
        yield from _report_facts(bundle)
        for name, version in sorted(manifest.tools.items()):
            yield f"made_with.{name}", version


def _window_text(modality: ModalitySpec) -> str:
    what = f"{', '.join(modality.channels)} at {modality.rate_hz:g} Hz"
    if modality.kind == "video":
        return f"{modality.samples} frames of {modality.height} x {modality.width} pixels x {what}"
    return f"{modality.samples} samples{' of sound' if modality.kind == 'audio' else ''} x {what}"


def _model_facts(bundle: Bundle, entry: ModelEntry) -> Iterator[tuple[str, str]]:
    modality, prefix = entry.modality, entry.name
    golden = bundle.golden(entry.name)
    low, high = modality.range if modality.range is not None else (-math.inf, math.inf)
    yield f"{prefix}.window", _window_text(modality)
    yield f"{prefix}.unit", modality.unit or "not stated"
    yield f"{prefix}.range", f"{low:g} to {high:g}"
    yield f"{prefix}.normalise", modality.normalise
    yield f"{prefix}.labels", labels_text(entry.task)
    yield f"{prefix}.size", f"{entry.preset}, {entry.parameters:,} parameters, {entry.mflops:g} MFLOP a window"
    yield f"{prefix}.validation.{entry.validation_metric}", f"{entry.validation_score:.4f}"
    yield f"{prefix}.dataset", f"{entry.dataset_name} {entry.dataset_sha256}"
    yield f"{prefix}.teacher", entry.teacher_sha256 or "none: labels alone taught"
    for number, one in enumerate(entry.adapted or ()):
        yield f"{prefix}.adapted.{number}", f"from {adapted_text(one)}"
    yield f"{prefix}.golden", f"{len(golden.labels)} windows, {int(golden.judge.sum())} of them only judge"
    if entry.group_reference is not None and entry.group_reference.magnitude:
        yield f"{prefix}.magnitude", magnitude_text(entry.group_reference.magnitude)
    for artifact in entry.artifacts:
        parity = artifact.parity
        value = (
            f"{artifact.size_bytes} bytes, opset {artifact.opset}, within {parity.max_abs_error:.2g} of the checkpoint "
            f"(tolerance {parity.tolerance:.2g}), labels agree on {parity.label_agreement:.1%}, {artifact.sha256}"
        )
        yield artifact.file, value
        if artifact.confidence is not None:
            count = len(artifact.confidence.true_probabilities)
            value = f"temperature {artifact.confidence.temperature:g}, label sets from {count} calibration windows"
            yield f"{artifact.file}.confidence", value
        if artifact.novelty:
            yield f"{artifact.file}.novelty", novelty_text(artifact.novelty)


def _report_facts(bundle: Bundle) -> Iterator[tuple[str, str]]:
    try:
        report = read_report(bundle)
    except BundleError:  # a report of another version is for people alone, and the bundle is sound
        return
    yield "platform", report.platform
    for one in (report, *report.others):
        yield from _student_facts(one, prefix="" if one is report else f"{one.student.modality}.")


def _student_facts(report: ExportReport, *, prefix: str) -> Iterator[tuple[str, str]]:
    yield f"{prefix}checkpoint", report.student.checkpoint_sha256
    if isinstance(report.range_rule, str):
        yield f"{report.student.modality}.range_from", report.range_rule
    for artifact in report.artifacts:
        if artifact.gate is not None:
            yield f"{prefix}gate.{artifact.precision}", gate_summary(artifact.gate)
        for run in artifact.backends:
            if run.latency_us is not None:
                yield (
                    f"{prefix}latency.{artifact.precision}.{run.backend}",
                    f"{run.latency_us:g} us on {report.machine}",
                )


def _checkpoint_facts(path: Path) -> Iterator[tuple[str, str]]:
    header, data = _checkpoint_header(path)
    metadata = header.pop("__metadata__", {})
    kind = next((name for name in ("student", "teacher", "teacher-set") if name in metadata), None)
    if kind is None:
        raise CheckpointError(f"{path}: expected a checkpoint of mmkd-edge, got a safetensors file of another program")
    found = content_digest(_parts(header, data, path=path), str(metadata[kind]).encode())
    check_content(path, found, written=metadata.get(CONTENT_KEY))
    try:
        document: dict[str, Any] = json.loads(metadata[kind])
        members: list[dict[str, Any]] = document["facts"] if kind == "teacher-set" else [document["facts"]]
        facts, config, task = members[0], document["config"], msgspec.convert(document["task"], TaskSpec)
        modalities = [document["modality"]] if kind == "student" else document["modalities"]
        yield "kind", f"{kind} checkpoint, its content verified"
        if kind == "teacher-set":
            yield "teachers", f"{len(members)}, each trained without one part of the groups"
            yield f"out_of_fold.{facts['metric']}", f"{document['score']:.4f}"
        yield "sha256", hashlib.sha256(data).hexdigest()
        yield "content_sha256", metadata[CONTENT_KEY]
        for modality in modalities:
            yield f"{modality['name']}.window", _window_text(msgspec.convert(modality, ModalitySpec))
        yield "labels", labels_text(task)
        prefix = "teacher" if kind == "teacher-set" else f"{kind}/"
        yield "size", f"{config['preset']}, {_values(header, prefix):,} values in its tensors"
        if kind == "student":
            yield "student_kind", _student_kind(config)
        yield from _committee_facts(document.get("committee"), facts["metric"])
        yield from _training_facts(facts, members)
        if kind == "student":
            yield from _facts_of_student(facts, header)
        for name, version in sorted(facts["versions"].items()):
            yield f"made_with.{name}", version
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its metadata lacks {error}; it was altered or made by another version"
        ) from error


def _training_facts(facts: Mapping[str, Any], members: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    yield f"validation.{facts['metric']}", ", ".join(f"{member['score']:.4f}" for member in members)
    yield "best_step", ", ".join(str(member["best_step"]) for member in members)
    yield "dataset", f"{facts['dataset']} {facts['dataset_sha256']}"
    fold = facts.get("fold", "not stated")
    yield "trained_on", f"fold {fold}" if isinstance(fold, int) else fold or "the dataset's own split"
    if labelled := facts.get("labelled"):
        groups = labelled["groups"]
        yield "labelled", f"{labelled['share']:.0%} of the windows" if groups is None else f"{groups} whole groups"
    yield "licence", facts["licence"] or "not stated"
    if start := facts.get("started_from"):
        yield "started_from", f"teacher {start}"


def _facts_of_student(facts: Mapping[str, Any], header: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    hashes = [facts["teacher_sha256"], *facts.get("further_teachers_sha256", ())]
    yield "teacher", ", ".join(one for one in hashes if one) or "none: labels alone taught"
    for number, one in enumerate(facts.get("adapted", ())):
        yield f"adapted.{number}", f"from {adapted_text(msgspec.convert(one, Adapted))}"
    carried = header.get("carried/windows", {}).get("shape", [0])
    yield "carried_windows", str(carried[0])
    novelty = header.get("novelty/scores", {}).get("shape")
    yield "novelty", f"scores of {novelty[0]} validation windows" if novelty else "none"


def _student_kind(config: Mapping[str, Any]) -> str:
    """What the student is made of, and of how many convolutional features."""
    kind = str(config.get("kind", "transformer"))
    if "rocket" not in config:
        return kind
    return f"{kind}, {sum(group['features'] for group in config['rocket']['groups'])} convolutional features"


def _committee_facts(committee: dict[str, Any] | None, metric: str) -> Iterator[tuple[str, str]]:
    for number, member in enumerate(committee["members"] if committee else ()):
        worth = f"weight {member['weight']:.2f}, temperature {member['temperature']:.2f}"
        alone = f"{metric} {member['score']:.4f} alone"
        named = f"{member['kind']} of {member['modality']}," if "modality" in member else member["kind"]
        yield f"member.{number}", f"{named} of seed {member['seed']}, {worth}, {alone}"


def _checkpoint_header(path: Path) -> tuple[dict[str, Any], bytes]:
    """The JSON at the beginning of a safetensors file, checked against the file's size, and the whole file."""
    descriptor = open_file(path, expected="a checkpoint of mmkd-edge")
    try:
        length = int.from_bytes(read_exactly(descriptor, _HEADER_LENGTH_BYTES, offset=0), "little")
    finally:
        os.close(descriptor)
    if _MOST_HEADER_BYTES < length < path.stat().st_size:
        raise CheckpointError(
            f"{path}: expected a header of at most {_MOST_HEADER_BYTES} bytes, got {length}; "
            "it is no checkpoint of mmkd-edge, or was altered"
        )
    data = path.read_bytes()
    start = _HEADER_LENGTH_BYTES + int.from_bytes(data[:_HEADER_LENGTH_BYTES], "little")
    try:
        header: dict[str, Any] = json.loads(data[_HEADER_LENGTH_BYTES:start])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a checkpoint of mmkd-edge, got a damaged or foreign file") from error
    expected = start + max(ends, default=0)
    if len(data) != expected:
        raise CheckpointError(
            f"{path}: expected {expected} bytes, got {len(data)}; copy it again from where it was made"
        )
    return header, data


def _parts(header: Mapping[str, Any], data: bytes, *, path: Path) -> list[TensorContent]:
    """The tensors of a safetensors file, whose offsets count from the end of its header."""
    start = _HEADER_LENGTH_BYTES + int.from_bytes(data[:_HEADER_LENGTH_BYTES], "little")
    content = memoryview(data)[start:]
    try:
        return [
            TensorContent(
                name=name,
                dtype=f"torch.{_DTYPES[entry['dtype']]}",
                shape=tuple(entry["shape"]),
                data=content[entry["data_offsets"][0] : entry["data_offsets"][1]],
            )
            for name, entry in header.items()
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path}: expected a checkpoint of mmkd-edge, got a damaged or foreign file") from error


def _values(header: Mapping[str, Any], prefix: str) -> int:
    return sum(int(np.prod(entry["shape"])) for name, entry in header.items() if name.startswith(prefix))


def _engine_facts(sidecar_path: Path) -> Iterator[tuple[str, str]]:
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
    device = device_of(sidecar)
    yield (
        "device",
        "any of its kind: built ahead of time"
        if device is None
        else (f"{device.name}, compute capability {device.compute_capability}, CUDA {device.cuda_runtime}"),
    )
    yield "key", sidecar.key
    for name, shape in sidecar.shapes.items():
        yield f"input.{name}", " x ".join(str(size) for size in shape)
    for name, shapes in sidecar.profiles.items():
        yield f"profile.{name}", ", ".join(" x ".join(str(size) for size in shape) for shape in shapes)
