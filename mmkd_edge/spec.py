"""Specs shared by datasets, checkpoints and bundles: modalities, tasks and tensors."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal, TypeVar

import msgspec

ModalityKind = Literal["series", "audio", "video"]
Normalise = Literal["none", "per_group"]
TaskKind = Literal["classification", "multi_label", "regression", "normal"]
COLOURS = (("gray",), ("r", "g", "b"))
"""What the channels of video may be."""
STANDARD_DEVIATIONS = 1000.0
"""From the mean. A rare event lies far out where a channel rests otherwise: one that fills a share p of the samples
1 / sqrt(p) standard deviations (a Bernoulli variable, whose variance is p (1 - p)), 1000 for one in a million."""
MAX_FLOAT32 = 3.4028235e38
T = TypeVar("T")


def stored(default: T) -> T:
    """Return the default of a field that files have in any case, where `omit_defaults` leaves absent ones out."""
    return msgspec.field(default_factory=lambda: default)


class ModalitySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One kind of input with its own sampling.

    A window of `series` is float32 (T, C) in `unit`, of `audio` a waveform (T, C) from -1 to 1; NaN means missing. A
    window of `video` is uint8 (T, H, W, C): `rate_hz` frames a second, and a frame is missing as a whole.

    Attributes:
        channels: for video `gray`, or `r`, `g` and `b`.
        samples: T, the length of one window.
        height: pixels of a video frame, like `width`; else None.
        range: smallest and largest valid raw value; others count as missing.
        normalise: `per_group` if raw values are only comparable after a z-score with the statistics of their group
            (person, machine, session); a device then needs a reference file.
        derived: how it is computed from a recorded modality; None for a recorded one.
        parts: recorded modalities whose channels a joined one has side by side, NaN where a part is missing.
    """

    name: str
    kind: ModalityKind = stored("series")
    channels: tuple[str, ...]
    unit: str = stored("")
    rate_hz: float
    samples: int
    height: int | None = None
    width: int | None = None
    range: tuple[float, float] | None = stored(None)
    normalise: Normalise = stored("none")
    derived: "Derivation | None" = None
    parts: "tuple[ModalitySpec, ...] | None" = None

    @property
    def title(self) -> str:
        """The name for people: `acc@25Hz,8bit` for a derived modality, `acc+gyro` for a joined one."""
        if self.parts:
            return "+".join(part.name for part in self.parts)
        return self.derived.text if self.derived else self.name

    @property
    def sources(self) -> "tuple[ModalitySpec, ...]":
        """The recorded modalities that it is computed from; none if it is recorded."""
        return self.parts or ((self.derived.source,) if self.derived else ())

    @property
    def part_channels(self) -> tuple[slice, ...]:
        """The place of each part's channels among a joined modality's."""
        ends = list(accumulate(len(part.channels) for part in self.parts or ()))
        return tuple(map(slice, [0, *ends], ends))

    @property
    def recorded(self) -> "ModalitySpec":
        """The recorded modality, with the samples that a derived window takes; itself if it is recorded."""
        derived = self.derived
        return msgspec.structs.replace(derived.source, samples=derived.samples) if derived else self

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, C) of one window; video (T, H, W, C)."""
        if isinstance(self.height, int) and isinstance(self.width, int):
            return (self.samples, self.height, self.width, len(self.channels))
        return (self.samples, len(self.channels))

    @property
    def presence_shape(self) -> tuple[int, int]:
        """(T, C) of a window's presence; video (T, 1)."""
        return (self.samples, 1 if self.kind == "video" else len(self.channels))

    @property
    def dtype(self) -> Literal["float32", "uint8"]:
        """A window's dtype, from caller to engine."""
        return "uint8" if self.kind == "video" else "float32"

    @property
    def duration_s(self) -> float:
        """Length of one window."""
        return self.samples / self.rate_hz


class Derivation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a derived modality is computed; see `mmkd_edge.derive`.

    `text` says it: `acc@25Hz,8bit`. It takes the newest `samples` of a window of `source`. `taps` are the anti-alias
    filter's coefficients, float32, little-endian.
    """

    source: ModalitySpec
    text: str
    samples: int
    taps: Annotated[bytes, msgspec.Meta(max_length=1 << 18)] = b""


class ReplayedRecording(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What windows of one modality are cut from: rows float32 (n, C) in its unit; unknown facts are empty."""

    rows: Any  # NDArray[np.float32], which no start evaluates
    name: str = ""
    label: str = ""
    group: str = ""
    split: str = ""


