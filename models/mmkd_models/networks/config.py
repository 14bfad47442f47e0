"""Sizes and choices of networks: presets, and structs stored in checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import msgspec

from mmkd_edge.errors import UsageError

MemberKind = Literal["transformer", "convolutions", "intervals", "trees"]
MEMBERS: tuple[MemberKind, ...] = get_args(MemberKind)  # in their order everywhere
PORTABLE_MEMBERS: tuple[MemberKind, ...] = ("transformer", "convolutions")  # every engine runs them
TEACHERS_MEMBERS = tuple(kind for kind in MEMBERS if kind != "intervals")

Preset = Literal["tiny", "small", "medium", "base"]

MAX_POSITIONS = 1024
"""Positions of a window that a kernel reads: a proportion is within 1.6 points, and FP16 can count them."""

_STUDENTS = {"tiny": (48, 4, 2), "small": (88, 4, 2), "medium": (152, 8, 3), "base": (256, 8, 4)}
"""Width, heads and depth: about 60 k, 200 k, 800 k and 2.7 M parameters."""

_TEACHERS = {"tiny": (64, 4, 2, 1), "small": (96, 4, 2, 2), "medium": (128, 8, 3, 2), "base": (192, 8, 4, 2)}
"""Width, heads, depth, and layers of the fusion."""

MAX_TREES, MAX_NODES = 1024, 1 << 18

MAX_FEATURES = {"tiny": 336, "small": 504, "medium": 1008, "base": 2016}
"""Most convolutional features of a student, of the 2,016 that are drawn (Detach-ROCKET, arXiv 2309.14518)."""

PRESET_POSITIONS = {"tiny": 100}
"""Every third of 200 and 240 positions costs 0.4 ± 0.6 points of balanced accuracy, and saves 6 to 27 % of the time."""


class EncoderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size of a modality's encoder."""

    width: int  # D, a multiple of `heads`
    heads: int
    depth: int
    feedforward_ratio: int = 2  # hidden width divided by D
    spectrum_bands: int = 24
    most_tokens: int = 32  # the stem halves time to at most this many
    dropout: float = 0.1
    frame: int = 256  # samples of the spectrum's longest frame; a window of more than four is long (`LongFrontEnd`)
    # whether a short window is also seen about its mean, in units of usual movement, which large levels would hide
    movement: bool = False

    def __post_init__(self) -> None:
        sizes = (self.width, self.heads, self.depth, self.feedforward_ratio, self.spectrum_bands, self.most_tokens)
        if min(*sizes, self.frame) < 1 or self.width % self.heads or not 0 <= self.dropout < 1:
            raise ValueError("expected sizes >= 1, a width that is a multiple of heads, and a dropout in [0, 1)")


class ConvolutionGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Convolutional features of one dilation."""

    dilation: int  # samples between two weights of a kernel
    padded: bool  # whether kernels reach over the window's ends, reading the training mean
    features: int  # their number

    def __post_init__(self) -> None:
        if min(self.dilation, self.features) < 1:
            raise ValueError("expected a dilation and a number of features >= 1")


class ConvolutionsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Convolutional features of a window; a kernel reads every `stride`-th position."""

    groups: tuple[ConvolutionGroup, ...]
    stride: int = 1

    def __post_init__(self) -> None:
        if not self.groups or self.stride < 1:
            raise ValueError("expected groups of features and a stride >= 1")

    @property
    def features(self) -> int:
        """Number of features."""
        return sum(group.features for group in self.groups)


class TreesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of a forest."""

    trees: int
    nodes: int
    leaves: int  # different rows of leaves

    def __post_init__(self) -> None:
        if not 1 <= self.trees <= MAX_TREES or not self.trees <= self.nodes <= MAX_NODES or self.leaves < 1:
            raise ValueError(f"expected 1 to {MAX_TREES} trees, up to {MAX_NODES} nodes for all, and leaves")


class StudentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A student's members and sizes."""

    preset: str
    encoder: EncoderConfig  # used by a transformer alone
    causal: bool = False  # whether no token sees later ones
    members: tuple[MemberKind, ...] = ("transformer",)  # in the order of MEMBERS
    convolutions: ConvolutionsConfig | None = None  # None before features are drawn
    trees: TreesConfig | None = None  # None before they are grown
    components: int = 0  # of normal windows' features, in a task `normal`

    def __post_init__(self) -> None:
        if not self.members or self.members != in_order(self.members):
            raise ValueError(f"expected members among {named(MEMBERS)}, in this order and once each")
        for kind, sizes in (("convolutions", self.convolutions), ("trees", self.trees)):
            if sizes is not None and kind not in self.members:
                raise ValueError(f"expected no {kind} in a student of {named(self.members)}")
        if self.causal and self.members != ("transformer",):
            raise ValueError(f"expected a windowed student of {named(self.members)}")

    @property
    def has_intervals(self) -> bool:
        """Whether a member reads the features of intervals."""
        return "intervals" in self.members or "trees" in self.members


class TeacherConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A teacher: one encoder per modality, cross-attention layers, a head."""

    preset: str
    encoder: EncoderConfig
    fusion_depth: int  # layers of cross-attention
    modality_dropout: float = 0.2  # probability that training hides a modality of a window, never the last one


def choice(value: str, allowed: tuple[str, ...], *, option: str) -> Any:
    """Return a value of `allowed`; else raise UsageError, which names the command's `option`."""
    if value not in allowed:
        raise UsageError(f"{option}: expected one of {', '.join(allowed)}, got {value!r}; choose one of them")
    return value


def preset_named(name: str, *, option: str) -> Preset:
    """Return the preset of this name."""
    chosen: Preset = choice(name, get_args(Preset), option=option)
    return chosen


def in_order(members: Iterable[str]) -> tuple[MemberKind, ...]:
    """Return the members once each, in their order."""
    given = set(members)
    return tuple(kind for kind in MEMBERS if kind in given)


def named(members: Iterable[str]) -> str:
    """Return members in a text."""
    return ", ".join(members)


def student_members(text: str, *, option: str = "--members") -> tuple[MemberKind, ...]:
    """Return the members of an option, such as `transformer,trees`."""
    return in_order(choice(name.strip(), MEMBERS, option=option) for name in text.split(","))


def student_config(
    preset: Preset, *, causal: bool = False, members: tuple[MemberKind, ...] = ("transformer",)
) -> StudentConfig:
    """Return a student of that size."""
    width, heads, depth = _STUDENTS[preset_named(preset, option="preset")]
    if causal and members != ("transformer",):
        raise UsageError(
            f"--causal: expected the member transformer alone, got {named(members)}, whose features are counted over "
            "whole windows; leave out --causal, or give --members transformer"
        )
    encoder = EncoderConfig(width=width, heads=heads, depth=depth, dropout=0.0, movement=True)
    return StudentConfig(preset=preset, encoder=encoder, causal=causal, members=members)


def teacher_config(preset: Preset) -> TeacherConfig:
    """Return a teacher of that size."""
    width, heads, depth, fusion_depth = _TEACHERS[preset_named(preset, option="preset")]
    encoder = EncoderConfig(width=width, heads=heads, depth=depth, movement=True)
    return TeacherConfig(preset=preset, encoder=encoder, fusion_depth=fusion_depth)
