"""The arithmetic of a student in INT8, and a student that practises it in float32, with gradients.

Levels are symmetric, zero point 0, one scale per output of a weight; the export uses the same functions. Fake
quantisation: B. Jacob et al., CVPR 2018, section 3. Straight-through gradient: Y. Bengio et al., 2013. Learnt ranges:
S. Esser et al., "Learned Step Size Quantization", ICLR 2020, equations 1 to 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from mmkd_models.networks.student import Student, StudentOutput

TOP = 127  # largest level; of weights also the largest magnitude, as TensorRT's weights never use -128
_BOTTOM = -128  # lowest level of an activation: what QuantizeLinear returns for everything below

NOTHING = 1e-30  # magnitudes up to this count as 0: a scale made from them would be 0 in float32
_CANDIDATES = tuple(0.5 ** (step / 4) for step in range(25))  # fractions of the largest magnitude, down to 1 / 64
_SPEED = 20.0
"""Factor on the learning rate of a range: a factor of 2 must be within reach of a few hundred steps at 2e-4."""

_Array = TypeVar("_Array", bound=Any)  # a NumPy array or a torch tensor


def int8_scales(largest: _Array) -> _Array:
    """Return a 127th of each largest magnitude; 1 / 127 for 0."""
    scales: _Array = (largest + 1.0 * (largest <= NOTHING)) / TOP
    return scales


def int8_levels(values: _Array, scales: _Array, *, lowest: int) -> _Array:
    """Return integers from `lowest` to `TOP`, halves rounded to even as in QuantizeLinear."""
    levels: _Array = (values / scales).round().clip(lowest, TOP)
    return levels


class QuantisedInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tensor that `layers` read in INT8, and its `largest` magnitude. Raises ValueError for no range."""

    layers: tuple[str, ...]
    largest: float

    def __post_init__(self) -> None:
        if not self.layers or not (math.isfinite(self.largest) and self.largest > NOTHING):
            raise ValueError("expected layers and a finite largest magnitude above 0")


class LearntInt8(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result of quantisation-aware distillation."""

    student_sha256: str  # of the checkpoint that it started from
    score: float  # of the INT8 arithmetic on validation, in the metric of the checkpoint's facts
    inputs: tuple[QuantisedInput, ...]

    @property
    def ranges(self) -> dict[str, float]:
        """Largest magnitude of each layer's input."""
        return {layer: entry.largest for entry in self.inputs for layer in entry.layers}


class FakeInt8Student(nn.Module):
    """A student with rounded weights and activations in `groups` of layers that read one tensor.

    Ranges start from raw windows `values` (N, T, C), 0 where missing.
    """

    start: Tensor

    def __init__(self, student: Student, groups: Sequence[Sequence[str]], values: Tensor, present: Tensor) -> None:
        super().__init__()
        self.student = student
        self.groups = tuple(tuple(group) for group in groups)
        self.register_buffer("start", _starting_ranges(student, self.groups, values, present))
        self.moved = nn.Parameter(torch.zeros(len(self.groups)))
        with torch.no_grad():
            for name in self._layers():
                weight = student.get_parameter(f"{name}.weight")
                largest = _least_error(weight.flatten(1), lowest=-TOP).reshape(-1, *[1] * (weight.ndim - 1))
                weight.copy_(weight.clamp(-largest, largest))
        for index, group in enumerate(self.groups):
            for name in group:
                student.get_submodule(name).register_forward_pre_hook(self._quantiser(index))

    def forward(self, values: Tensor, present: Tensor, *, taps: bool = False) -> StudentOutput:
        """Answer as `Student.forward`."""
        weights = {
            f"{name}.weight": fake_weights(self.student.get_parameter(f"{name}.weight")) for name in self._layers()
        }
        output: StudentOutput = torch.func.functional_call(self.student, weights, (values, present), {"taps": taps})
        return output

    @property
    def ranges(self) -> Tensor:
        """(S,) largest magnitude of each tensor."""
        return self.start * (_SPEED * self.moved).exp()

    def _layers(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group)

    def _quantiser(self, index: int) -> Any:
        def quantise(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (fake_activations(inputs[0], self.ranges[index]), *inputs[1:])

        return quantise


def learnt_student(network: FakeInt8Student) -> tuple[dict[str, Tensor], tuple[QuantisedInput, ...]]:
    """Return a student's weights as in INT8, and its activation ranges."""
    state = {name: value.detach().clone() for name, value in network.student.state_dict().items()}
    for name in {name for group in network.groups for name in group}:
        state[f"{name}.weight"] = fake_weights(state[f"{name}.weight"])
    ranges = network.ranges.detach().tolist()
    return state, tuple(
        QuantisedInput(layers=group, largest=largest) for group, largest in zip(network.groups, ranges, strict=True)
    )


def fake_weights(weight: Tensor) -> Tensor:
    """Round weights (n, ...) to the levels of their output's scale, with a straight-through gradient."""
    scales = int8_scales(weight.detach().flatten(1).abs().amax(1)).reshape(-1, *[1] * (weight.ndim - 1))
    rounded = int8_levels(weight.detach(), scales, lowest=-TOP) * scales
    return weight + (rounded - weight).detach()


def fake_activations(values: Tensor, largest: Tensor) -> Tensor:
    """Round and clip activations to the levels of a range.

    With s = largest / 127 and v = x / s: the gradient for x is 1 if -128 <= v <= 127, else 0; for s it is round(v) - v,
    or the clipped level, summed and divided by sqrt(127 N) for N values.
    """
    with torch.autocast(values.device.type, enabled=False):
        x = values.float()
        scale = int8_scales(largest)
        scale = scale.detach() + (scale - scale.detach()) * (1.0 / math.sqrt(TOP * x.numel()))
        steps = (x / scale).clamp(_BOTTOM, TOP)
        levels = int8_levels(x.detach(), scale.detach(), lowest=_BOTTOM)
        return (steps + (levels - steps).detach()) * scale


@torch.no_grad()
def _starting_ranges(student: Student, groups: Sequence[Sequence[str]], values: Tensor, present: Tensor) -> Tensor:
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args: inputs.__setitem__(name, args[0].detach())

    names = [group[0] for group in groups]
    hooks = [student.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    was_training = student.training
    student.eval()(values, present)
    student.train(was_training)
    for hook in hooks:
        hook.remove()
    ranges = torch.stack([_least_error(inputs[name].flatten()[None], lowest=_BOTTOM)[0] for name in names])
    return torch.where(ranges <= NOTHING, 1.0, ranges)  # a tensor that is always 0 is exact with any range


@torch.no_grad()
def _least_error(values: Tensor, *, lowest: int) -> Tensor:
    """(n, M) -> (n,) the largest magnitude of each row whose levels have the least squared error."""
    top, errors = values.abs().amax(1), []
    for fraction in _CANDIDATES:
        scales = int8_scales(fraction * top)[:, None]
        errors.append((int8_levels(values, scales, lowest=lowest) * scales - values).square().mean(1))
    return top * top.new_tensor(_CANDIDATES)[torch.stack(errors).argmin(0)]
