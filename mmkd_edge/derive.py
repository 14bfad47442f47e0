"""Derived sensors: `acc@25Hz,8bit` is what a cheaper sensor would have recorded in place of `acc`.

`NAME[CHANNEL,...]@PART,...`, where a part is a window (`2s`, the newest of it), a rate (`25Hz`, `5fps`), a frame size
(`64x48`), bursts (`10per2s`: 10 samples every 2 s, the others missing), a converter's bits (`8bit`) or its range
(`-20..20`, beyond which it saturates). They are computed in this order, from one window alone.

The anti-alias filter is a sinc cut off at half the lower of both rates, in a Kaiser window of ten zero crossings a side
and beta 5: `scipy.signal.resample_poly`'s. Samples outside the window and missing ones have no weight, and the others'
weights are scaled to the sum 1; a result is missing if they have less than half of the weight inside the window.

Joined sensors: `acc+gyro` has the channels of both side by side. They are recorded series of one rate and length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.spec import Derivation, ModalitySpec

MAX_BITS = 24  # float32 holds no more
_MOST_NAME, _MOST_TEXT = 64, 256
_CROSSINGS, _BETA = 10, 5.0
_MAX_RATIO = 1600  # of two rates, as whole numbers: the filter then has up to 32,001 coefficients
_NUMBER = r"\d+(?:\.\d+)?"
_PARTS = {  # in the order of a canonical text
    "window": rf"({_NUMBER})(m?s)",
    "rate": rf"({_NUMBER})(k?Hz|fps)",
    "size": r"(\d+)x(\d+)",
    "burst": rf"(\d+)per({_NUMBER})s",
    "bits": r"(\d+)bit",
    "range": rf"(-?{_NUMBER})\.\.(-?{_NUMBER})",
}
_AND = "_and_"  # between the parts of a joined sensor's name
_TEXT = re.compile(r"(?P<name>[^@\[]+)(?:\[(?P<channels>[^\]]*)\])?(?:@(?P<parts>.*))?")


class DerivationPlan(NamedTuple):
    """The numbers of a derived sensor's text."""

    channels: list[int]
    crop: int  # newest samples of the recorded window
    up: int
    down: int
    half: int  # coefficients on each side of the filter's middle one
    samples: int
    size: tuple[int, int] | None  # width, height
    burst: tuple[int, int] | None  # samples, of so many
    bits: int | None
    range: tuple[float, float] | None


def derived_modality(name: str, modalities: Sequence[ModalitySpec]) -> ModalitySpec | None:
    """Return the derived or joined modality of a text or name; None for other sensors, UsageError for a wrong text."""
    recorded = [modality for modality in modalities if not modality.sources]
    is_text = "+" in re.split(r"[@\[]", name)[0]  # a channel may have it
    joined = name.split("+" if is_text else _AND)
    if is_text or (len(joined) > 1 and set(joined) <= {modality.name for modality in recorded}):
        return _join_sensors(joined, recorded)
    for modality in recorded:
        if name.startswith((f"{modality.name}@", f"{modality.name}[")):
            return _derive_modality(name, modality)
        if name.startswith(f"{modality.name}__") and (text := _text_of_name(name, modality)):
            return _derive_modality(text, modality)
    return None


def derivation_fault(modality: ModalitySpec) -> str | None:
    """Return what is wrong with a derived or joined modality that was read from a file, or None."""
    if modality.parts:
        try:
            joined = _join_sensors([part.name for part in modality.parts], [p for p in modality.parts if not p.sources])
        except UsageError as error:
            return str(error)
        is_same = msgspec.structs.replace(joined, range=modality.range) == modality  # an export may give a range
        return None if is_same else f"joined sensor {joined.title!r}: expected {_facts(joined)}, got {_facts(modality)}"
    if not modality.derived:
        return None
    derivation = modality.derived
    source = derivation.source
    if source.sources or len(derivation.text) > _MOST_TEXT or not 0 < source.rate_hz < math.inf:
        return f"expected the text of a sensor derived from a recorded one, got {derivation.text[:_MOST_TEXT]!r}"
    try:
        expected = _derive_modality(derivation.text, source)
    except UsageError as error:
        return str(error)
    taps = np.frombuffer(derivation.taps, dtype="<f4") if len(derivation.taps) % 4 == 0 else np.zeros(0)
    ours = len(expected.derived.taps) // 4 if expected.derived else 0
    if len(taps) != ours or not np.isfinite(taps).all():
        return f"derived sensor {derivation.text!r}: expected {ours} finite coefficients, got {len(taps)}"
    same = msgspec.structs.replace(expected, derived=derivation, range=modality.range)
    if same != modality or not expected.derived or derivation.samples != expected.derived.samples:
        return f"derived sensor {derivation.text!r}: expected {_facts(expected)}, got {_facts(modality)}"
    return None


