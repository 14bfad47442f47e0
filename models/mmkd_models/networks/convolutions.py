"""MiniRocket features of one modality, as a part of a graph that every engine runs.

A. Dempster, D. F. Schmidt, G. I. Webb, "MiniRocket", KDD 2021 (arXiv 2012.08791): 84 kernels of nine weights -1 and 2,
exponential dilations, biases from output quantiles of one training window, proportion of positive values (PPV).

Differences: the step at the bias is a ramp of a tenth of the output's standard deviation, against rounding; in long
windows a kernel reads every n-th position; it reaches over the ends if it had fewer than three positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import MAX_POSITIONS, ConvolutionGroup, ConvolutionsConfig
from mmkd_models.networks.fronts.as_series import series_view

KERNELS = 84  # the ways to choose three of nine weights (paper, section 3.1)
FEATURES = 2016  # 24 of each kernel; the paper's 9,996 are not significantly better on our sets
_MAX_DILATIONS = 8  # of a kernel; the paper takes up to 32, each one more convolution

LENGTH = 9  # samples of a kernel
_REACH = LENGTH // 2
CLIP = 8.0  # largest value of a series, in standard deviations
_RAMP = 0.1  # width of the ramp, in standard deviations of the output that gave the bias
_MIN_RAMP = 1e-3  # in training standard deviations: FP16 holds the weights divided by it
_MIN_POSITIONS = 3
_CONSTANT = 1e-6  # standard deviation of a constant feature, at most
_GOLDEN = (5**0.5 + 1) / 2
_VIEWED = 32  # windows of sound or video per chunk
_MAX_POSITIONS_READ = 1 << 16  # of a window, in a file
_CHUNK_VALUES = 2**19  # numbers of an intermediate tensor that fit into a cache


class _Group(nn.Module):
    def __init__(self, config: ConvolutionGroup, channels: int) -> None:
        super().__init__()
        # Divided by the ramp; 0 for unread channels.
        self.weight = nn.Buffer(torch.zeros(config.features, channels, LENGTH))
        self.bias = nn.Buffer(torch.zeros(config.features))  # (F,): the ramp rises from 0 to 1 around the drawn bias
        self.reads = nn.Buffer(torch.zeros(config.features, channels))  # that a kernel reads; rows sum to 1


class _Kernels(nn.Module):
    """All kernels of one dilation as one fast convolution: weight (F, C, 9) and bias (F,)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, dilation: int, numbers: Sequence[int], groups: nn.ModuleList) -> None:
        super().__init__()
        self.dilation, self.numbers = dilation, tuple(numbers)
        self.join(groups)

    def join(self, groups: nn.ModuleList) -> None:
        for name in ("weight", "bias"):
            joined = torch.cat([groups[number].get_buffer(name) for number in self.numbers])
            self.register_buffer(name, joined, persistent=False)

    def forward(self, series: Tensor, stride: int) -> Tensor:
        """(B, C, T) -> (B, F, P): 1 above the bias, 0 below, and the ramp between."""
        padding = _REACH * self.dilation
        outputs = F.conv1d(series, self.weight, self.bias, stride=stride, padding=padding, dilation=self.dilation)
        return outputs.clamp(0.0, 1.0)