def frames_fault(modality: ModalitySpec) -> tuple[str, str] | None:
    """Return key and fault of a modality's frames, or None."""
    for key in ("height", "width"):
        pixels = getattr(modality, key)
        if modality.kind != "video" and pixels is not None:
            return key, f"expected none for {modality.kind}, got {pixels}"
        if modality.kind == "video" and (pixels is None or pixels < 1):
            return key, f"expected the pixels of a frame, got {'none' if pixels is None else pixels}"
    if modality.kind != "video":
        return None
    if modality.channels not in COLOURS:
        return "channels", f"expected gray, or r, g, b, for video, got {', '.join(modality.channels)}"
    if modality.range is not None:
        return "range", f"expected none for video, whose values are bytes, got {list(modality.range)}"
    if modality.normalise != "none":
        return "normalise", f"expected 'none' for video, got {modality.normalise!r}"
    return None


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is predicted.

    Attributes:
        kind: `classification`: one of the labels; `multi_label`: each label on or off; `regression`: a number;
            `normal`: how far a window is from normal running.
        labels: in order; a regression's one target; of `normal` the name of normal running, then known faults'.
        unit: a regression's, like `range`, its target's smallest and largest value if known.
        threshold: probability from which a label of `multi_label` is on; None is a half.
    """

    kind: TaskKind = stored("classification")
    labels: tuple[str, ...]
    unit: str | None = None
    range: tuple[float, float] | None = None
    threshold: float | None = None

    @property
    def is_number(self) -> bool:
        """Whether the answer is one number: a regression's, or the score of `normal`."""
        return self.kind in ("regression", "normal")

    @property
    def outputs(self) -> int:
        """Outputs of a network: one for a number, else one per label."""
        return 1 if self.is_number else len(self.labels)

    @property
    def on_from(self) -> float:
        """The probability from which a `multi_label` label is on."""
        return 0.5 if self.threshold is None else self.threshold

    @property
    def on_from_logit(self) -> float:
        """The logit from which a `multi_label` label is on."""
        return math.log(self.on_from / (1 - self.on_from))


def label_dtype(kind: TaskKind) -> Literal["int64", "uint8", "float32"]:
    """Return the dtype of labels: class numbers (N,), labels off or on (N, K), numbers (N,)."""
    match kind:
        case "classification" | "normal":
            return "int64"
        case "multi_label":
            return "uint8"
        case "regression":
            return "float32"


def task_text(task: TaskSpec) -> str:
    """Describe the task: `classes ok, worn`, `labels hot, worn`, `target level in %`, `normal running ok`."""
    names = ", ".join(task.labels)
    match task.kind:
        case "classification":
            return f"classes {names}"
        case "multi_label":
            return f"labels {names}"
        case "regression":
            return f"target {names}{f' in {task.unit}' if task.unit else ''}"
        case "normal":
            return f"normal running {names.replace(', ', ', known faults ', 1)}"


def labels_text(task: TaskSpec) -> str:
    """Return the classes' names; `task_text` for other tasks."""
    return ", ".join(task.labels) if task.kind == "classification" else task_text(task)


def task_fault(task: TaskSpec) -> tuple[str, str] | None:
    """Return key and fault of a task, except the number and names of labels; or None."""
    for key, kind in (("unit", "regression"), ("range", "regression"), ("threshold", "multi_label")):
        if getattr(task, key) is not None and task.kind != kind:
            return key, f"expected none for {task.kind}, got {getattr(task, key)!r}; only {kind} has it"
    if task.kind == "regression" and len(task.labels) != 1:
        return "labels", f"expected the name of one target, got {len(task.labels)}; make one dataset for each target"
    if task.range is not None:
        low, high = task.range
        if not -math.inf < low < high < math.inf:
            return "range", f"expected [low, high] with low below high, got {list(task.range)}; swap or correct it"
    if not 0 < task.on_from < 1:
        return "threshold", f"expected a probability above 0 and below 1, got {task.threshold}; correct it"
    return None


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output tensor of an artifact's graph."""

    name: str
    dtype: Literal["float32", "float16", "int8", "uint8"]
    shape: tuple[int, ...]


def plausible_span(
    mean: Sequence[float], std: Sequence[float], *, seen: Sequence[float] = ()
) -> tuple[float, float] | None:
    """Return the range of a sensor's widest channel, in two digits, rounded outwards; None if it excludes no float32.

    `mean` and `std` are (C,); the range includes the values `seen`.
    """
    reaches = [STANDARD_DEVIATIONS * deviation for deviation in std]
    low = min([centre - reach for centre, reach in zip(mean, reaches, strict=True)] + list(seen))
    high = max([centre + reach for centre, reach in zip(mean, reaches, strict=True)] + list(seen))
    low, high = -_outwards(-low), _outwards(high)
    return (low, high) if -MAX_FLOAT32 < low < high < MAX_FLOAT32 else None


def _outwards(value: float) -> float:
    if value == 0 or not math.isfinite(value):
        return value
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{math.ceil(value / step - 1e-9) * step:.2g}")
