"""A student that computes as its INT8 graph will, in float32 and with gradients.

Values are rounded to the levels that INT8 has and stay float32 ("fake quantisation": B. Jacob et al., "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3). Rounding passes
gradients straight through (Y. Bengio et al., 2013), and the ranges of activations are learnt (S. Esser et al., "Learned
Step Size Quantization", ICLR 2020, equations 1 to 3, with their gradient scale). Owns this wrapper; the arithmetic is
`mmkd_models.networks.int8`'s, and the caller says which layers take part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_models.networks.int8 import BOTTOM, NOTHING, TOP, QuantisedInput, levels_of, scales_of
from mmkd_models.networks.student import Student, StudentOutput

_CANDIDATES = tuple(0.5 ** (step / 4) for step in range(25))  # shares of the largest magnitude, down to 1 / 64
_SPEED = 20.0
"""How much faster a range moves than a weight: Adam moves both by about the learning rate a step, a range on a
logarithmic scale, where a factor of 2 shall be within reach of a few hundred steps at 2e-4."""


class FakeInt8Student(nn.Module):
    """A student whose chosen layers read rounded activations and have rounded weights.

    Args:
        student: the trained student; its weights are what is trained further.
        groups: names of the layers that compute in INT8, those that read one tensor together.
        values: (N, T, C) raw windows, 0 where missing, that the ranges start from.
    """

    start: Tensor

    def __init__(self, student: Student, groups: Sequence[Sequence[str]], values: Tensor, present: Tensor) -> None:
        super().__init__()
        self.student = student
        self.groups = tuple(tuple(group) for group in groups)
        start = _starting_ranges(student, self.groups, values, present)
        self.register_buffer("start", start)
        self.moved = nn.Parameter(torch.zeros(len(self.groups)))
        with torch.no_grad():
            for name in self._layers():
                weight = student.get_parameter(f"{name}.weight")
                weight.copy_(_clipped_weights(weight))
        for index, group in enumerate(self.groups):
            for name in group:
                student.get_submodule(name).register_forward_pre_hook(self._quantiser(index))

    def forward(self, values: Tensor, present: Tensor, *, taps: bool = False) -> StudentOutput:
        """Classifies a batch of windows; as `Student.forward`."""
        weights = {
            f"{name}.weight": fake_weights(self.student.get_parameter(f"{name}.weight")) for name in self._layers()
        }
        output: StudentOutput = torch.func.functional_call(self.student, weights, (values, present), {"taps": taps})
        return output

    @property
    def ranges(self) -> Tensor:
        """(S,) the largest represented magnitude of each tensor."""
        return self.start * (_SPEED * self.moved).exp()

    def _layers(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group)

    def _quantiser(self, index: int) -> Any:
        def quantise(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (fake_activations(inputs[0], self.ranges[index]), *inputs[1:])

        return quantise


def learnt_student(network: FakeInt8Student) -> tuple[dict[str, Tensor], tuple[QuantisedInput, ...]]:
    """Gives a student's weights, and the ranges of its activations.

    The weights are those that INT8 computes with, so that the float32 graph differs from the INT8 one by the rounding
    of activations alone. Rounding them again changes nothing.
    """
    state = {name: value.detach().clone() for name, value in network.student.state_dict().items()}
    layers = {name for group in network.groups for name in group}
    for name in layers:
        state[f"{name}.weight"] = fake_weights(state[f"{name}.weight"])
    ranges = network.ranges.detach().tolist()
    return state, tuple(
        QuantisedInput(layers=group, largest=largest) for group, largest in zip(network.groups, ranges, strict=True)
    )


def fake_weights(weight: Tensor) -> Tensor:
    """Rounds weights (n, ...) to the levels of their output's scale; the gradient is that of the weights themselves."""
    scales = _weight_scales(weight.detach())
    rounded = levels_of(weight.detach(), scales, lowest=-TOP) * scales
    return weight + (rounded - weight).detach()


def fake_activations(values: Tensor, largest: Tensor) -> Tensor:
    """Rounds and clips activations to the levels of a range.

    With s = largest / 127 and v = x / s: the gradient for x is 1 where -128 <= v <= 127 and 0 where x was clipped;
    for s it is round(v) - v, or the level at which x was clipped, summed and divided by sqrt(127 N) for N values.
    """
    with torch.autocast(values.device.type, enabled=False):
        x = values.float()
        share = 1.0 / math.sqrt(TOP * x.numel())
        scale = scales_of(largest)
        scale = scale.detach() + (scale - scale.detach()) * share
        steps = (x / scale).clamp(BOTTOM, TOP)
        levels = levels_of(x.detach(), scale.detach(), lowest=BOTTOM)
        return (steps + (levels - steps).detach()) * scale


def _weight_scales(weight: Tensor) -> Tensor:
    """(n, 1, ...) scale of each output."""
    largest = weight.flatten(1).abs().amax(1)
    return scales_of(largest).reshape(-1, *[1] * (weight.ndim - 1))


@torch.no_grad()
def _clipped_weights(weight: Tensor) -> Tensor:
    """Clips the weights of each output where that lessens the square error of rounding: training mends the rest."""
    flat = weight.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    best, error = flat, torch.full_like(largest, math.inf)
    for share in _CANDIDATES:
        clipped = flat.clamp(-share * largest, share * largest)
        scales = scales_of(share * largest)
        found = (levels_of(clipped, scales, lowest=-TOP) * scales - flat).square().sum(1, keepdim=True)
        best, error = torch.where(found < error, clipped, best), torch.minimum(found, error)
    return best.reshape(weight.shape)


@torch.no_grad()
def _starting_ranges(student: Student, groups: Sequence[Sequence[str]], values: Tensor, present: Tensor) -> Tensor:
    """(S,) for each tensor the range with the least square error of rounding on these windows."""
    read: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs: read.__setitem__(name, inputs[0].detach())

    first = [group[0] for group in groups]
    hooks = [student.get_submodule(name).register_forward_pre_hook(keep(name)) for name in first]
    was_training = student.training
    try:
        student.eval()(values, present)
    finally:
        student.train(was_training)
        for hook in hooks:
            hook.remove()
    return torch.stack([_least_error(read[name]) for name in first])


def _least_error(values: Tensor) -> Tensor:
    top = values.abs().amax()
    if float(top) <= NOTHING:
        return torch.ones_like(top)  # a tensor that is always 0 is exact with any range
    errors: list[Tensor] = []
    for share in _CANDIDATES:
        scale = scales_of(share * top)
        errors.append((levels_of(values, scale, lowest=BOTTOM) * scale - values).square().mean())
    best: Tensor = top * _CANDIDATES[int(torch.stack(errors).argmin())]
    return best