class ConvolutionFeatures(nn.Module):
    """Raw values and presence of a window -> standardised features.

    Positions count by the fraction of samples at a kernel's centre, unpadded ones not near the ends. Empty windows have
    features 0, the training mean.
    """

    def __init__(self, modality: ModalitySpec, config: ConvolutionsConfig) -> None:
        super().__init__()
        self.view, self.is_series = series_view(modality), modality.kind == "series"
        if not self.is_series:
            self.raw_mean = nn.Buffer(torch.zeros(len(modality.channels)))
            self.raw_std = nn.Buffer(torch.ones(len(modality.channels)))
        samples, channels = self.view.spec.shape
        self.config = config
        self.groups = nn.ModuleList(_Group(group, channels) for group in config.groups)
        neighbours = itertools.groupby(range(len(config.groups)), key=lambda number: config.groups[number].dilation)
        dilations = [(dilation, tuple(numbers)) for dilation, numbers in neighbours]
        self.kernels = nn.ModuleList(_Kernels(dilation, numbers, self.groups) for dilation, numbers in dilations)
        sizes = [sum(config.groups[number].features for number in numbers) for _, numbers in dilations]
        edges = [edge for dilation, _ in dilations for edge in (0, _REACH * dilation)]
        counted = torch.stack([_inside(samples, edge, config.stride) for edge in edges])
        of_dilation = torch.cat([row.expand(size, -1) for row, size in zip(torch.eye(len(sizes)), sizes, strict=True)])
        self.of_dilation = nn.Buffer(of_dilation, persistent=False)  # (F, D) 1 if a feature has a dilation
        self.counted = nn.Buffer(counted[:, None].float(), persistent=False)  # 1 if a position counts, padded and not
        # (F, 2 C) channels that a kernel reads, padded and not
        self.reads: Tensor = nn.Buffer(torch.zeros(config.features, 2 * channels), persistent=False)
        self.register_load_state_dict_post_hook(_join)  # type: ignore[no-untyped-call]
        self.mean = nn.Buffer(torch.zeros(channels))
        self.std = nn.Buffer(torch.ones(channels))
        self.feature_mean = nn.Buffer(torch.zeros(config.features))
        self.feature_std = nn.Buffer(torch.ones(config.features))

    def forward(self, values: Tensor, present: Tensor) -> Tensor:
        """(B, T, C), (B, T, C) -> (B, F), in standard deviations of the training features."""
        proportions, seen = self.proportions(values, present)
        return (proportions - self.feature_mean * seen) / self.feature_std

    def proportions(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C), (B, T, C) -> (B, F) PPV, and 1 if a position counted, else 0."""
        if not self.is_series:
            values, present = self.view((values.to(present.dtype) - self.raw_mean) / self.raw_std, present)
        series = (((values - self.mean) / self.std).clamp(-CLIP, CLIP) * present).transpose(1, 2)
        presence = present[:, :: self.config.stride].transpose(1, 2)[:, None]
        centres = (presence * self.counted).flatten(1, 2)  # (B, 2 D C, P)
        centres_of = torch.split(centres, 2 * series.shape[1], dim=1)
        sums = [
            centre @ kernels(series, self.config.stride).transpose(1, 2)
            for kernels, centre in zip(self.kernels, centres_of, strict=True)
        ]  # (B, 2 C, F) of each dilation
        counts = self.of_dilation @ centres.sum(-1).reshape(len(series), len(centres_of), -1)  # (B, F, 2 C)
        total = (torch.cat(sums, dim=-1) * self.reads.T).sum(1)
        counts = (counts * self.reads).sum(-1)
        return total / counts.clamp(min=1.0), counts.clamp(max=1.0)


def _join(network: ConvolutionFeatures, _: object) -> None:
    for kernels in network.kernels:
        assert isinstance(kernels, _Kernels)
        kernels.join(network.groups)
    channels = len(network.mean)
    network.reads = torch.cat(
        [
            F.pad(group.get_buffer("reads"), (0, channels) if config.padded else (channels, 0))
            for config, group in zip(network.config.groups, network.groups, strict=True)
        ]
    )


def _inside(samples: int, edge: int, stride: int) -> Tensor:
    positions = torch.arange(0, samples, stride)
    return (positions >= edge) & (positions < samples - edge)


def fits_kernels(modality: ModalitySpec) -> bool:
    """Return whether windows, as series, are at least as long as a kernel."""
    return series_view(modality).spec.samples >= LENGTH


def fit_convolutions(
    modality: ModalitySpec,
    values: NDArray[Any],
    present: NDArray[np.float32],
    *,
    scale: tuple[NDArray[np.float32], NDArray[np.float32]],
    seed: int,
    features: int = FEATURES,
    positions: int = MAX_POSITIONS,
) -> ConvolutionFeatures:
    """Draw a modality's features from training windows, without labels. Raise UsageError for short or no windows.

    Values (N, T, C) are raw, 0 where missing; `scale` is mean and standard deviation (C,). The number of `features` is
    rounded down to a multiple of 84; kernels read at most so many `positions`.
    """
    samples = series_view(modality).spec.samples
    if not fits_kernels(modality) or len(values) == 0 or features < KERNELS:
        raise UsageError(
            f"modality {modality.name!r}: convolutions: expected windows of at least {LENGTH} samples, one window or "
            f"more and at least {KERNELS} features, got {samples} samples, {len(values)} windows and {features} "
            "features; take longer windows, or the member transformer"
        )
    rng = np.random.default_rng(seed)
    stride = position_stride(samples, positions)
    seen, presence, mean, std = as_series(modality, values, present, scale)
    series = ((seen - mean) / std).clamp(-CLIP, CLIP) * presence
    presence = presence[:, ::stride].transpose(1, 2)
    levels = itertools.count(1)
    drawn: list[tuple[ConvolutionGroup, dict[str, Tensor]]] = []
    for number, (dilation, quantiles) in enumerate(list_dilations(samples, features // KERNELS, most=_MAX_DILATIONS)):
        inner = int(_inside(samples, _REACH * dilation, stride).sum())
        for first in (number % 2, 1 - number % 2):
            kernels = np.arange(first, KERNELS, 2)
            fractions = [[next(levels) * _GOLDEN % 1.0 for _ in range(quantiles)] for _ in kernels]
            padded = first == number % 2 or inner < _MIN_POSITIONS
            group = ConvolutionGroup(dilation=dilation, padded=padded, features=quantiles * len(kernels))
            state = _draw_kernels(
                series.transpose(1, 2), presence, kernels, group, stride=stride, levels=fractions, rng=rng
            )
            drawn.append((group, state))
    scales = {"mean": mean, "std": std}
    if modality.kind != "series":
        scales |= {f"raw_{name}": torch.from_numpy(part) for name, part in zip(("mean", "std"), scale, strict=True)}
    network = _load_features(modality, [group for group, _ in drawn], [state for _, state in drawn], stride, scales)
    parts = [network.proportions(*batch) for batch in _batches(network, values, present)]
    proportions: NDArray[np.float32] = torch.cat([part for part, _ in parts]).numpy()
    # Leaves out windows without a sample of what a kernel reads.
    known: NDArray[np.bool_] = torch.cat([counted for _, counted in parts]).numpy() > 0
    known |= ~known.any(axis=0)
    std = proportions.std(axis=0, where=known)
    network.feature_mean.copy_(torch.from_numpy(proportions.mean(axis=0, where=known)))
    network.feature_std.copy_(torch.from_numpy(np.where(std > _CONSTANT, std, 1.0)))
    return network


def _load_features(
    modality: ModalitySpec,
    groups: Sequence[ConvolutionGroup],
    states: Sequence[Mapping[str, Tensor]],
    stride: int,
    rest: Mapping[str, Tensor],
) -> ConvolutionFeatures:
    network = ConvolutionFeatures(modality, ConvolutionsConfig(groups=tuple(groups), stride=stride)).eval()
    tensors = {f"groups.{number}.{name}": value for number, state in enumerate(states) for name, value in state.items()}
    network.load_state_dict(network.state_dict() | tensors | dict(rest))
    return network


@torch.no_grad()
def as_series(
    modality: ModalitySpec,
    values: NDArray[Any],
    present: NDArray[np.float32],
    scale: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return windows as series (N, T, C), presence, and the series' mean and standard deviation (C,)."""
    mean, std = (torch.from_numpy(part) for part in scale)
    if modality.kind == "series":
        return torch.from_numpy(values), torch.from_numpy(present), mean, std
    view, parts = series_view(modality), []
    for start in range(0, len(values), _VIEWED):
        window, presence = (torch.from_numpy(part[start : start + _VIEWED]) for part in (values, present))
        parts.append(view((window.float() - mean) / std, presence))
    series, presence = (torch.cat(part) for part in zip(*parts, strict=True))
    count = presence.sum((0, 1)).clamp(min=1.0)
    centre = (series * presence).sum((0, 1)) / count
    spread = (((series - centre) * presence).square().sum((0, 1)) / count).sqrt()
    return series, presence, centre, torch.where(spread > _CONSTANT, spread, 1.0)


