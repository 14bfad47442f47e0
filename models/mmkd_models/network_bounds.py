"""Limits of a checkpoint's claimed sizes, checked before a network is built."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from mmkd_edge.bundle.manifest import MAX_LABELS, MAX_WINDOW_VALUES
from mmkd_edge.errors import CheckpointError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.networks.convolutions import claimed_sizes
from mmkd_models.networks.encoder import stem_strides
from mmkd_models.networks.fronts.log_mel import hop_samples
from mmkd_models.networks.fronts.series import is_long

_MAX_MODALITIES = 64
_MAX_PIXELS = 1 << 14
_MAX_CONSTANT_VALUES = 1 << 24  # of one matrix that a network computes
_MAX_SIZES = {"spectrum_bands": 1 << 12, "most_tokens": 1 << 14, "frame": 1 << 11, "feedforward_ratio": 64}


def check_bounds(
    modalities: Sequence[ModalitySpec],
    task: TaskSpec,
    encoder: EncoderConfig | None,
    state: Mapping[str, Tensor],
    *,
    path: Path,
    fusion_depth: int = 0,
    student: StudentConfig | None = None,
) -> None:
    """Raise CheckpointError for sizes that the tensors cannot have, or no machine can build."""
    causal = student is not None and student.causal
    values = sum(tensor.numel() for tensor in state.values())
    claims = {
        "modalities": (len(modalities), _MAX_MODALITIES),
        "labels": (len(task.labels), MAX_LABELS),
        **{f"{m.name}: values of a window": (math.prod(m.shape), MAX_WINDOW_VALUES) for m in modalities},
        **{f"{m.name}: pixels of a side": (max(m.shape[1:3]), _MAX_PIXELS) for m in modalities if m.kind == "video"},
    }
    if student is not None and student.convolutions is not None:
        claims["features"] = (student.convolutions.features, values)
        claims |= claimed_sizes(student.convolutions, modalities[0])
    if student is not None and student.components:
        claims["components"] = (student.components, values)
    if student is not None and student.trees is not None:
        claims |= {"nodes": (student.trees.nodes, values), "leaves": (student.trees.leaves, values)}
    if encoder is not None:
        # Queries, keys, values and their output: 4 x D x D values in each layer of each encoder.
        layers = encoder.depth * len(modalities) + fusion_depth
        claims |= {"layers": (layers, len(state)), "values in attention": (4 * layers * encoder.width**2, values)}
        claims |= {name: (getattr(encoder, name) or 0, most) for name, most in _MAX_SIZES.items()}
    _refuse_larger(claims, path)
    if encoder is not None:  # whose sizes are possible now
        sizes = {m.name: (_constant_values(m, encoder, causal=causal), _MAX_CONSTANT_VALUES) for m in modalities}
        _refuse_larger({f"{name}: values of a constant matrix": size for name, size in sizes.items()}, path)


def _refuse_larger(claims: Mapping[str, tuple[int, int]], path: Path) -> None:
    for name, (claimed, most) in claims.items():
        if claimed > most:
            raise CheckpointError(
                f"{path}: metadata: {name}: expected at most {most}, got {claimed}; the file was altered"
            )


def _constant_values(modality: ModalitySpec, encoder: EncoderConfig, *, causal: bool) -> int:
    positions = max(
        1, modality.samples // max(1, hop_samples(modality)) if modality.kind == "audio" else modality.samples
    )
    stride = math.prod(stem_strides(modality, positions, encoder.most_tokens))
    if causal:
        return 2 * encoder.spectrum_bands * stride
    tokens = -(-positions // stride)
    if modality.kind != "series":
        return positions * tokens
    if is_long(modality.samples, encoder.frame):
        return (2 * encoder.frame) ** 2
    return positions * max(positions, tokens)
