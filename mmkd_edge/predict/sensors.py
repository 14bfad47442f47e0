"""Sensor faults that one window shows; streams find gaps and wrong rates."""

from __future__ import annotations

from numbers import Real
from typing import Any, Literal, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_edge.frames import all_present, frame_bytes, missing_frames
from mmkd_edge.predict.preprocess import channel_rows, within_float32
from mmkd_edge.spec import ModalitySpec

Status = Literal["ok", "warming_up", "degraded", "unknown", "stale", "invalid"]
Failure = Literal["", "engine", "outputs"]

_GRAVITY: dict[Status, int] = {"ok": 0, "degraded": 1, "unknown": 2, "stale": 3, "warming_up": 4, "invalid": 5}


class WindowFault(msgspec.Struct, frozen=True, kw_only=True):
    """A fault: the best status that the window's prediction can have, why, and what failed but sensors."""

    status: Status
    reason: str
    failure: Failure = ""


class SensorChecks(msgspec.Struct, frozen=True, kw_only=True):
    """Faults to look for in every window besides missing values.

    Off by default, since some healthy sensors rest on one value (a switch, a coarse thermometer).

    Attributes:
        flat: a channel with one value is dead; if all are, there is no answer.
        stuck_s: a channel that repeats one value exactly for this long is stuck.
    """

    flat: bool = False
    stuck_s: float | None = None

    @property
    def any(self) -> bool:
        """Whether any check is on."""
        return self.flat or self.stuck_s is not None


def check_checks(checks: SensorChecks, modality: ModalitySpec) -> None:
    """Raise UsageError for anything but `SensorChecks`, or durations that no window can show."""
    if not isinstance(checks, SensorChecks):
        raise UsageError(f"checks: expected a SensorChecks, got {checks!r}; write checks=SensorChecks(flat=True)")
    if not isinstance(checks.flat, bool):
        raise UsageError(f"flat: expected True or False, got {checks.flat!r}; write flat=True to look for it")
    shortest, longest = 1 / modality.rate_hz, modality.duration_s
    is_number = isinstance(checks.stuck_s, Real) and not isinstance(checks.stuck_s, bool)
    if checks.stuck_s is not None and not (is_number and shortest < checks.stuck_s <= longest):
        raise UsageError(
            f"stuck_s: expected more than one sample and at most one window of {modality.name!r}, "
            f"{shortest:g} to {longest:g} s; got {checks.stuck_s!r}"
        )


@overload
def worse(fault: WindowFault, other: WindowFault | None) -> WindowFault: ...
@overload
def worse(fault: WindowFault | None, other: WindowFault | None) -> WindowFault | None: ...
def worse(fault: WindowFault | None, other: WindowFault | None) -> WindowFault | None:
    """Join two faults: the graver status, and both reasons, the graver first."""
    if fault is None or other is None:
        return other if fault is None else fault
    if _GRAVITY[other.status] > _GRAVITY[fault.status]:
        fault, other = other, fault
    failure = fault.failure or other.failure
    return WindowFault(status=fault.status, reason=f"{fault.reason}; {other.reason}", failure=failure)


def find_fault(
    array: NDArray[Any], present: NDArray[np.float32] | None, modality: ModalitySpec, checks: SensorChecks | None
) -> WindowFault | None:
    """Look for faults in a raw window (T, C), NaN = missing; for video in the frames' mean brightness.

    `present` is float32 (1, T, C) from `prepare`, video (1, T, 1); None if nothing is missing.
    """
    if checks is None:
        return None
    if modality.kind == "video":
        present = all_present(modality.presence_shape) if present is None else present
        means, present = channel_rows(frame_bytes(array)[None], present)
        array = np.where(missing_frames(array)[:, None], np.float32(np.nan), means[0])
    fault = _find_flat(array, modality) if checks.flat else None
    if fault is None and checks.stuck_s is not None:
        fault = _find_stuck(array, modality, max(2, round(checks.stuck_s * modality.rate_hz)))
    return fault


def missing_causes(array: NDArray[np.float32], modality: ModalitySpec) -> str:
    """Describe values that were sent but count as missing: `: 3 infinite, 40 outside -16 to 16`."""
    infinite, outside = int(np.isinf(array).sum()), 0
    if modality.range is not None:
        low, high = within_float32(*modality.range)
        outside = int((((array < low) | (array > high)) & np.isfinite(array)).sum())
    parts = [f"{infinite} infinite"] if infinite else []
    if modality.range is not None and outside:
        parts.append(f"{outside} outside {modality.range[0]:g} to {modality.range[1]:g}")
    return f": {', '.join(parts)}" if parts else ""


def _find_flat(array: NDArray[np.float32], modality: ModalitySpec) -> WindowFault | None:
    low = np.fmin.reduce(array, axis=0)  # (C,), NaN if a channel is missing
    flat = low == np.fmax.reduce(array, axis=0)
    if not flat.any():
        return None
    if flat.all():
        return WindowFault(status="invalid", reason="every channel is flat: the sensor is dead")
    value = float(low[int(flat.argmax())])
    return WindowFault(status="degraded", reason=f"channel {_names(modality, flat)} is flat at {value:g}")


def _find_stuck(array: NDArray[np.float32], modality: ModalitySpec, shortest: int) -> WindowFault | None:
    runs = _longest_runs(array[1:] == array[:-1]) + 1  # samples; NaN equals nothing
    stuck = runs >= shortest
    if not stuck.any():
        return None
    longest_s = int(runs[stuck].max()) / modality.rate_hz
    status: Status = "invalid" if stuck.all() and int(runs.min()) == len(array) else "degraded"
    reason = f"channel {_names(modality, stuck)} repeated one value for {longest_s:g} s"
    return WindowFault(status=status, reason=reason)


def _longest_runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(C,) per column of a mask (T, C)."""
    samples, channels = mask.shape
    ends = np.ones((channels, samples + 1), dtype=bool)  # a column for the end of the channel
    np.logical_not(mask.T, out=ends[:, :-1])
    places = np.flatnonzero(ends)
    runs = np.diff(places, prepend=-1) - 1  # the True before each end; no run crosses channels
    starts = np.searchsorted(places, np.arange(channels) * (samples + 1))
    return np.maximum.reduceat(runs, starts)


def _names(modality: ModalitySpec, chosen: NDArray[np.bool_]) -> str:
    return ", ".join(repr(name) for name, yes in zip(modality.channels, chosen.tolist(), strict=True) if yes)
