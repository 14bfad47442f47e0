"""The target `c`: C sources of one student, for any board with a compiler."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.golden import Golden
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import UsageError, printable
from mmkd_edge.native import NativeModel
from mmkd_edge.native.build import ENGINE, FOLDER
from mmkd_edge.predict.novelty import score_limit, smallest_level
from mmkd_export.plan import only_student

_MAX_WINDOWS = 8
_TEMPLATES = Path(__file__).with_name("c")


def write_c_sources(path: Path) -> Path:
    """Write `<stem>-c` beside a bundle; UsageError without a native artifact, or if the sensor needs a reference."""
    with Bundle.open(path) as bundle:
        entry = only_student(bundle)
        native = [artifact for artifact in entry.artifacts if artifact.format == "native"]
        artifact = min(native, key=lambda artifact: artifact.size_bytes, default=None)
        if artifact is None:
            graph = next(artifact.file for artifact in entry.artifacts if artifact.format == "onnx")
            raise UsageError(
                f"{path}: --target c: expected a native artifact, which series of up to 1,024 samples have; for C at "
                f"onnxruntime's speed run: pip install emx-onnx-cgen && python -m zipfile -e {path} parts && "
                f"emx-onnx-cgen compile parts/{graph} student.c --large-weight-threshold 0"
            )
        if entry.modality.normalise != "none":
            raise UsageError(
                f"{path}: --target c: a modality normalised per group needs a reference; use the C library"
            )
        tensors, golden, model_id = bundle.read(artifact.file), bundle.golden(entry.name), bundle.manifest.model_id
    folder = path.with_name(f"{path.stem}-c")
    fresh = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    for name in ENGINE:
        (fresh / "engine" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FOLDER / name, fresh / "engine" / name)
    tolerance = max(golden.tolerance, artifact.parity.tolerance)
    facts = _facts(entry, golden, model_id=model_id, tensors=tensors, tolerance=tolerance)
    scores = entry.normal.scores if entry.normal else artifact.novelty.scores if artifact.novelty else ()
    texts = _texts(facts | _unknown_facts(entry, scores), is_derived=bool(entry.modality.derived))
    for name, text in texts.items():
        (fresh / name).write_text(text, encoding="utf-8")
    for name in ("Makefile", "start.c", "board.ld"):
        shutil.copyfile(_TEMPLATES / name, fresh / name)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return folder


def _facts(entry: ModelEntry, golden: Golden, *, model_id: str, tensors: bytes, tolerance: float) -> dict[str, object]:
    modality, task, recorded = entry.modality, entry.task, entry.modality.recorded
    low, high = modality.range or (-3.4e38, 3.4e38)
    windows = golden.windows[:_MAX_WINDOWS].astype(np.float32)
    scratch = NativeModel(tensors).scratch_bytes
    kinds = {"classification": "probabilities", "regression": "the value"}
    kinds["multi_label"] = f"probabilities; a label is on from {task.on_from:g}"
    if entry.normal:
        kinds["normal"] = f"the score; above {score_limit(entry.normal):.6g} a window is unlike normal ones"
    return {
        "model_id": _comment(model_id),
        "samples": modality.samples,
        "channels": len(modality.channels),
        "outputs": task.outputs,
        "unit": _comment(modality.unit or "raw values"),
        "rate": f"{modality.rate_hz:g}",
        "recorded": _comment(recorded.name),
        "recorded_samples": recorded.samples,
        "recorded_channels": len(recorded.channels),
        "recorded_rate": f"{recorded.rate_hz:g}",
        "low": _number(low),
        "high": _number(high),
        "answers": kinds[task.kind],
        "labels": ", ".join(map(_text, task.labels[: task.outputs])),
        "names": ", ".join(map(_text, modality.channels)),
        "scratch": -(-scratch // 4),
        "bytes": len(tensors),
        "count": len(windows),
        "windows": _words(windows),
        "expected": _words(golden.probabilities[:_MAX_WINDOWS]),
        "tolerance": _number(tolerance),
        "tensors": _words(np.frombuffer(tensors + b"\0" * (-len(tensors) % 4), dtype="<u4")),
    }


def _unknown_facts(entry: ModelEntry, scores: Sequence[float]) -> dict[str, object]:
    """Return what decides whether a window is unknown."""
    limits, normal = entry.group_reference.magnitude if entry.group_reference else None, entry.normal
    exact = np.array(scores or [0.0])
    rounded = exact.astype(np.float32)  # down: as many of them are at least a score in float32
    rounded = np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    sizes = f"not {limits.lowest:.2g} to {limits.highest:.2g} times the usual" if limits else "infinite"
    novelty = "the score" if normal else "distance from the training windows"
    least = smallest_level((normal.groups if normal else 0) or len(scores))
    return {
        "scores": len(scores),
        "scores_are": f"{'scores of normal' if normal else 'novelty of validation'} windows",
        "score_values": ", ".join(map(_number, rounded.tolist())),
        "novelty": novelty if normal or entry.has_novelty else "0, this student has none",
        "level": f"{normal.level if normal else 0:g}",
        "levels": f"Levels from {least:g} on count." if scores else "There are no scores.",
        "sizes": f"its size is {sizes}",
        "usual": ", ".join(map(_number, limits.usual if limits else [1.0] * len(entry.modality.channels))),
        "lowest": _number(limits.lowest if limits else 0.0),
        "highest": _number(limits.highest if limits else 3.4e38),
    }


def _texts(facts: dict[str, object], *, is_derived: bool) -> dict[str, str]:
    suffixes = {"recorded_": "RECORDED_", "_recorded": "_recorded"}
    parts = {f"recorded_{kind}": _fill_template(f"recorded.{kind}", facts) if is_derived else "" for kind in "hc"}
    facts = facts | parts | {name: text if is_derived else "" for name, text in suffixes.items()}
    names = ("student.h", "student.c", "test.c", "loop.c", "tensors.c", "windows.c")
    return {name: _fill_template(name, facts) for name in names}


def _fill_template(name: str, facts: dict[str, object]) -> str:
    return Template((_TEMPLATES / name).read_text(encoding="utf-8")).substitute(facts)


def _words(values: NDArray[np.float32] | NDArray[np.uint32]) -> str:
    """Return the words of floats' bits: exact with any compiler."""
    rows = np.ascontiguousarray(values).view(np.uint32).ravel()
    lines = (", ".join(f"0x{word:08x}" for word in rows[at : at + 10]) for at in range(0, len(rows), 10))
    return "\n" + ",\n".join(lines) + "\n"


def _number(value: float) -> str:
    text = repr(float(value))
    return text if "." in text or "e" in text else f"{text}.0"


def _text(text: str) -> str:
    """Return a text as a string literal."""
    escaped = "".join(
        f"\\{byte:03o}" if byte in b'"\\?' or not 32 <= byte < 127 else chr(byte) for byte in text.encode()
    )
    return f'"{escaped}"'


def _comment(text: str) -> str:
    """Return a text that ends no comment, also with trigraphs and spliced lines."""
    return printable(re.sub(r"[*\\?]", lambda match: f"\\x{ord(match[0]):02x}", text))
