"""Sizes and choices of networks: presets, and structs stored in checkpoints."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from mmkd_edge.errors import UsageError

MemberKind = Literal["transformer", "rocket", "trees"]
MEMBERS: tuple[MemberKind, ...] = get_args(MemberKind)  # kinds of members of a committee; transformers come first

Preset = Literal["tiny", "small", "medium", "base"]
StudentKind = Literal["transformer", "rocket", "hybrid"]

MAX_POSITIONS = 1024
"""Positions of a window that a kernel reads: a proportion is within 1.6 points, and FP16 can count them."""

_STUDENTS = {"tiny": (48, 4, 2), "small": (88, 4, 2), "medium": (152, 8, 3), "base": (256, 8, 4)}
"""Width, heads and depth: about 60 k, 200 k, 800 k and 2.7 M parameters."""

_TEACHERS = {"tiny": (64, 4, 2, 1), "small": (96, 4, 2, 2), "medium": (128, 8, 3, 2), "base": (192, 8, 4, 2)}
"""Width, heads, depth, and layers of the fusion."""

MAX_ROCKET_FEATURES = {"tiny": 336, "small": 504, "medium": 1008, "base": 2016}
"""Most convolutional features of a student, of the 2,016 that are drawn (Detach-ROCKET, arXiv 2309.14518)."""

MAX_ROCKET_POSITIONS = {"tiny": 100}
"""Every third of 200 and 240 positions costs 0.4 ± 0.6 points of balanced accuracy, and saves 6 to 27 % of the time."""


class EncoderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size of a modality's encoder. Raises ValueError for impossible sizes."""

    width: int  # D, a multiple of `heads`
    heads: int
    depth: int
    feedforward_ratio: int = 2  # hidden width of the feed-forward layer divided by D
    spectrum_bands: int = 24
    most_tokens: int = 32  # the stem halves the time axis until at most this many tokens are left
    dropout: float = 0.1
    # samples of the longest frame of the spectrum; a window of more than four is long (`LongFrontEnd`)
    frame: int = 256
    # whether a short window is also seen about its own mean, in units of how much windows usually move: levels
    # that differ between runs by a hundred times that would hide small movements
    movement: bool = False

    def __post_init__(self) -> None:
        sizes = (self.width, self.heads, self.depth, self.feedforward_ratio, self.spectrum_bands, self.most_tokens)
        if min(*sizes, self.frame) < 1 or self.width % self.heads or not 0 <= self.dropout < 1:
            raise ValueError("expected sizes >= 1, a width that is a multiple of heads, and a dropout in [0, 1)")


class RocketGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Convolutional features of one dilation. Raises ValueError for impossible numbers."""

    dilation: int  # samples between two weights of a kernel
    padded: bool  # whether kernels reach over the window's ends, reading the training mean
    features: int  # their number

    def __post_init__(self) -> None:
        if min(self.dilation, self.features) < 1:
            raise ValueError("expected a dilation and a number of features >= 1")


class RocketConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Convolutional features of a window; a kernel reads every `stride`-th position."""

    groups: tuple[RocketGroup, ...]
    stride: int = 1

    def __post_init__(self) -> None:
        if not self.groups or self.stride < 1:
            raise ValueError("expected groups of features and a stride >= 1")

    @property
    def features(self) -> int:
        """Number of features."""
        return sum(group.features for group in self.groups)


class StudentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An encoder, convolutional features or both, and a head. Raises ValueError for other parts."""

    preset: str
    encoder: EncoderConfig  # not used by the kind rocket
    causal: bool = False  # whether no token sees later ones
    kind: StudentKind = "transformer"
    rocket: RocketConfig | None = None  # None in a transformer, and before features are drawn

    def __post_init__(self) -> None:
        if self.kind == "transformer" and self.rocket is not None:
            raise ValueError("expected no convolutional features in a transformer")
        if self.kind != "transformer" and self.causal:
            raise ValueError(f"expected a windowed student of the kind {self.kind}")


class TeacherConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A teacher: one encoder per modality, cross-attention layers, a head."""

    preset: str
    encoder: EncoderConfig
    fusion_depth: int  # layers of cross-attention from each modality to the others
    # probability in training that one modality of a window is hidden (never the last one)
    modality_dropout: float = 0.2


def choice(value: str, allowed: tuple[str, ...], *, option: str) -> Any:
    """Return a value of `allowed`; else raise UsageError, which names the command's `option`."""
    if value not in allowed:
        raise UsageError(f"{option}: expected one of {', '.join(allowed)}, got {value!r}; choose one of them")
    return value


def preset_named(name: str, *, option: str) -> Preset:
    """Return the preset; UsageError names the command's `option`."""
    chosen: Preset = choice(name, get_args(Preset), option=option)
    return chosen


def student_config(preset: Preset, *, causal: bool = False, kind: StudentKind = "transformer") -> StudentConfig:
    """Return a student of that size. Raise UsageError if the kind cannot be causal."""
    width, heads, depth = _STUDENTS[preset_named(preset, option="preset")]
    if causal and kind != "transformer":
        raise UsageError(
            f"--causal: expected a student of the kind transformer, got {kind}, whose features are counted over whole "
            "windows; leave out --causal, or take --kind transformer"
        )
    encoder = EncoderConfig(width=width, heads=heads, depth=depth, dropout=0.0, movement=True)
    return StudentConfig(preset=preset, encoder=encoder, causal=causal, kind=kind)


def teacher_config(preset: Preset) -> TeacherConfig:
    """Return a teacher of that size; parameters grow with modalities."""
    width, heads, depth, fusion_depth = _TEACHERS[preset_named(preset, option="preset")]
    encoder = EncoderConfig(width=width, heads=heads, depth=depth, movement=True)
    return TeacherConfig(preset=preset, encoder=encoder, fusion_depth=fusion_depth)
