"""A student as a `.native` file for `mmkd_edge.native`. Layout: mmkd_edge/native/src/model.c."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.derive import derivation_plan
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.preprocess import within_float32
from mmkd_edge.spec import Derivation, ModalitySpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmkd_models.networks.causal import CausalEncoder
    from mmkd_models.networks.convolutions import ConvolutionFeatures
    from mmkd_models.networks.encoder import Encoder
    from mmkd_models.networks.layers import TokenPooling
    from mmkd_models.networks.student import ExportStudent, Student

_MAGIC, _LANES, _ALIGNED, _NAME_BYTES = b"MMKDNAT1", 16, 64, 256
_HEADER_BYTES, _ENTRY, _ENTRY_BYTES = 16, "<24s6IQ", 56
_KINDS = {"float32": 0, "int32": 1, "uint8": 2, "int8": 3}
_TASKS = ("classification", "multi_label", "regression", "normal")
Array = NDArray[Any]
Named = Iterator[tuple[str, Array]]


def native_file(network: ExportStudent, modality: ModalitySpec) -> bytes:
    """Return a `.native` file; raise UsageError if the engine does not support the network."""
    from mmkd_models.networks.encoder import Encoder
    from mmkd_models.networks.fronts.series import FrontEnd

    student = network.student
    encoder = student.encoder
    if modality.kind != "series":
        raise UsageError(f"modality {modality.name!r}: the native engine takes series, got {modality.kind}")
    if isinstance(encoder, Encoder) and not isinstance(encoder.front, FrontEnd):
        raise UsageError(
            f"modality {modality.name!r}: the native engine takes windows of at most 1,024 samples, got "
            f"{modality.samples}; use another backend"
        )
    return pack_tensors(dict(_tensors(network, student, modality)))


def int8_weights(file: bytes) -> bytes:
    """Return a `.native` file whose matrices are int8 with a scale per column; that of novelty stays."""
    tensors: dict[str, Array] = {}
    for number in range(struct.unpack_from("<I", file, 8)[0]):
        text, kind, _, rows, columns, _, _, start = struct.unpack_from(
            _ENTRY, file, _HEADER_BYTES + number * _ENTRY_BYTES
        )
        name, dtype = text.rstrip(b"\0").decode(), np.dtype(list(_KINDS)[kind]).newbyteorder("<")
        values = np.frombuffer(file, dtype, rows * columns, start).reshape(rows, columns)
        layer = name.removesuffix(".w")
        is_kept = layer == "novelty" and tensors["sizes"][0, 3] != _TASKS.index("normal")
        if name in ("t.basis", "t.pooling") or (layer != name and rows > 1 and not is_kept):
            scale = np.abs(values).max(axis=0, keepdims=True) / 127
            values = np.rint(values / np.where(scale > 0, scale, 1)).astype(np.int8)
            tensors[f"{layer}.s"] = scale
        tensors[name] = values
    return pack_tensors(tensors)


def _tensors(network: ExportStudent, student: Student, modality: ModalitySpec) -> Named:
    from mmkd_models.networks.trees import TREES_DTYPES

    encoder, convolutions, intervals, trees = student.encoder, student.convolutions, student.intervals, student.trees
    width = student.head.in_features
    novelty = {} if network.novelty is None else dict(network.novelty.named_buffers())
    if student.residual is not None:  # its tensors have the names of novelty's
        scale, zeros = student.residual.scale, student.residual.scale.new_zeros(1)
        novelty = {"weight": student.residual.components * scale.sqrt(), "bias": zeros}
        novelty |= {"middle": zeros.expand(width), "squares": scale.expand(width)}
    centres = novelty["weight"].shape[1] if novelty else 0
    outputs, answer = student.head.out_features, student.answer
    sizes = [*modality.shape, outputs, _TASKS.index(answer.kind)]
    sizes += [encoder is not None, convolutions is not None, centres]
    sizes.append(0 if intervals is None else 1 if trees is None else 3)
    target = [float(answer.mean), float(answer.std)] if answer.kind == "regression" else [0.0, 1.0]
    yield "sizes", _whole([sizes])
    yield "modality", np.frombuffer(modality.name.encode().ljust(_NAME_BYTES, b"\0"), dtype=np.uint8)[None]
    yield "scales", np.array([[network.sharpness, *target]], dtype=np.float32)
    if encoder is not None:
        yield from _transformer(encoder, student.pool)
    if convolutions is not None:
        yield from _convolutions(convolutions)
    if intervals is not None:
        names = ("mean", "scale", "basis", "feature_mean", "feature_scale")
        yield from intervals_tensors(*(_numpy(intervals.get_buffer(name)) for name in names), depth=intervals.depth)
    if trees is not None:
        yield from trees_tensors(*(trees.get_buffer(name).numpy() for name in TREES_DTYPES), scale=float(trees.scale))
    if modality.derived:
        yield from derivation_tensors(modality.derived)
    yield from _linear("head", student.head)
    if novelty:
        yield "novelty.w", _columns(novelty["weight"])
        yield "novelty.b", _columns(novelty["bias"].expand(1, centres))
        yield "novelty.middle", _row(novelty["middle"])
        yield "novelty.squares", _row(novelty["squares"])


def _transformer(encoder: Encoder | CausalEncoder, pool: TokenPooling) -> Named:
    from torch import nn, ones_like

    from mmkd_models.networks.causal import CausalEncoder

    causal = isinstance(encoder, CausalEncoder)
    front: Any = encoder.inner if isinstance(encoder, CausalEncoder) else encoder.front
    movement = not causal and front.has_movement
    blocks: list[Any] = list(encoder.blocks)
    convolutions = [layer for layer in encoder.stem if isinstance(layer, nn.Conv1d)]
    width, heads, hidden = (
        pool.norm.normalized_shape[0],
        blocks[0].attention.heads,
        blocks[0].feedforward.up.out_features,
    )
    bins, taps = (1, front.taps) if causal else (front.spectrum_basis.shape[1] // 2, 0)
    sizes = [width, heads, len(blocks), hidden, len(convolutions), front.bands, bins, movement, causal, taps]
    yield "t.sizes", _whole([sizes])
    yield "t.mean", _row(front.mean)
    yield "t.scale", _row(1 / front.std.double())
    yield "t.movement", _row(front.std / front.movement if movement else ones_like(front.std))
    yield "t.stem", _whole([[layer.stride[0], layer.out_channels] for layer in convolutions])
    for number, layer in enumerate(convolutions):
        weight = layer.weight.permute(2, 1, 0).reshape(-1, layer.out_channels)  # (kernel * channels, out)
        yield f"t.stem{number}.w", _columns(weight)
        yield f"t.stem{number}.b", _columns(layer.bias[None])  # type: ignore[index]
    yield from _linear("t.spectrum", encoder.spectrum)
    yield from _linear("t.statistics", encoder.statistics)
    if isinstance(encoder, CausalEncoder):
        yield "t.filters", _columns(front.filters)
        yield "t.relative", _numpy(encoder.relative.flatten(0, 1))
    else:
        yield "t.basis", _columns(front.spectrum_basis)
        yield "t.pooling", _columns(front.spectrum_bands)
        yield "t.position", _numpy(encoder.position)
    for number, block in enumerate(blocks):
        yield from _norm(f"t.{number}.n1", block.norm_attention)
        yield from _norm(f"t.{number}.n2", block.norm_feedforward)
        yield from _linear(f"t.{number}.project", block.attention.project)
        yield from _linear(f"t.{number}.out", block.attention.out)
        yield from _linear(f"t.{number}.up", block.feedforward.up)
        yield from _linear(f"t.{number}.down", block.feedforward.down)
    yield from _norm("t.norm", pool.norm)
    yield from _linear("t.mix", pool.mix)


def _convolutions(convolutions: ConvolutionFeatures) -> Named:
    from torch import cat

    kernels: list[list[int]] = []
    channels: list[int] = []
    slopes, last, number = [], None, 0
    for config, group in zip(convolutions.config.groups, convolutions.groups, strict=True):
        for weight in group.get_buffer("weight").double().numpy():  # (C, 9) of a feature
            reads = np.flatnonzero(np.abs(weight).max(axis=1))
            slope = -weight[reads[0]].min()
            places = np.flatnonzero(weight[reads[0]] > 0)
            key = config.dilation, config.padded, tuple(reads), tuple(places)
            if key != last:
                start = [config.dilation, config.padded, number, 0, *places, len(channels), len(reads)]
                kernels.append([int(value) for value in start])
                channels.extend(int(channel) for channel in reads)
                last = key
            kernels[-1][3] += 1
            slopes.append(slope)
            number += 1
    yield "c.sizes", _whole([[len(kernels), number, convolutions.config.stride, len(channels)]])
    yield "c.mean", _row(convolutions.mean)
    yield "c.scale", _row(1 / convolutions.std.double())
    yield "c.slope", np.array([slopes], dtype=np.float32)
    yield "c.offset", _row(cat([group.get_buffer("bias") for group in convolutions.groups]))
    yield "c.feature_mean", _row(convolutions.feature_mean)
    yield "c.feature_scale", _row(1 / convolutions.feature_std.double())
    yield "c.kernel", _whole(kernels)
    yield "c.channel", _whole([channels])


def intervals_tensors(
    mean: Array, scale: Array, basis: Array, feature_mean: Array, feature_scale: Array, *, depth: int
) -> Named:
    """Yield the tensors of interval features; `basis` is (T, 2 bins), cosines before sines."""
    bins, features = basis.shape[1] // 2, feature_mean.size
    yield "i.sizes", _whole([[depth, bins, features, 0]])
    rows = {"mean": mean, "scale": scale, "feature_mean": feature_mean, "feature_scale": feature_scale}
    for name, values in rows.items():
        yield f"i.{name}", np.reshape(values, (1, -1)).astype(np.float32)
    yield "i.basis", pad_rows(basis.astype(np.float32))


def trees_tensors(
    roots: Array, feature: Array, threshold: Array, left: Array, right: Array, leaves: Array, *, scale: float
) -> Named:
    """Yield the tensors of trees in the arrays of `mmkd_models.networks.trees`, whose nodes are in pre-order."""
    inner = feature >= 0
    number = np.where(inner, np.cumsum(inner) - 1, -1 - left)  # of a node, or below 0 of a leaf
    bits = threshold.astype(np.float32).view(np.int32)
    nodes = [feature[inner], bits[inner], number[left[inner]], number[right[inner]]]
    yield "f.sizes", _whole([[len(roots), len(nodes[0]), len(leaves)]])
    yield "f.scale", np.array([[scale]], dtype=np.float32)
    yield "f.roots", _whole([number[roots]])
    yield "f.nodes", np.ascontiguousarray(np.stack(nodes, axis=1), dtype=np.int32)
    yield "f.leaves", leaves.astype(np.float32)


def derivation_tensors(derivation: Derivation) -> Named:
    """Yield the numbers by which the engine derives a window; without a filter its one coefficient is 1."""
    source, plan = derivation.source, derivation_plan(derivation.text, derivation.source)
    burst = [min(count, plan.samples) for count in plan.burst or (1, 1)]
    sizes = [source.samples, len(source.channels), plan.crop, plan.up, plan.down, plan.half, *burst, plan.bits or 0]
    no_limits = -math.inf, math.inf
    limits = [
        source.rate_hz,
        *map(np.float32, within_float32(*(source.range or no_limits))),
        *(plan.range or no_limits),
    ]
    yield "d.sizes", _whole([sizes])
    yield "d.channels", _whole([plan.channels])
    yield "d.taps", np.frombuffer(derivation.taps, dtype="<f4")[None] if plan.half else np.ones((1, 1), np.float32)
    yield "d.limits", np.array([limits], dtype="<f8").view(np.int32)


def _linear(name: str, layer: nn.Linear) -> Named:
    yield f"{name}.w", _columns(layer.weight.T)
    yield f"{name}.b", _columns(layer.bias[None])


def _norm(name: str, layer: nn.LayerNorm) -> Named:
    yield f"{name}.w", _row(layer.weight)
    yield f"{name}.b", _row(layer.bias)


def _numpy(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().float().numpy())


def _row(tensor: Tensor) -> Array:
    return _numpy(tensor).reshape(1, -1)


def _columns(tensor: Tensor) -> Array:
    return pad_rows(_numpy(tensor))


def pad_rows(values: Array) -> Array:
    """Return rows filled with zeros to whole vectors of the engine."""
    return np.pad(values, ((0, 0), (0, -values.shape[1] % _LANES)))


def _whole(rows: list[Any]) -> Array:
    return np.array(rows, dtype=np.int32)


def pack_tensors(tensors: dict[str, Array]) -> bytes:
    """Return the native file of these tensors."""
    offset = _HEADER_BYTES + _ENTRY_BYTES * len(tensors)
    table, data = [], []
    for name, values in tensors.items():
        start = -(-offset // _ALIGNED) * _ALIGNED
        kind = _KINDS[values.dtype.name]
        table.append(struct.pack(_ENTRY, name.encode(), kind, values.ndim, *values.shape, 0, 0, start))
        data.append(b"\0" * (start - offset) + values.astype(values.dtype.newbyteorder("<")).tobytes())
        offset = start + values.nbytes
    return b"".join([_MAGIC, struct.pack("<II", len(tensors), 0), *table, *data])
