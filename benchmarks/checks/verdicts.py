"""Whether Python and C open the same files: mutants of what both read, with right hashes."""

from __future__ import annotations

import ctypes
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from checks.mutations import mutated_bytes
from mmkd_edge import Bundle, EdgePredictor, MmkdError
from mmkd_edge.bundle import archive
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.manifest import MANIFEST_FILE, Manifest, member_files
from mmkd_edge.bundle.manifest_json import encode_manifest
from mmkd_edge.bundle.reference import Commissioned, write_reference
from mmkd_edge.native import library
from mmkd_edge.predict.commissioning import machine_reference

KINDS = ("manifest", "golden", "native", "sidecar", "derivation")
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 1.0, 0.5, -0.5, 1e308, 10**16, 1 << 31, "", "x", "acc", "\u202eabc", "a\nb"),
    *([], [1.0], [2.0, 1.0], ["x", "x"], {}, {"x": 1}, "0" * 64),
)
REASONS = (
    (
        "Python",
        "modality.derived: (derived sensor|expected the text)",
        "C derives by the native file, and reads no texts",
    ),
    ("Python", "failed to step: it gave NaN", "Python takes a step at opening, C at the first samples"),
    ("Python", "expected 1 to 64 letters", "C knows no letters beyond ASCII, and takes them all"),
    ("C", "answers for series alone", "Python runs any modality by the engines that it has"),
    ("C", "is normalised per group: expected reference_mean", "C needs the reference at opening, Python to answer"),
    ("C", "has another derivation", "Python derives by the manifest, and does not read the native file's derivation"),
)
"""Who alone refuses, by which message, and why that is right."""


def python_refusal(path: Path, *, reference: Path | None = None, tests: bool = False) -> str:
    """Return why Python does not open a bundle with the native engine; empty if it does."""
    try:
        with EdgePredictor.open(path, backend="native", reference=reference, selftest=False) as predictor:
            if tests:
                predictor.selftest()
    except MmkdError as error:
        return str(error).replace(str(path), "BUNDLE").replace(str(reference), "SIDECAR")
    return ""


def c_refusal(path: Path, *, reference: Path | None = None, tests: bool = False) -> str:
    """Return why the C library does not open a bundle and its students; empty if it does."""
    engine, said, size = library(), ctypes.create_string_buffer(400), 400
    bundle, where = ctypes.c_void_p(), str(path).encode()
    status = engine.mmkd_open_file(where, ctypes.byref(bundle), said, size)
    for student in range(engine.mmkd_students(bundle) if status == 0 else 0):
        predictor, options = ctypes.c_void_p(), ctypes.create_string_buffer(bytes([student]), 128)
        # Of the options the first field is the student; the others are zero, their defaults.
        if reference is not None:
            status = status or engine.mmkd_commission_file(bundle, student, str(reference).encode(), said, size)
        status = status or engine.mmkd_predictor_open(bundle, options, ctypes.byref(predictor), said, size)
        engine.mmkd_predictor_close(predictor)
    engine.mmkd_close(bundle)
    if tests:
        status = status or engine.mmkd_selftest_file(where, None, said, size)
    return (said.value.decode(errors="replace") or f"status {status}") if status else ""


def compare(path: Path, *, reference: Path | None = None, tests: bool = False) -> str:
    """Return who opens a file; `BAD` if one alone does, without a reason."""
    ours, theirs = (each(path, reference=reference, tests=tests) for each in (python_refusal, c_refusal))
    if bool(ours) == bool(theirs):
        return "both refuse" if ours else "both open"
    who, said = ("Python", ours) if ours else ("C", theirs)
    for name, pattern, reason in REASONS:
        if name == who and re.search(pattern, said):
            return f"only {who} refuses: {reason}"
    return f"BAD: only {who} refuses: {re.sub('[0-9]+', '0', said)[:200]}"


class Mutants:
    """Writes mutants of one kind of a bundle beside it."""

    def __init__(self, bundle: Path, kind: str, folder: Path) -> None:
        self.kind, self.path, self.reference = kind, folder / "mutant.edge", None
        with Bundle.open(bundle) as opened:
            self.manifest = opened.manifest
            self.members = {entry.file: opened.read(entry.file) for entry in member_files(opened.manifest)}
        self.entry = self.manifest.models[0]
        if kind == "sidecar":
            self.path, self.reference = bundle, folder / "mutant.json"
            self.sidecar = sidecar_of(bundle, folder / "sidecar.json")

    def compare(self, dice: random.Random) -> str:
        """Write a mutant and return who opens it."""
        self.write(dice)
        return compare(self.path, reference=self.reference, tests=self.kind in ("golden", "native"))

    def write(self, dice: random.Random) -> None:
        """Write a mutant."""
        if self.reference is not None:
            self.reference.write_bytes(mutated_json(self.sidecar, dice))
        elif self.kind in ("manifest", "derivation"):
            inside = ("models", 0, "modality") if self.kind == "derivation" else ()
            document = mutated_json(encode_manifest(self.manifest), dice, inside=inside)
            write_rehashed(self.path, document, self.manifest, self.members)
        else:
            entry = self.entry
            native = next(one for one in entry.artifacts if (one.format, one.precision) == ("native", "fp32"))
            changed: Any = entry.golden if self.kind == "golden" else native
            mutate = mutated_golden if self.kind == "golden" else mutated_bytes
            data = mutate(self.members[changed.file], dice)
            fresh = msgspec.structs.replace(changed, sha256=new_sha256(data).hexdigest(), size_bytes=len(data))
            artifacts = tuple(fresh if one is changed else one for one in entry.artifacts)
            golden = fresh if changed is entry.golden else entry.golden
            model = msgspec.structs.replace(entry, artifacts=artifacts, golden=golden)
            manifest = msgspec.structs.replace(self.manifest, models=(model, *self.manifest.models[1:]))
            write_rehashed(self.path, encode_manifest(manifest), manifest, self.members | {changed.file: data})


