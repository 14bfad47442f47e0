"""Every reader of files that are not trusted, as a function from bytes: it may refuse, and must do nothing else.

Owns which readers these are, what each may raise, and the seeds that mutations start from: files of `tests/files`, and
what is written here for the formats that have none there.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmkd_edge.bundle.bundle import Bundle, decode_signatures
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.golden import golden_from_bytes
from mmkd_edge.bundle.manifest_json import decode_manifest, encode_manifest
from mmkd_edge.errors import MmkdError
from mmkd_edge.install.graphs import check_graph, check_tflite
from mmkd_edge.opening.choice import decode_profile
from mmkd_models.arrays import ArraysError

FILES = Path(__file__).parents[3] / "tests" / "files"
ADDITION = Path(__file__).with_name("addition.tflite")
_TAIL_BYTES = 64

_PROFILE = b"""{"format_version": 1, "bundle_sha256": "%s", "machine": {"cpu": "a", "board": null,
"architecture": "x86_64", "cores": 2}, "created_utc": "2026-01-01T00:00:00+00:00", "libraries": {"onnxruntime": "1"},
"trials": [{"model": "acc", "backend": "ort", "precision": "fp32", "threads": 1, "p50_us": 1.0, "p99_us": 2.0,
"ratio": 1.0, "calls": 9}]}""" % (b"0" * 64)
_SIGNATURE = b'{"format_version": 1, "signatures": [{"key_id": "%s", "ed25519": "%s"}]}' % (b"0" * 16, b"1" * 128)
_KEY = b'{"format_version": 1, "key_id": "%s", "ed25519": "%s"}'
_SLOTS = b"""{"format_version": 1, "highest_release": 3, "current": {"sha256": "%s", "model_id": "a", "release": 3,
"installed_utc": "2026-01-01T00:00:00+00:00", "condition": "good", "reason": ""}, "starting": false}""" % (b"0" * 64)
_SIDECAR = b"""{"format_version": 2, "model_id": "a", "bundle_sha256": "b", "artifact": "acc/model.fp32.onnx",
"onnx_sha256": "a", "precision": "fp32", "engine": "a.engine", "engine_sha256": "a", "size_bytes": 5}"""
_RECIPE = b"""version = 1
[[source]]
modality = "acc"
files = "{machine}.csv"
time = "t"
time_unit = "s"
encoding = "utf-8"
offset_s = 0.5
resample_hz = 20.0
[labels]
path = "machine"
[windows]
length_s = 1.0
stride_s = 0.5
"""
_LOG = b"\n".join([b"t,ax,ay", *(b"%d.%d,%d,0.5" % (number // 10, number % 10, number) for number in range(100))])


@dataclass(frozen=True, kw_only=True)
class FuzzTarget:
    """One reader.

    Attributes:
        read: reads bytes, below a folder of its own.
        refuses: what it may raise.
        seeds: valid files.
    """

    read: Callable[[bytes, Path], object]
    refuses: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]


def _archive(data: bytes, folder: Path) -> None:
    """The hash of the archive is reckoned anew, so that what comes behind it is read too."""
    body, digest = data[:-_TAIL_BYTES], new_sha256(data[: -_TAIL_BYTES - 39]).hexdigest()
    Bundle.open(_written(folder / "a.edge", body + digest.encode())).close()


def _golden(data: bytes, folder: Path) -> None:
    with Bundle.open(FILES / "student.edge") as bundle:
        golden_from_bytes(data, bundle.manifest.models[0])


def _file(function: str, name: str, *, of_folder: bool = False) -> Callable[[bytes, Path], object]:
    """A function `MODULE:NAME`, imported late, of a file of this name, or of its folder."""
    module, _, function = function.partition(":")

    def read(data: bytes, folder: Path) -> object:
        path = _written(folder / name, data)
        return getattr(importlib.import_module(module), function)(path.parent if of_folder else path)

    return read


def _import(recipe: bytes, log: bytes, folder: Path) -> None:
    from mmkd_models.data.importing.from_recipe import import_recipe
    from mmkd_models.data.importing.recipe import read_recipe

    for name, data in (("a.csv", log), ("b.csv", _LOG)):
        _written(folder / name, data)
    import_recipe(read_recipe(_written(folder / "a.toml", recipe)), folder, None)


TARGETS: Mapping[str, FuzzTarget] = {
    "manifest": FuzzTarget(
        read=lambda data, _: decode_manifest(data), refuses=(MmkdError,), seeds=lambda: [_read_member("manifest.json")]
    ),
    "archive": FuzzTarget(read=_archive, refuses=(MmkdError,), seeds=lambda: [(FILES / "student.edge").read_bytes()]),
    "signature": FuzzTarget(
        read=lambda data, _: decode_signatures(data), refuses=(MmkdError,), seeds=lambda: [_SIGNATURE]
    ),
    "profile": FuzzTarget(read=lambda data, _: decode_profile(data), refuses=(ValueError,), seeds=lambda: [_PROFILE]),
    "golden": FuzzTarget(read=_golden, refuses=(MmkdError,), seeds=lambda: [_read_member("acc/golden.npz")]),
    "graph": FuzzTarget(
        read=lambda data, _: check_graph(data, steps=True),
        refuses=(ValueError,),
        seeds=lambda: [_read_member("acc/model.fp32.onnx"), _read_member("acc/step.fp32.onnx", of="causal.edge")],
    ),
    "tflite": FuzzTarget(
        read=lambda data, _: check_tflite(data), refuses=(ValueError,), seeds=lambda: [ADDITION.read_bytes()]
    ),
    "sidecar": FuzzTarget(
        read=_file("mmkd_export.targets.trt:read_sidecar", "a.json"), refuses=(MmkdError,), seeds=lambda: [_SIDECAR]
    ),
    "checkpoint": FuzzTarget(
        read=_file("mmkd_export.inspect.files:inspect_file", "a.ckpt"),
        refuses=(MmkdError,),
        seeds=lambda: [(FILES / "student.ckpt").read_bytes()],
    ),
    "dataset": FuzzTarget(
        read=_file("mmkd_models.data.spec:read_dataset_spec", "dataset.json", of_folder=True),
        refuses=(MmkdError,),
        seeds=lambda: [(FILES / "two" / "dataset.json").read_bytes()],
    ),
    "recipe": FuzzTarget(
        read=lambda data, folder: _import(data, _LOG, folder), refuses=(MmkdError,), seeds=lambda: [_RECIPE]
    ),
    "log": FuzzTarget(
        read=lambda data, folder: _import(_RECIPE, data, folder), refuses=(MmkdError,), seeds=lambda: [_LOG]
    ),
    "calibration": FuzzTarget(
        read=_file("mmkd_models.arrays:read_npz", "a.npz"),
        refuses=(ArraysError,),
        seeds=lambda: [_npz()],
    ),
    "keys": FuzzTarget(
        read=_file("mmkd_edge.install.keys:read_keys", "a.pub", of_folder=True),
        refuses=(MmkdError,),
        seeds=lambda: [_KEY % (b"0" * 16, b"1" * 64)],
    ),
    "slots": FuzzTarget(
        read=_file("mmkd_edge.install.slots:read_slots", "slots.json", of_folder=True),
        refuses=(MmkdError,),
        seeds=lambda: [_SLOTS],
    ),
}
"""Every reader, by the name of what it reads."""


def fault_of(target: FuzzTarget, data: bytes, folder: Path) -> Exception | None:
    """What a reader raised that it may not; None where it read or refused."""
    try:
        target.read(data, folder)
    except target.refuses:
        return None
    except Exception as error:
        return error
    return None


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _read_member(member: str, *, of: str = "student.edge") -> bytes:
    with Bundle.open(FILES / of) as bundle:
        return encode_manifest(bundle.manifest) if member == "manifest.json" else bundle.read(member)


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, x_acc=np.zeros((2, 4, 3), np.float32), y=np.array([0, 1]))
    return file.getvalue()
