"""Frozen sizes and choices of networks and training.

Owns the presets. Everything here is a `msgspec.Struct`, because checkpoints store it as JSON.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from mmkd_edge.errors import UsageError

MemberKind = Literal["transformer", "rocket", "trees"]
MEMBERS: tuple[MemberKind, ...] = get_args(MemberKind)
"""What can be a member of a committee; transformers come first."""

Preset = Literal["tiny", "small", "medium", "base"]

StudentKind = Literal["transformer", "rocket", "hybrid"]

FRAME = 256
"""Of every preset: windows of at most 1,024 samples are taken whole."""

_STUDENTS = {"tiny": (48, 4, 2), "small": (88, 4, 2), "medium": (152, 8, 3), "base": (256, 8, 4)}
"""Width, heads and depth."""

_TEACHERS = {"tiny": (64, 4, 2, 1), "small": (96, 4, 2, 2), "medium": (128, 8, 3, 2), "base": (192, 8, 4, 2)}
"""Width, heads, depth, and layers of the fusion."""


_ROCKET_FEATURES = {"tiny": 336, "small": 504, "medium": 1008, "base": 2016}
"""Most convolutional features that a student keeps, of 2,016 that are drawn: a tenth or two do (Detach-ROCKET, G.
Uribarri, F. Barone, A. Ansuini, E. Fransen, 2024, arXiv 2309.14518)."""

MOST_POSITIONS = 1024
"""That a kernel looks at: a share of so many is known within 1.6 points, and FP16 still counts them one by one."""

_ROCKET_POSITIONS = {"tiny": 100}
"""Where a size looks at fewer. Every third of 200 and 240 positions costs 0.4 ± 0.6 points of balanced accuracy, and
saves a `tiny` student 6 to 27 % of its time, by engine."""


class EncoderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size of one modality's encoder.

    Attributes:
        width: D, the model width; a multiple of `heads`.
        heads: H, attention heads.
        feedforward_ratio: hidden width of the feed-forward layer divided by D.
        most_tokens: the stem halves the time axis until at most this many tokens are left.
        dropout: probability, in training only.
        frame: samples of the longest frame of the spectrum. A window of more than four is long: its spectrum is a mean
            over frames and its stem begins with a wide stride, so that both grow with the window and not with its
            square. None takes every window whole, as checkpoints do that do not name it.
        movement: whether a window is also seen about its own mean, in units of how much windows usually move: where
            levels differ between runs by a hundred times that, nothing else shows small movements. Windows that are
            taken whole have it; long ones and causal students do not.
        late_change: whether of frames of 64 pixels and more what changed is seen in small maps of them, and not in
            their pixels: a third of the time on a device.

    Raises ValueError where the sizes describe no network.
    """

    width: int
    heads: int
    depth: int
    feedforward_ratio: int = 2
    spectrum_bands: int = 24
    most_tokens: int = 32
    dropout: float = 0.1
    frame: int | None = None
    movement: bool = False
    late_change: bool = False

    def __post_init__(self) -> None:
        """Refuses sizes that describe no network, wherever they come from."""
        sizes = [self.width, self.heads, self.depth, self.feedforward_ratio, self.spectrum_bands, self.most_tokens]
        sizes += [] if self.frame is None else [self.frame]
        if min(sizes) < 1 or self.width % self.heads or not 0 <= self.dropout < 1:
            raise ValueError("expected sizes >= 1, a width that is a multiple of heads, and a dropout in [0, 1)")


class RocketGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Convolutional features that share a dilation.

    Attributes:
        dilation: samples between two weights of a kernel.
        padded: whether the kernels reach over the ends of the window, where they read the mean of the training.
        features: how many there are.

    Raises ValueError where the numbers describe no features.
    """

    dilation: int
    padded: bool
    features: int

    def __post_init__(self) -> None:
        """Refuses numbers that describe no features, wherever they come from."""
        if min(self.dilation, self.features) < 1:
            raise ValueError("expected a dilation and a number of features >= 1")


class RocketConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which convolutional features of a window are computed.

    Attributes:
        stride: samples between two positions of a kernel; above 1 where windows have more samples than it looks at.
    """

    groups: tuple[RocketGroup, ...]
    stride: int = 1

    def __post_init__(self) -> None:
        """Refuses what describes no features, wherever it comes from."""
        if not self.groups or self.stride < 1:
            raise ValueError("expected groups of features and a stride >= 1")

    @property
    def features(self) -> int:
        """Gives the number of features."""
        return sum(group.features for group in self.groups)