def sidecar_of(bundle: Path, path: Path) -> bytes:
    """Return the sidecar of a machine that runs as the bundle's golden windows."""
    with EdgePredictor.open(bundle, backend="native") as predictor, Bundle.open(bundle) as opened:
        entry, golden = predictor.entry, opened.golden(predictor.entry.name)
        scores = [one.score for one in predictor.predict_batch(golden.windows) if one.score is not None]
    facts: dict[str, Any] = {"source": "csv:log", "ended_utc": "2026-11-30T00:00:00Z", "minutes": 4.0, "unlike": 0.5}
    machine = Commissioned(model_id="m", student_sha256=entry.golden.sha256, **facts)
    write_reference(path, machine_reference(entry, scores, period_s=2.0, commissioned=machine))
    return path.read_bytes()


def write_rehashed(path: Path, document: bytes, manifest: Manifest, members: dict[str, bytes]) -> None:
    """Write a bundle with these bytes as its manifest, whatever they are, and right hashes."""
    files = {MANIFEST_FILE: document} | {entry.file: members[entry.file] for entry in member_files(manifest)}
    body, headers = archive.archive_body(files)
    comment = b"mmkd-edge sha256 " + new_sha256(body).hexdigest().encode()
    path.write_bytes(body + archive.end_record(headers, comment=comment))


def mutated_json(data: bytes, dice: random.Random, *, inside: tuple[Any, ...] = ()) -> bytes:
    """Return a document with a value replaced, removed, added, doubled or moved; one in eight with other bytes."""
    if dice.random() < 0.125:
        return mutated_bytes(data, dice)
    document = json.loads(data)
    part = document
    for step in inside:
        part = part[step]
    for _ in range(dice.choice((1, 1, 1, 2))):
        node, key = dice.choice(list(places(part)) or [(document, "more")])
        _change(node, key, dice)
    text = json.dumps(document, indent=dice.choice((None, 2)), ensure_ascii=dice.random() < 0.5)
    if dice.random() < 0.05:
        text = re.sub(r'"(\w+)": ', r'"\1": 1, "\1": ', text, count=1)
    return text.encode("utf-8", "surrogatepass")


def _change(node: Any, key: Any, dice: random.Random) -> None:
    what, value = dice.randrange(6), dice.choice(_VALUES)
    if what == 0:
        del node[key]
    elif what == 1 and isinstance(node, dict):
        node[dice.choice(("more", "name", "\u00e4"))] = value
    elif what == 1:
        node.append(node[key])
    elif what == 2 and isinstance(node[key], int | float):
        node[key] = dice.choice((-node[key], node[key] + 1, node[key] * 2, float(node[key]), int(node[key])))
    elif what == 3 and isinstance(node[key], list):
        dice.shuffle(node[key])
    elif what == 3 and isinstance(node[key], str):
        node[key] = dice.choice((node[key] + "x", node[key][:-1], node[key].upper(), " " + node[key]))
    else:
        node[key] = value


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container inside a document with each of its keys."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(pairs):
        yield node, key
        yield from places(value)


def mutated_golden(data: bytes, dice: random.Random) -> bytes:
    """Return golden windows with a value, type, shape or name changed; one in four with other bytes."""
    if dice.random() < 0.25:
        return mutated_bytes(data, dice)
    with np.load(io.BytesIO(data)) as loaded:
        arrays = {f"{name}.npy": loaded[name] for name in loaded.files}
    name, what = dice.choice(list(arrays)), dice.randrange(8)
    array = arrays[name] = np.array(arrays[name])
    if what < 3 and array.size:
        flat = array.reshape(-1)
        with np.errstate(all="ignore"):
            flat[dice.randrange(flat.size)] = (
                dice.choice((0, 1, 7))
                if array.dtype.kind != "f"
                else dice.choice((np.nan, np.inf, -np.inf, 0.0, 1e-3, 1e30, -1.0))
            )
    elif what == 3:
        arrays[name] = array.astype(dice.choice(("<f8", "<f4", ">f4", "<i8", "u1", "<f2", "?")))
    elif what == 4:
        arrays[name] = (
            dice.choice((array[:1], array[:0], array[None], array.reshape(-1))) if array.ndim else array[None]
        )
    elif what == 5:
        arrays[dice.choice(("more.npy", "tolerance.npy", "novelty.npy"))] = arrays.pop(name)
    elif what == 6:
        arrays[name] = np.asfortranarray(array)
    else:
        arrays["more.npy"] = array
    return npz_bytes(arrays)


def npz_bytes(arrays: dict[str, Any]) -> bytes:
    """Return arrays as golden windows are stored."""
    files = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        files[name] = buffer.getvalue()
    body, headers = archive.archive_body(files)
    return body + archive.end_record(headers, comment=b"")