def apply_convolutions(
    network: ConvolutionFeatures, values: NDArray[Any], present: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(N, T, C), (N, T, C) -> (N, F) standardised features."""
    with torch.no_grad():
        parts = [network(*batch).numpy() for batch in _batches(network, values, present)]
    return np.concatenate(parts) if parts else np.zeros((0, network.config.features), dtype=np.float32)


def _batches(
    network: ConvolutionFeatures, values: NDArray[Any], present: NDArray[np.float32]
) -> Iterator[tuple[Tensor, Tensor]]:
    positions = network.counted.shape[-1]
    rows = max(1, int(_CHUNK_VALUES / (positions * network.of_dilation.sum(0).max())))
    for start in range(0, len(values), rows):
        yield torch.from_numpy(values[start : start + rows]), torch.from_numpy(present[start : start + rows])


def prune_convolutions(
    network: ConvolutionFeatures, modality: ModalitySpec, keep: Sequence[int] | NDArray[np.int64]
) -> ConvolutionFeatures:
    """Return a network of these features alone, ascending."""
    rows = np.unique(np.asarray(keep, dtype=np.int64))
    groups, states, first = [], [], 0
    for group, part in zip(network.config.groups, network.groups, strict=True):
        mine = torch.from_numpy(rows[(rows >= first) & (rows < first + group.features)] - first)
        first += group.features
        if len(mine):
            groups.append(ConvolutionGroup(dilation=group.dilation, padded=group.padded, features=len(mine)))
            states.append({name: tensor[mine].clone() for name, tensor in part.state_dict().items()})
    rest = {name: value for name, value in network.state_dict().items() if not name.startswith("groups.")}
    rest |= {name: rest[name][rows] for name in ("feature_mean", "feature_std")}
    return _load_features(modality, groups, states, network.config.stride, rest)


def list_dilations(samples: int, features: int, *, most: int) -> list[tuple[int, int]]:
    """Return each dilation with its number of features per kernel (paper, section 3.1).

    Example:
        >>> list_dilations(200, 24, most=8)
        [(1, 6), (2, 3), (3, 3), (6, 3), (9, 3), (15, 3), (24, 3)]
    """
    count = min(features, most)
    longest = np.log2((samples - 1) / (LENGTH - 1))
    exponents = np.linspace(0.0, longest, count)
    dilations, times = np.unique(np.floor(2.0**exponents + 1e-9).astype(np.int64), return_counts=True)
    quantiles = times * features // count
    quantiles[: features - quantiles.sum()] += 1
    return list(zip(dilations.tolist(), quantiles.tolist(), strict=True))


def position_stride(samples: int, positions: int) -> int:
    """Return the samples between two of at most `positions` positions; odd, or even dilations would skip some.

    Example:
        >>> position_stride(200, 200), position_stride(200, 199), position_stride(200, 50)
        (1, 3, 5)
    """
    stride = -(-samples // positions)
    return stride + 1 - stride % 2


def claimed_sizes(config: ConvolutionsConfig, modality: ModalitySpec) -> dict[str, tuple[int, int]]:
    """Return the claimed sizes of a file's features, each with its limit."""
    samples = series_view(modality).spec.samples
    return {
        "groups": (len(config.groups), 2 * _MAX_DILATIONS),
        "dilation": (max(group.dilation for group in config.groups), (samples - 1) // (LENGTH - 1)),
        "stride": (config.stride, samples),
        "positions": (-(-samples // config.stride), _MAX_POSITIONS_READ),
    }


def _draw_kernels(
    series: Tensor,
    present: Tensor,
    kernels: NDArray[np.int64],
    group: ConvolutionGroup,
    *,
    stride: int,
    levels: Sequence[Sequence[float]],
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    count, channels = len(kernels), series.shape[1]
    # A kernel reads 2^u channels, u uniform from 0 to log2 of at most nine, and one.
    chosen = np.zeros((count, channels), dtype=np.float32)
    sizes = (2 ** rng.uniform(0.0, np.log2(min(channels, LENGTH) + 1), size=count)).astype(np.int64)
    for row, size in zip(chosen, sizes, strict=True):
        row[rng.permutation(channels)[:size]] = 1.0
    places = np.array(list(itertools.combinations(range(LENGTH), 3)), dtype=np.int64)[kernels]
    plain = np.full((count, LENGTH), -1.0, dtype=np.float32)  # and 2 at three places
    np.put_along_axis(plain, places, 2.0, axis=1)
    reads = torch.from_numpy(chosen)
    weight = torch.from_numpy(plain)[:, None, :] * reads[:, :, None]  # (n, C, 9)
    reach = _REACH * group.dilation
    inside = _inside(series.shape[-1], 0 if group.padded else reach, stride)
    weights, biases, reading = [], [], []
    for kernel, fractions in enumerate(levels):
        answer = torch.zeros(0)
        for row in rng.permutation(len(series)):
            window, kernels_weight = series[row : row + 1], weight[kernel : kernel + 1]
            output = F.conv1d(window, kernels_weight, stride=stride, padding=reach, dilation=group.dilation)
            answer = output[0, 0][(reads[kernel] @ present[row] > 0) & inside]
            if len(answer):
                break
        width = max(_RAMP * float(answer.std(correction=0)), _MIN_RAMP) if len(answer) else 1.0
        quantiles = torch.quantile(answer, torch.tensor(fractions)) if len(answer) else torch.zeros(len(fractions))
        biases.append(0.5 - quantiles / width)
        weights.append((weight[kernel] / width).expand(len(fractions), -1, -1))
        reading.append((reads[kernel] / reads[kernel].sum()).expand(len(fractions), -1))
    return {"weight": torch.cat(weights), "bias": torch.cat(biases), "reads": torch.cat(reading)}
