"""Tensors and a JSON document in a safetensors file, the only stored state of the training side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import CheckpointError
from mmkd_models.content_hash import CONTENT_KEY, LENGTH_BYTES, TensorContent, check_content, content_digest, read_start

_PICKLE_MARKS = (b"\x80", b"PK\x03\x04")  # a bare pickle (protocol 2+), and the ZIP that torch.save writes
_KINDS = ("student", "teacher", "resume", "answers")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, kind: str, document: bytes) -> None:
    """Write tensors and the JSON `document` (key `kind`) atomically, with the hash of both."""
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(plain, {kind: document.decode()})
    write_file(path, _with_metadata(data, CONTENT_KEY, content_sha256(plain, document)))


def _with_metadata(data: bytes, key: str, value: str) -> bytes:
    """Add a metadata entry to a safetensors file; safetensors itself writes several in random order."""
    start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    header = json.loads(data[LENGTH_BYTES:start])
    header["__metadata__"][key] = value
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + data[start:]


def content_sha256(tensors: Mapping[str, Tensor], document: bytes) -> str:
    """Return the SHA-256 of a checkpoint's content; see `content_digest`."""
    return content_digest((_part(name, tensor.detach().cpu()) for name, tensor in tensors.items()), document)


def _part(name: str, tensor: Tensor) -> TensorContent:
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return TensorContent(name=name, dtype=str(tensor.dtype), shape=tuple(tensor.shape), data=data)


def read_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], bytes]:
    """Return the tensors and the JSON document of a file of that kind; nothing in it is executed.

    Raises UsageError for a missing file, CheckpointError if it is damaged, altered, a pickle or another kind.
    """
    from safetensors import SafetensorError, safe_open

    start = read_start(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copied: a file that is cut short while it is mapped ends the process.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        what = "a safetensors checkpoint of mmkd-edge"
        # Asked only here: a sound safetensors file may start with the same bytes, which are the length of its header.
        if start.startswith(_PICKLE_MARKS):
            raise CheckpointError(
                f"{path}: expected {what}, got a pickle (or a ZIP with one), which could run code when it is read; "
                "it was not read. Train again with mmkd-train or mmkd-distill"
            ) from error
        raise CheckpointError(
            f"{path}: expected {what}, got a damaged or foreign file ({error}); copy it again from where it was made"
        ) from error
    if kind not in metadata:
        got = next((f"a {other} checkpoint" for other in _KINDS if other in metadata), "a file of another program")
        is_teacher = kind == "student" and got.startswith("a teacher")
        cure = "make a student of it with mmkd-distill" if is_teacher else "name the right file"
        raise CheckpointError(f"{path}: expected a {kind} checkpoint, got {got}; {cure}")
    document = metadata[kind].encode()
    check_content(path, content_sha256(tensors, document), written=metadata.get(CONTENT_KEY))
    return tensors, document


def kind_of(path: Path) -> str | None:
    """Return the kind of a file of `write_tensors`, or None for other files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    return next((kind for kind in _KINDS if kind in metadata), None)


def same_tensors(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], *, path: Path | str) -> None:
    """Raise CheckpointError unless names, shapes and dtypes are as expected and values finite."""
    missing = sorted(set(expected) - set(got))
    extra = sorted(set(got) - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"{path}: expected exactly the tensors of its network, got missing {missing[:3]} and unknown {extra[:3]}; "
            "the file was altered or made by another version"
        )
    for name, tensor in expected.items():
        expected_shape, got_shape = (
            f"shape {tuple(each.shape)} of {str(each.dtype).removeprefix('torch.')}" for each in (tensor, got[name])
        )
        if got_shape != expected_shape:
            raise CheckpointError(
                f"{path}: tensor {name!r}: expected {expected_shape}, got {got_shape}; "
                "the file was altered or made by another version"
            )
        if not bool(torch.isfinite(got[name]).all()):
            raise CheckpointError(f"{path}: tensor {name!r}: expected finite values, got NaN or infinity; train again")