def bytes_per_second(modality: ModalitySpec) -> float:
    """Return what a sensor sends: 16 bits a value unless it has fewer, 8 of video."""
    plan = derivation_plan(modality.derived.text, modality.derived.source) if modality.derived else None
    bits = 8 if modality.kind == "video" else 16 if plan is None or plan.bits is None else plan.bits
    return samples_per_second(modality) * math.prod(modality.shape[1:]) * bits / 8


def samples_per_second(modality: ModalitySpec) -> float:
    """Return the samples that a sensor takes, without those between bursts."""
    plan = derivation_plan(modality.derived.text, modality.derived.source) if modality.derived else None
    return modality.rate_hz * (1.0 if plan is None or plan.burst is None else plan.burst[0] / plan.burst[1])


def derive(window: NDArray[Any], modality: ModalitySpec) -> NDArray[Any]:
    """Compute one derived window of a recorded one (T, C); see `derive_batch`."""
    batch: NDArray[Any] = derive_batch(window[None], modality)[0]
    return batch


def derive_batch(values: NDArray[Any], modality: ModalitySpec) -> NDArray[Any]:
    """Compute derived windows of recorded ones: new float32 (B, T, C), NaN = missing; video uint8, masked."""
    derivation = modality.derived
    assert derivation
    plan = derivation_plan(derivation.text, derivation.source)
    values = values[:, values.shape[1] - plan.crop :]
    if modality.kind == "video":
        return _derive_frames(values, plan)
    samples = values[:, :, plan.channels].astype(np.float64)
    samples[~np.isfinite(samples)] = np.nan
    if plan.half:
        samples = _resample(samples, derivation.taps, plan)
    if plan.burst is not None:
        samples[:, np.arange(plan.samples) % plan.burst[1] >= plan.burst[0]] = np.nan
    if plan.range is not None:  # a filter rings beyond it
        low, high = plan.range
        samples = np.clip(samples, low, high)
        if plan.bits is not None:
            step = (high - low) / (2**plan.bits - 1)
            samples = low + np.floor((samples - low) / step + 0.5) * step
    return samples.astype(np.float32)


def _resample(samples: NDArray[np.float64], taps: bytes, plan: DerivationPlan) -> NDArray[np.float64]:
    """Filter and resample (B, T, C). Sums go from the oldest sample on, so a batch has the bits of a single window."""
    present = ~np.isnan(samples)
    is_whole = bool(present.all())
    known = samples if is_whole else np.where(present, samples, 0.0)
    total = np.zeros((len(samples), plan.samples, samples.shape[2]))
    weight = total if is_whole else np.zeros(total.shape)
    inside = np.zeros((plan.samples, 1))
    for sample, factor in _weights(taps, plan.up, plan.down, plan.half, plan.samples, plan.crop):
        inside += factor
        total += factor * known[:, sample]
        if not is_whole:
            weight += factor * present[:, sample]
    if is_whole:
        return np.asarray(total / inside)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight >= 0.5 * inside, total / weight, np.nan)