# Defaults are left out, so that a windowed student is described as it always was.
class StudentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A student: one encoder, convolutional features or both, and a head.

    Attributes:
        encoder: of the transformer; a student of the kind rocket has none.
        causal: whether no token sees what comes after it, so that a stream computes only what is new.
        rocket: the convolutional features; None in a transformer, and before a training has drawn them.

    Raises ValueError where the parts are not those of the kind.
    """

    preset: str
    encoder: EncoderConfig
    causal: bool = False
    kind: StudentKind = "transformer"
    rocket: RocketConfig | None = None

    def __post_init__(self) -> None:
        """Refuses parts that the kind does not have, wherever they come from."""
        if self.kind == "transformer" and self.rocket is not None:
            raise ValueError("expected no convolutional features in a transformer")
        if self.kind != "transformer" and self.causal:
            raise ValueError(f"expected a windowed student of the kind {self.kind}")


class TeacherConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A teacher: one encoder per modality, `fusion_depth` cross-attention layers, a head.

    Attributes:
        fusion_depth: layers in which each modality queries the others.
        modality_dropout: probability in training that one modality of a window is hidden (never the last one).
    """

    preset: str
    encoder: EncoderConfig
    fusion_depth: int
    modality_dropout: float = 0.2


def preset_named(name: str, *, option: str) -> Preset:
    """Gives the preset of that name.

    Raises UsageError where there is none; the message names the command's `option`.
    """
    chosen: Preset = choice(name, get_args(Preset), option=option)
    return chosen


def choice(value: str, allowed: tuple[str, ...], *, option: str) -> Any:
    """Gives the value back where it is one of `allowed`; else UsageError names the command's `option`."""
    if value not in allowed:
        raise UsageError(f"{option}: expected one of {', '.join(allowed)}, got {value!r}; choose one of them")
    return value


def student_config(preset: Preset, *, causal: bool = False, kind: StudentKind = "transformer") -> StudentConfig:
    """Gives the student of that size: tiny about 60 k, small 200 k, medium 800 k, base 2.7 M parameters.

    Raises UsageError where a student of that kind cannot be causal.
    """
    width, heads, depth = _STUDENTS[preset_named(preset, option="preset")]
    encoder = EncoderConfig(
        width=width, heads=heads, depth=depth, dropout=0.0, frame=FRAME, movement=True, late_change=True
    )
    check_causal(kind, causal=causal)
    return StudentConfig(preset=preset, encoder=encoder, causal=causal, kind=kind)


def check_causal(kind: StudentKind, *, causal: bool) -> None:
    """Raises UsageError where a student of that kind cannot be causal."""
    if causal and kind != "transformer":
        raise UsageError(
            f"--causal: expected a student of the kind transformer, got {kind}, whose features are counted over whole "
            "windows; leave out --causal, or take --kind transformer"
        )


def kind_named(name: str, *, option: str) -> StudentKind:
    """Gives the student kind of that name.

    Raises UsageError where there is none; the message names the command's `option`.
    """
    chosen: StudentKind = choice(name, get_args(StudentKind), option=option)
    return chosen


def rocket_features_of(preset: str) -> int:
    """Gives the most convolutional features that a student of that size keeps; of the teacher's size as of small."""
    return _ROCKET_FEATURES.get(preset, _ROCKET_FEATURES["small"])


def rocket_positions_of(preset: str) -> int:
    """Gives the most positions of a window that a kernel of a student of that size looks at."""
    return _ROCKET_POSITIONS.get(preset, MOST_POSITIONS)


def teacher_config(preset: Preset) -> TeacherConfig:
    """Gives the teacher of that size; its parameters grow with the number of modalities."""
    width, heads, depth, fusion_depth = _TEACHERS[preset_named(preset, option="preset")]
    encoder = EncoderConfig(width=width, heads=heads, depth=depth, frame=FRAME, movement=True, late_change=True)
    return TeacherConfig(preset=preset, encoder=encoder, fusion_depth=fusion_depth)