@lru_cache(maxsize=8)
def _weights(
    taps: bytes, up: int, down: int, half: int, samples: int, crop: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return, from the oldest on, a sample (T,) of each result and its weight (T, 1), 0 outside the window."""
    values = np.frombuffer(taps, dtype="<f4").astype(np.float64)
    places = np.arange(samples) * down  # at `up` times the recorded rate
    steps = []
    for number in range(2 * half // up + 1):
        sample = number - (half - places) // up
        tap = places - sample * up + half
        counts = (sample >= 0) & (sample < crop) & (tap >= 0)
        sample, tap = np.where(counts, sample, 0), np.where(counts, tap, 0)
        steps.append((sample, np.where(counts, values[tap], 0.0)[:, None]))
    return steps


def _derive_frames(values: NDArray[Any], plan: DerivationPlan) -> NDArray[Any]:
    """Take the frame at or before each moment, and average the pixels of each area."""
    taken = np.arange(plan.samples) * plan.down // plan.up
    missing, frames = missing_frames(values)[:, taken], frame_bytes(values)[:, taken]
    if plan.burst is not None:
        missing = missing | (np.arange(plan.samples) % plan.burst[1] >= plan.burst[0])
    if plan.size is not None:
        width, height = plan.size
        rows, columns = _areas(frames.shape[2], height), _areas(frames.shape[3], width)
        means = np.einsum("yh,bthwc->btywc", rows, np.einsum("xw,bthwc->bthxc", columns, frames))
        frames = np.floor(means + (0.5 + 1e-6)).astype(np.uint8)  # a half goes up, whatever its last bits
    return mask_missing(np.ascontiguousarray(frames), missing)


def _areas(pixels: int, fewer: int) -> NDArray[np.float64]:
    """Weights (fewer, pixels) that average the pixels under each new one."""
    edges = np.arange(fewer + 1) * pixels / fewer
    left = np.maximum(edges[:-1, None], np.arange(pixels))
    right = np.minimum(edges[1:, None], np.arange(1, pixels + 1))
    return np.asarray(np.maximum(right - left, 0.0) * fewer / pixels)


def _join_sensors(names: Sequence[str], recorded: Sequence[ModalitySpec]) -> ModalitySpec:
    refuse = partial(_refusal, "+".join(names), what="joined")
    parts = tuple(modality for modality in recorded if modality.name in names)
    known, name = [modality.name for modality in recorded], _AND.join(part.name for part in parts)
    if unknown := [name for name in names if name not in known]:
        raise refuse(f"recorded sensors of {', '.join(known)}", repr(unknown[0]), "name those")
    if len(parts) < max(2, len(names)):
        raise refuse("two sensors or more", ", ".join(names), "name each once")
    if len(name.split(_AND)) > len(parts) or len(name) > _MOST_NAME:
        raise refuse(f"names without {_AND}, of {_MOST_NAME} letters together", name, "rename a sensor")
    facts = [f"{part.kind} of {part.samples} at {part.rate_hz:g} Hz, normalise {part.normalise}" for part in parts]
    if len(set(facts)) > 1 or parts[0].kind != "series":
        got = " and ".join(f"{part.name}, {fact}" for part, fact in zip(parts, facts, strict=True))
        raise refuse("series of one rate, length and normalise", got, "resample one, or train a student of each")
    channels, units = [channel for part in parts for channel in part.channels], {part.unit for part in parts}
    if len(set(channels)) < len(channels):
        channels = [f"{part.name}.{channel}" for part in parts for channel in part.channels]
    ranges = [part.range for part in parts if part.range is not None]
    return msgspec.structs.replace(
        parts[0],
        name=name,
        channels=tuple(channels),
        unit=units.pop() if len(units) == 1 else "",
        range=(min(low for low, _ in ranges), max(high for _, high in ranges)) if len(ranges) == len(parts) else None,
        parts=parts,
    )


@lru_cache(maxsize=256)
def _derive_modality(text: str, source: ModalitySpec) -> ModalitySpec:
    plan, canonical, name = _parse_derivation(text, source)
    size = {} if plan.size is None else {"width": plan.size[0], "height": plan.size[1]}
    coefficients = b""
    if plan.half:  # the filter's at `up` times the recorded rate, the sum `up`
        places = np.arange(-plan.half, plan.half + 1)
        taps = np.sinc(places / max(plan.up, plan.down)) * np.kaiser(len(places), _BETA)
        coefficients = (taps * plan.up / taps.sum()).astype("<f4").tobytes()
    return msgspec.structs.replace(
        source,
        name=name,
        channels=tuple(source.channels[number] for number in plan.channels),
        rate_hz=source.rate_hz * plan.up / plan.down,
        samples=plan.samples,
        derived=Derivation(source=source, text=canonical, samples=plan.crop, taps=coefficients),
        **size,
    )


@lru_cache(maxsize=256)
def derivation_plan(text: str, source: ModalitySpec) -> DerivationPlan:
    """Return the numbers that a text stands for; raise UsageError for a wrong text."""
    return _parse_derivation(text, source)[0]


def _parse_derivation(text: str, source: ModalitySpec) -> tuple[DerivationPlan, str, str]:
    """Return the plan, the canonical text, and the name that graphs and files can have."""
    refuse = partial(_refusal, text)
    match = _TEXT.fullmatch(text)
    if match is None or (match["channels"] is None and match["parts"] is None):
        raise refuse("a text such as acc@25Hz,8bit or acc[ax]@2s", repr(text), "correct it")
    is_video = source.kind == "video"
    parts = _split_parts(match["parts"], refuse)
    for key in ("bits", "range") if is_video else ("size",):
        if key in parts:
            raise refuse(f"no {key} of {source.kind}", parts[key][0], "leave it out")
    channels = _chosen_channels(match["channels"], source, refuse)
    words, crop, samples = list[str](), source.samples, source.samples
    if "window" in parts:
        length_s = float(parts["window"][1]) / (1000 if parts["window"][2] == "ms" else 1)
        crop = round(length_s * source.rate_hz)
        if crop > source.samples:
            raise refuse(f"a window up to the recorded {source.duration_s:g} s", f"{length_s:g} s", "shorten it")
        words.append(f"{_format_number(length_s)}s")
    up = down = 1
    if "rate" in parts:
        rate = float(parts["rate"][1]) * (1000 if parts["rate"][2] == "kHz" else 1)
        up, down = _rate_ratio(rate, source, refuse)
        words.append(f"{_format_number(rate)}{'fps' if is_video else 'Hz'}")
    samples = crop * up // down
    if samples < 2:
        raise refuse("a window of 2 samples or more", str(samples), "raise the rate, or lengthen it")
    size = None
    if "size" in parts:
        size = int(parts["size"][1]), int(parts["size"][2])
        assert isinstance(source.width, int)
        assert isinstance(source.height, int)
        if not (0 < size[0] <= source.width and 0 < size[1] <= source.height):
            raise refuse(f"frames up to the recorded {source.width}x{source.height}", parts["size"][0], "shrink them")
        words.append(f"{size[0]}x{size[1]}")
    burst = None
    if "burst" in parts:
        burst = int(parts["burst"][1]), round(float(parts["burst"][2]) * source.rate_hz * up / down)
        if not 0 < burst[0] < burst[1]:
            got = f"{burst[0]} of {burst[1]} samples"
            raise refuse("bursts of fewer samples than their period has", got, "lengthen it")
        words.append(f"{burst[0]}per{_format_number(float(parts['burst'][2]))}s")
    bits = int(parts["bits"][1]) if "bits" in parts else None
    limits = (-1.0, 1.0) if source.kind == "audio" else source.range
    if bits is not None and not 1 <= bits <= MAX_BITS:
        raise refuse(f"1 to {MAX_BITS} bits", str(bits), "correct them")
    words += [] if bits is None else [f"{bits}bit"]
    if "range" in parts:
        low, high = float(parts["range"][1]), float(parts["range"][2])
        if not low < high or (limits is not None and not limits[0] <= low < high <= limits[1]):
            within = "" if limits is None else f" within the recorded {limits[0]:g} to {limits[1]:g}"
            raise refuse(f"a range LOW..HIGH{within}", f"{low:g}..{high:g}", "correct it")
        limits = low, high
        words.append("..".join(map(_format_number, limits)))
    if bits is not None and limits is None:
        cure = f'add "range" to the dataset\'s {source.name!r}, or one here, as in {source.name}@{bits}bit,-20..20'
        raise refuse(f"a range for {bits} bits to divide", "none", cure)
    half = 0 if is_video or down == 1 else _CROSSINGS * max(up, down)
    chosen = [source.channels[number] for number in channels] if match["channels"] is not None else []
    canonical = source.name + (f"[{','.join(chosen)}]" if chosen else "") + ("@" + ",".join(words) if words else "")
    escaped = [re.sub(r"\.\.", "to", word).replace(".", "p").replace("-", "m") for word in words]
    name = f"{source.name}__" + "_".join(["".join(f"c{number}" for number in channels)] * bool(chosen) + escaped)
    if len(name) > _MOST_NAME:
        raise refuse(f"a name of at most {_MOST_NAME} letters", name, "leave a part out")
    return DerivationPlan(channels, crop, up, down, half, samples, size, burst, bits, limits), canonical, name


def _refusal(text: str, expected: str, got: str, cure: str, *, what: str = "derived") -> UsageError:
    return UsageError(f"{what} sensor {text!r}: expected {expected}, got {got}; {cure}")


def _chosen_channels(text: str | None, source: ModalitySpec, refuse: Any) -> list[int]:
    if text is None:
        return list(range(len(source.channels)))
    names = text.split(",")
    unknown = [name for name in names if name not in source.channels]
    if unknown or len(set(names)) < len(names) or source.kind == "video":
        expected = f"channels of {', '.join(source.channels)}, each once"
        expected = "no channels of video" if source.kind == "video" else expected
        raise refuse(expected, ", ".join(unknown or names) or "none", "correct them")
    return sorted(map(source.channels.index, names))


def _rate_ratio(rate: float, source: ModalitySpec, refuse: Any) -> tuple[int, int]:
    unit = "fps" if source.kind == "video" else "Hz"
    if not 0 < rate <= source.rate_hz:
        raise refuse(f"a rate up to the recorded {source.rate_hz:g} {unit}", f"{rate:g} {unit}", "lower it")
    ratio = Fraction(rate / source.rate_hz).limit_denominator(_MAX_RATIO)
    if abs(float(ratio) * source.rate_hz - rate) > 1e-6 * rate:
        most = f"the recorded {source.rate_hz:g} {unit} divided by up to {_MAX_RATIO}"
        raise refuse(most, f"{rate:g} {unit}", "raise it")
    return ratio.numerator, ratio.denominator


def _split_parts(text: str | None, refuse: Any) -> dict[str, re.Match[str]]:
    parts: dict[str, re.Match[str]] = {}
    for word in [] if text is None else text.split(","):
        matches = [(key, match) for key, pattern in _PARTS.items() if (match := re.fullmatch(pattern, word))]
        if not matches:
            raise refuse("parts such as 25Hz, 2s, 8bit, -20..20, 10per2s, 5fps or 64x48", repr(word), "correct it")
        ((key, match),) = matches
        if key in parts:
            raise refuse(f"one {key}", f"{parts[key][0]} and {word}", "leave one out")
        parts[key] = match
    return parts


def _text_of_name(name: str, source: ModalitySpec) -> str | None:
    channels, words = "", []
    for word in name.removeprefix(f"{source.name}__").split("_"):
        if re.fullmatch(r"(c\d+)+", word):
            numbers = [int(number) for number in re.findall(r"\d+", word)]
            if max(numbers) >= len(source.channels):
                return None
            channels = f"[{','.join(source.channels[number] for number in numbers)}]"
        else:
            plain = re.sub(r"(?<=\d)p(?=\d)", ".", re.sub(r"(?<=\d)to(?=[m\d])", "..", word))
            words.append(re.sub(r"(^|\.\.)m", r"\1-", plain))
    if not all(any(re.fullmatch(pattern, word) for pattern in _PARTS.values()) for word in words):
        return None
    return source.name + channels + ("@" + ",".join(words) if words else "")


def _format_number(number: float) -> str:
    return np.format_float_positional(number, trim="-")


def _facts(modality: ModalitySpec) -> str:
    facts = f"{modality.name!r}, windows {modality.shape} at {modality.rate_hz:g} Hz of {', '.join(modality.channels)}"
    return f"{facts}, of {modality.derived.samples} samples" if modality.derived else facts
